"""Loggers beside a run's own records: they go on with it, get each figure once, and never stop it."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sources.errors import ConfigError
from sources.lease import FolderLease
from tests.conftest import TINY, Result
from training.config.log_options import LogConfig
from training.config.schema import Config
from training.report import loggers
from training.report.answered import Answered
from training.report.loggers import About, Figures, Loggers, Photos
from training.report.metrics import Metrics
from training.run_dir.records import RunDirectory, claim


class Heard:
    """A service that remembers what it is told; ``fails`` names the method that raises."""

    told: ClassVar[list[Any]] = []
    fails = ""

    def __init__(self, config: LogConfig) -> None:
        pass

    def begin(self, about: About, former: str) -> str:
        self._tell("begin", former)
        return former or f"run of {about.folder.name}"

    def send(self, figures: Figures) -> None:
        self._tell("send", (figures.kind, figures.step))

    def show(self, photos: Photos) -> None:
        self._tell("show", (photos.kind, photos.step, len(photos.photos)))

    def end(self, exit_code: int) -> None:
        self._tell("end", exit_code)

    def _tell(self, method: str, what: Any) -> None:
        if self.fails == method:
            raise ConnectionError("the server is gone\nand more")
        self.told.append((method, what))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Heard]]:
    class Fresh(Heard):
        told: ClassVar[list[Any]] = []

    monkeypatch.setattr(Loggers, "KINDS", {"wandb": Fresh, "mlflow": Fresh})
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: True)
    yield Fresh


def attempt(folder: Path, steps: list[int], config: LogConfig | None = None, photos: int = 0) -> list[str]:
    """An attempt of a run that records these steps, and so many photos at each; what it has said."""
    said: list[str] = []
    told = Loggers(config or LogConfig(mlflow="here"), About("id", folder, {"seed": 0}), said.append)
    for step in steps:
        told.send("train_step", step, {"loss": 1.0})
        if photos:
            told.show(step, [Answered(np.zeros((32, 32, 3), np.uint8), "cat", "dog", 0.5, right=False)] * photos)
    told.close(0)
    return said


def test_a_run_goes_on_in_the_same_one_without_repeated_points(tmp_path: Path, heard: type[Heard]) -> None:
    assert attempt(tmp_path, [1, 2, 3]) == []
    assert attempt(tmp_path, [2, 3, 4]) == []  # from a checkpoint after step 1
    name = f"run of {tmp_path.name}"
    first = [("begin", ""), *(("send", ("train_step", step)) for step in (1, 2, 3)), ("end", 0)]
    assert heard.told == [*first, ("begin", name), ("send", ("train_step", 4)), ("end", 0)]
    kept = json.loads((tmp_path / "loggers.json").read_text())
    assert kept == {"mlflow": {"run": name, "train_step": 4}}


@pytest.mark.parametrize("method", ["begin", "send", "end"])
def test_a_logger_that_fails_is_a_sentence(
    method: str, tmp_path: Path, heard: type[Heard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heard, "fails", method)
    expected = "warning: log.mlflow failed, and the run goes on without it: ConnectionError: the server is gone"
    assert attempt(tmp_path, [1, 2]) == [expected]


def test_two_loggers_are_apart(tmp_path: Path, heard: type[Heard]) -> None:
    assert attempt(tmp_path, [1], LogConfig(wandb="offline", mlflow="here")) == []
    assert sorted(json.loads((tmp_path / "loggers.json").read_text())) == ["mlflow", "wandb"]


def test_a_logger_that_hangs_is_left(tmp_path: Path, heard: type[Heard], monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(loggers, "CLOSE_S", 0.01)
    monkeypatch.setattr(heard, "send", lambda self, figures: released.wait())
    monkeypatch.setattr(loggers, "_WAITING", 2)
    said = attempt(tmp_path, [1, 2, 3, 4, 5, 6])
    released.set()
    assert said[0] == "warning: log.mlflow has not taken all figures within 0 s: the run ends now"
    assert "was too slow" in said[1]


def test_no_logger_writes_nothing(tmp_path: Path) -> None:
    assert attempt(tmp_path, [1], LogConfig()) == [] and list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_a_sentence_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="log.wandb=offline needs wandb, which is not installed: pip install wandb"):
        loggers.require_loggers(LogConfig(wandb="offline"))
    loggers.require_loggers(LogConfig())


def test_a_run_whose_logger_fails_ends_as_any_other(
    train: Any, small_folder: Path, heard: type[Heard], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Result = train(f"data.root={small_folder}", *TINY, "run_dir=plain")
    monkeypatch.setattr(heard, "fails", "begin")
    done: Result = train(f"data.root={small_folder}", *TINY, "log.wandb=online")
    assert done.code == 0 and "warning: log.wandb failed, and the run goes on without it" in done.output
    assert done.summary()["state_sha256"] == plain.summary()["state_sha256"]


def test_a_run_tells_its_loggers_what_metrics_jsonl_has(train: Any, small_folder: Path, heard: type[Heard]) -> None:
    done: Result = train(f"data.root={small_folder}", *TINY, "log.mlflow=here")
    assert done.code == 0
    kinds = ("train_step", "train_epoch", "val_epoch")
    lines = {(kind, line["step"]) for kind in kinds for line in done.metrics(kind)}
    assert {what for method, what in heard.told if method == "send"} == lines
    assert [what for method, what in heard.told if method == "show"] == [("val_photos", step, 8) for step in (3, 6)]
    assert heard.told[-1] == ("end", 0)


def test_wandb_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is in the extra loggers")
    monkeypatch.setattr(loggers, "CLOSE_S", 120.0)
    rows, shown = [], []
    log = wandb.Run.log

    def record(run: Any, row: dict[str, Any]) -> None:
        if "val_photos" in row:
            shown.append((row["step"], [image._caption for image in row["val_photos"]]))
        else:
            rows.append((run.id, row["step"], row["train_step/loss"]))
        log(run, row)

    monkeypatch.setattr(wandb.Run, "log", record)
    for steps in ([1, 2], [2, 3]):
        assert attempt(tmp_path, steps, LogConfig(wandb="offline"), photos=2) == []
    assert [step for step, captions in shown] == [1, 2, 3]
    assert shown[0][1] == ["true: cat, predicted: dog (0.50)"] * 2
    assert rows == [("id", step, 1.0) for step in (1, 2, 3)]
    written = list(tmp_path.glob("wandb/offline-run-*/run-id.wandb"))
    assert written and all(b"train_step/loss" in file.read_bytes() for file in written)
    assert json.loads((tmp_path / "loggers.json").read_text()) == {
        "wandb": {"run": "id", "train_step": 3, "val_photos": 3}
    }


def test_mlflow_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is in the extra loggers")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(loggers, "CLOSE_S", 120.0)
    place = f"file://{tmp_path}/store"
    for steps in ([1, 2], [2, 3]):
        assert attempt(tmp_path, steps, LogConfig(mlflow=place), photos=2) == []
    run = json.loads((tmp_path / "loggers.json").read_text())["mlflow"]["run"]
    client = mlflow.MlflowClient(place)
    assert [metric.step for metric in client.get_metric_history(run, "train_step/loss")] == [1, 2, 3]
    found = client.get_run(run)
    pictures = [file.path for file in client.list_artifacts(run, "val_photos")]
    assert sorted(pictures) == [f"val_photos/{step}.png" for step in (1, 2, 3)]
    assert found.info.status == "FINISHED" and found.data.params == {"seed": "0"}


def test_tensorboard_has_the_options_as_hyperparameters(tmp_path: Path) -> None:
    config = Config(run_dir=str(tmp_path / "run"), seed=7)
    claim(config)
    with RunDirectory(config, FolderLease(tmp_path / "run", "run_dir", print)) as records:
        records.metric("val_epoch", 0, 1, Metrics(1.0, 50.0, 100.0, 4))
    board = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    tags = [tag for tag in board.summary_metadata if tag.startswith("_hparams_")]
    assert tags == ["_hparams_/experiment", "_hparams_/session_start_info"]
    assert b"optim.lr" in board.summary_metadata[tags[1]].plugin_data.content
    assert [path.is_dir() for path in (tmp_path / "run/tensorboard").iterdir()] == [False]
