"""No secret gets into what is recorded, and no sentence about it repeats it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from scripts import submit
from scripts.submission import Submission
from sources.errors import ConfigError
from training.config.recorded import check_texts
from training.config.schema import Config

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl"
TOKEN = "s3cret-of-this-environment"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", TOKEN)
    monkeypatch.delenv("AIS_AUTHN_TOKEN_FILE", raising=False)


def places(config: Any, prefix: str = "") -> list[tuple[Any, str, str]]:
    """(holder, field, name) of every option of text or of a list of texts."""
    found = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            found += places(value, f"{prefix}{item.name}.")
        elif isinstance(value, str) or item.type == list[str]:
            found.append((config, item.name, prefix + item.name))
    return found


@pytest.mark.parametrize("secret", [TOKEN, JWT, f"{TOKEN}\x1b", "http://me:pass-word@ais:51080"])
def test_a_secret_in_any_option_is_refused(secret: str) -> None:
    assert len(places(Submission())) > 50
    for number, (_, _, name) in enumerate(places(Submission())):
        config = Submission()
        holder, field, _ = places(config)[number]
        text = f"ais://a/{secret}/b" if "://" not in secret else secret
        setattr(holder, field, ["echo", text] if isinstance(getattr(holder, field), list) else text)
        with pytest.raises(ConfigError, match=f"^{name} holds a") as raised:
            config.check()
        assert secret not in str(raised.value) and raised.value.exit_code == 2


def test_a_token_of_a_file_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIS_AUTHN_TOKEN")
    path = tmp_path / "token"
    path.write_text(json.dumps({"token": TOKEN}))
    check_texts(Config(run_dir=f"runs/{TOKEN}"))
    monkeypatch.setenv("AIS_AUTHN_TOKEN_FILE", str(path))
    with pytest.raises(ConfigError, match="run_dir holds a token"):
        check_texts(Config(run_dir=f"runs/{TOKEN}"))
    path.write_text("no token")
    check_texts(Config(run_dir=f"runs/{TOKEN}"))


@pytest.mark.parametrize(
    "line",
    [
        "export AIS_AUTHN_TOKEN=abc",
        "export AIS_AUTHN_TOKEN=$(cat /home/me/ais.token)",
        "AIS_AUTHN_TOKEN=abc",
        "A=B AIS_AUTHN_TOKEN=x true",
        "export A=1 HF_TOKEN='abc'",
        "declare -x WANDB_API_KEY=0123456789",
        "export AWS_SECRET_ACCESS_KEY=abc; true",
        "module load cuda\nexport MY_PASSWORD=abc",
        "export token=abc",
        "setenv X y; login --token abc",
        "login --password=abc",
        "curl -H 'Authorization: Bearer abc' http://x/",
        "--export=ALL,AIS_AUTHN_TOKEN=abc",
    ],
)
@pytest.mark.parametrize("name", ["setup", "extra"])
def test_a_secret_that_a_command_sets_is_refused(name: str, line: str) -> None:
    config = Submission()
    setattr(config.submit, name, ["module load cuda", line])
    with pytest.raises(ConfigError, match=f"^submit.{name} (sets|holds) .*a file that you alone can read") as raised:
        check_texts(config)
    assert "abc" not in str(raised.value) and "0123" not in str(raised.value)


@pytest.mark.parametrize(
    "line",
    [
        "export AIS_AUTHN_TOKEN_FILE=/home/me/ais.token",
        "export WANDB_API_KEY=$(cat /home/me/key)",
        'export HF_TOKEN="$HF_TOKEN"',
        "export HF_TOKEN_PATH=/home/me/token",
        "export TOKENIZERS_PARALLELISM=false",
        'test "$TOKEN" == x',
        "export NCCL_IB_HCA=mlx5\nexport PATH=/opt/bin:$PATH",
        "\t. .venv/bin/activate",
        "--reservation=token",
    ],
)
def test_what_holds_no_secret_is_taken(line: str) -> None:
    config = Submission()
    config.submit.setup = [line]
    check_texts(config)


def test_the_environment_does_not_get_into_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["slurm", "--dry-run", "data.root=/data", "submit.account=${oc.env:AIS_AUTHN_TOKEN}"]
    assert submit.main(words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ${oc.env:…} is not taken") and TOKEN not in out + err
