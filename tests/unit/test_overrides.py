"""Values arrive as people type them, whatever Hydra's grammar makes of their characters, and commands paste back."""

import dataclasses
import pwd
import runpy
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir

from aistore_data.client.access import Access
from aistore_data.dataset.policy import SamplePolicy
from etl import Spec
from scripts.submit import resolve
from sources.errors import ConfigError, DataError
from sources.text import shell_word, visible
from tests.conftest import PROJECT
from training.config.compose import EXPECTED_ERRORS, check, explain, register
from training.config.data_options import DataConfig
from training.config.options import flatten
from training.config.overrides import PATHS, names_of, quote_overrides
from training.config.schema import Config
from training.report.console import Console
from training.run_dir.records import config_yaml, rerun_command

STRINGS = names_of(str, Config)

VALUES = [
    *(f"/data/a{character}b" for character in "()[]{};&!^<>'\"=#,:%$@*? \t\\|~`+"),
    *(f"/data/a{character}" for character in "()[]{};&!^<>'\"=#,:%$@*?\\"),
    *("(1)", "[a]", "{a: b}", "a,b", "'", '"', "=", "#", ",", "\\", "$", "a\\,b", 'a\\"b', "a${b", "${"),
    *("/数据/图片", "/données/été", "/📷/👩\u200d🔬", "/фото", "/data/שלום"),
    *("true", "False", "007", "1e3", "1_000", "-1", "nan", "inf", "0x10", "2026-11-28", "1:30", "off", "~", "yes"),
    *(" leading", "trailing ", "a  b", "str(1)", "choice(a,b)", 'say "hello"', "it's", "100%", "key: value", "- a"),
]
"""Each is given to each string option."""

SHORT = (
    "/data/a(b",
    "/data/a=b",
    "/data/a,b",
    "/data/a'b",
    '/data/a"',
    "/data/a\tb",
    "\\",
    "a${b",
    "/📷/👩\u200d🔬",
    "1e3",
    "~",
)
"""Those that are tried always."""


def typed(words: list[str], *, folder: Path = PROJECT / "conf", sweep: bool | None = None) -> Config:
    register()
    with initialize_config_dir(str(folder), version_base="1.3"):
        return check(compose("config", overrides=quote_overrides(words, sweep)))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the checks of values against the lists of what an option takes."""
    monkeypatch.setattr(Config, "check", lambda _: None)
    home = pwd.getpwuid(0).pw_dir
    monkeypatch.setenv("HOME", home)


def paste(commands: list[str], cwd: Path) -> list[list[str]]:
    """What a real shell makes of each command: the words after ``python``."""
    script = "python() { printf '%s\\0' \"$@\"; printf '\\n\\0'; }\n" + "\n".join(commands)
    output = subprocess.run(["sh", "-c", script], cwd=cwd, capture_output=True, check=True).stdout.decode()
    words: list[list[str]] = [[]]
    for word in output.split("\0")[:-1]:
        if word == "\n":
            words.append([])
        else:
            words[-1].append(word)
    return words[:-1]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "value",
    [pytest.param(value, marks=[] if value in SHORT else pytest.mark.long, id=ascii(value)) for value in VALUES],
)
def test_every_string_option_takes_a_value_as_it_was_typed(value: str, tmp_path: Path) -> None:
    config = typed([f"{name}={value}" for name in sorted(STRINGS)])
    found = flatten(dataclasses.asdict(config))
    expected = dict.fromkeys(STRINGS, value)
    if value == "~":
        expected |= dict.fromkeys(PATHS, pwd.getpwuid(0).pw_dir)
    assert {name: found[name] for name in STRINGS} == expected
    # What is recorded says the same, and a configuration file is not quoted again.
    (tmp_path / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
    assert typed([], folder=tmp_path) == config


@pytest.fixture
def train_cli(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], tuple[int, list[Config]]]:
    """train.py with the words of a command line, and the configurations that it would have run."""

    def call(words: list[str]) -> tuple[int, list[Config]]:
        configs: list[Config] = []
        monkeypatch.setattr("training.run.run", lambda config: configs.append(config) or 0)
        monkeypatch.setattr("training.loader.workers.start_worker_server", lambda _: None)
        monkeypatch.setattr("sys.argv", ["train.py", *words])
        for name in (
            "report.output.never_fail",
            "processes.preemption.silence",
        ):  # they are for a process that ends with the program
            monkeypatch.setattr(f"training.{name}", lambda: None)
        interrupt = signal.getsignal(signal.SIGINT)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(PROJECT / "train.py"), run_name="__main__")
        signal.signal(signal.SIGINT, interrupt)
        assert isinstance(ended.value.code, int)
        return ended.value.code, configs

    return call


def test_the_printed_command_pastes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_cli: Callable[[list[str]], tuple[int, list[Config]]]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [value.strip("/").replace("/", "-") for value in VALUES if value != "~"]
    runs = [name if relative else str(tmp_path / name) for name in names for relative in (False, True)]
    configs = [Config(run_dir=run, data=DataConfig(root=f"/photos/{run}")) for run in runs]
    commands = [rerun_command(config) for config in configs]
    pasted = paste(commands, tmp_path)
    assert [Path(words[2]) for words in pasted] == [tmp_path / run for run in runs]
    assert {(*words[:2], *words[3:]) for words in pasted} == {
        ("train.py", "--config-path", "--config-name", "config", "run_dir=NEW")
    }
    for number in range(0, len(runs), 29):
        config, words = configs[number], pasted[number]
        Path(words[2]).mkdir()
        (Path(words[2]) / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
        assert config_yaml(config).splitlines()[0].endswith(commands[number])
        config.run_dir = "NEW"
        assert train_cli(words[1:]) == (0, [config])


def test_the_command_line_of_a_person_reaches_the_run(
    tmp_path: Path, train_cli: Callable[[list[str]], tuple[int, list[Config]]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, (config,) = train_cli(
        ["data.root=/my photos (1), été", f"run_dir={tmp_path}/a=b#c", "data.bucket=ais://#n/b"]
    )
    assert (code, config.data.root, config.run_dir) == (0, "/my photos (1), été", f"{tmp_path}/a=b#c")
    assert config.data.bucket == "ais://#n/b"
    code, configs = train_cli(["-m", "data.root=/a b,/c;d", "seed=1,2", f"run_dir={tmp_path}/x y"])
    assert (code, [c.data.root for c in configs]) == (0, ["/a b"] * 2 + ["/c;d"] * 2)
    assert [c.run_dir for c in configs] == [f"{tmp_path}/x y-{number}" for number in range(4)]
    code, configs = train_cli(["data.root=/a\nb"])
    assert (code, configs) == (2, []) and "data.root=/a\\x0ab holds a line end" in capsys.readouterr().err


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    root = pwd.getpwuid(0)
    for value, expected in (
        ("~/imagenet", "/home/me/imagenet"),
        ('"~/imagenet"', "/home/me/imagenet"),
        ("'~/x y'", "/home/me/x y"),
        ("~", "/home/me"),
        (f"~{root.pw_name}/x", f"{root.pw_dir}/x"),
        ("./~/x", "./~/x"),
    ):
        config = typed(["data=synthetic", "mode=evaluate", *(f"{name}={value}" for name in PATHS)])
        found = flatten(dataclasses.asdict(config))
        assert {name: found[name] for name in PATHS} == dict.fromkeys(PATHS, expected)
    with pytest.raises(ConfigError, match=r"run_dir=~nobody-of-that-name/x: .* is \./~nobody-of-that-name/x"):
        typed(["data=synthetic", "run_dir=~nobody-of-that-name/x"])


@pytest.mark.parametrize(
    "character", ["\n", "\r", "\x1b", "\x00", "\x85", "\u2028", "\x7f", "\udcff", "\u202e"], ids=ascii
)
def test_a_line_end_is_refused_with_a_sentence(character: str) -> None:
    with pytest.raises(ConfigError, match="data.root=.*holds a line end or another character") as raised:
        typed([f"data.root=/data/a{character}b"])
    assert raised.value.exit_code == 2 and len(str(raised.value).splitlines()) == 1 and str(raised.value).isprintable()


def test_commas_and_functions_are_a_sweep_with_multirun_alone() -> None:
    words = ["data.root=/my data (1),/other", "seed=0,1", 'run_dir="a,b"']
    assert quote_overrides([*words, "-m"]) == [
        'data.root="/my data (1)",/other',
        "seed=0,1",
        'run_dir="a,b"',
        "-m",
    ]
    assert quote_overrides(["model.name=choice(resnet18,resnet50)", "--multirun"])[0].endswith(
        "choice(resnet18,resnet50)"
    )
    configs = resolve(
        ["data=synthetic", "model.name=resnet18,resnet50", "seed=0,1", "run_dir=/r/a b", "data.root=/x,/y (1)"], True
    )
    assert [config.model.name for config in configs] == ["resnet18"] * 4 + ["resnet50"] * 4
    assert [config.seed for config in configs] == [0, 0, 1, 1] * 2
    assert {config.data.root for config in configs} == {"/x", "/y (1)"}
    assert len({config.run_dir for config in configs}) == 8 and all(c.run_dir.startswith("/r/a b-") for c in configs)
    with pytest.raises(ConfigError, match="add --multirun"):
        typed(["data=synthetic", "data.transform=etl,client"])


def test_values_of_other_options_and_lists_keep_their_meaning() -> None:
    config = typed(["data=synthetic", "run_dir=runs/${model.name}-${seed}", "model.name=alexnet", "seed=3"])
    assert config.run_dir == "runs/alexnet-3"
    config = typed(["data=synthetic", "data.etl.dependencies=[numpy==1.26.4, pillow==11.0]", "data.scale=[0.1,1]"])
    assert config.data.etl.dependencies == ["numpy==1.26.4", "pillow==11.0"] and config.data.scale == [0.1, 1]
    words = ["data=synthetic", "submit.setup=[. venv/bin/activate; module load a=b,'x, y']", "submit.mem=a (b"]
    [job] = resolve(words, multirun=False)
    assert job.submit.mem == "a (b" and job.submit.setup == [". venv/bin/activate; module load a=b", "x, y"]
    assert typed(["data=synthetic", "++data.root=/a b", "++run_dir=/c (d)"]).data.root == "/a b"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optim.lr=0.1;", "optim.lr takes a value such as 0.1, not '0.1;'"),
        ("train.epochs=90)", "train.epochs takes a value such as 90, not '90)'"),
        ("run_dir=${HOME}/x", "run_dir: ${…} in a value stands for the value of another option, which cannot be found"),
        ("resnet50", "'resnet50' is not of the form name=value"),
        ("lr=0.1;", "there is no option lr: did you mean optim.lr"),
    ],
)
def test_what_hydra_cannot_read_is_named(word: str, expected: str) -> None:
    with pytest.raises((ConfigError, *EXPECTED_ERRORS)) as raised:
        typed(["data=synthetic", word])
    message = str(raised.value) if isinstance(raised.value, ConfigError) else explain(raised.value)
    assert expected in message and len(message.splitlines()) == 1


def test_names_do_nothing_to_a_terminal_and_paste_into_a_shell() -> None:
    assert visible("a\x1b[31mb\rc\u202ed") == "a\\x1b[31mb\\x0dc\\u202ed"
    assert visible("été 数据 👩\u200d🔬 a\u00a0b\tc\n") == "été 数据 👩\u200d🔬 a\u00a0b\tc\n"
    for name in ("$(touch x)", "a'b", "a b", "`id`", "été", "\x1b[31m'\\x", "a\nb", "-", "\udcff"):
        word = shell_word(name)
        assert visible(word, keep="") == word
        output = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
        assert output.decode("utf-8", "surrogateescape") == name
        assert name.isprintable() is False or word == shlex.quote(name)


def test_what_is_printed_does_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(enabled=True)
    console.say("photo \x1b[2J\x07.jpg, été")
    console.progress("\x1b]0;title\x07")
    assert capsys.readouterr().out == "photo \\x1b[2J\\x07.jpg, été\n\\x1b]0;title\\x07\n"
    assert str(ConfigError("no folder \x1b[31mred\nand more")) == "no folder \\x1b[31mred\nand more"


@pytest.mark.parametrize(
    "name", ["train/$(touch x)/a b.jpg", "train/`id`'.jpg", "train/\x1b[31m.jpg", "train/;rm -rf.jpg"]
)
def test_the_command_that_looks_at_an_object_can_be_pasted(name: str) -> None:
    access, manifest = Access("http://ais:8080"), SimpleNamespace(name=lambda _: name)
    remote = SimpleNamespace(
        replace=False, uri="ais://b", access=access, manifest=manifest, locate=lambda _: f"ais://b/{name}"
    )
    asking = SimpleNamespace(remote=remote, spec=Spec.val())
    with pytest.raises(DataError, match="Look at it with: ais get") as raised:
        SamplePolicy._substitute(asking, SimpleNamespace(source_index=0), "is no image")  # type: ignore[arg-type]
    command = str(raised.value).partition("Look at it with: ")[2].partition(" - | file -")[0]
    script = f'ais() {{ printf %s "$2"; }}; {command}'
    output = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.decode()
    assert output == f"ais://b/{name}" and command.isprintable()
