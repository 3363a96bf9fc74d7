"""From a run to an export and to predictions: what the validation of the run counted is what comes out in the end."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision

from scripts.export.__main__ import main as export
from scripts.predict import main as predict
from tests.conftest import TINY, Result
from training.model.trained import open_trained


def test_predictions_of_an_export_are_those_that_the_validation_counted(
    train: Callable[..., Result], small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(f"data.root={small_folder}", *TINY, "optim.lr=0.05", "train.ema_decay=0.5", "train.ema_every=1")
    assert result.code == 0, result.output
    for which in ("raw", "ema"):
        file = f"{which}.safetensors"
        assert export([str(result.run_dir), "--weights", which, "--format", "safetensors", "--out", file]) == 0
        output = capsys.readouterr().out
        assert "top-1 equal for 15 of 15, on photos of the run's validation split" in output
        source = open_trained(Path(file)).provenance
        assert source.acc1 is not None and source.val_samples == 15 and source.finished
        assert f"acc@1 {source.acc1:.2f} %" in output
        environment = json.loads((result.run_dir / "environment.json").read_text())
        assert source.run_id == environment["id"]
        assert source.data_sha256["val"] == environment["data"]["val"]["sha256"]

        assert predict([file, str(small_folder / "val"), "--json"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        right = sum(line["top"][0]["class"] == Path(line["photo"]).parent.name for line in lines)
        assert 100 * right / len(lines) == pytest.approx(source.acc1)
    card = Path("raw.safetensors.md").read_text()
    [command] = re.findall(r"^```\n(python train.py data.root=DATA.*?)^```", card, re.MULTILINE | re.DOTALL)
    again = train(f"data.root={small_folder}", *command.replace("\\\n", " ").split()[3:], "data.workers=0", "threads=1")
    assert again.summary()["state_sha256"] == result.summary()["state_sha256"]


def test_a_run_that_keeps_the_outputs_of_its_weights_is_exported_with_them(
    train: Callable[..., Result], small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "seven.pt"
    torch.save(torchvision.models.shufflenet_v2_x0_5(num_classes=7).state_dict(), weights)
    words = [f"data.root={small_folder}", *TINY, "model.name=shufflenet_v2_x0_5", f"model.weights={weights}"]
    result = train(*words, "model.head=keep", "train.epochs=1")
    assert result.code == 0, result.output
    trained = open_trained(result.run_dir)
    assert (trained.num_classes, trained.classes) == (7, ("cat", "dog", "eel"))
    assert export([str(result.run_dir), "--format", "safetensors", "--out", "kept.safetensors"]) == 0
    assert open_trained(Path("kept.safetensors")).num_classes == 7
    capsys.readouterr()
    assert predict(["kept.safetensors", str(small_folder / "val" / "cat"), "--json"]) == 0
    top = json.loads(capsys.readouterr().out.splitlines()[0])["top"]
    assert len(top) == 5
    best = f"model.weights={result.run_dir}/checkpoints/best.pt"
    evaluated = train(*words[:-1], best, "mode=evaluate", "model.head=keep", "run_dir=other")
    assert evaluated.code == 0, evaluated.output
