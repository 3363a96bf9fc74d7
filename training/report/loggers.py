"""Loggers that people already have, W&B and MLflow, fed by the records of a run.

Each works in a thread of its own, so that a server that is slow or gone costs training nothing, and what it raises ends
the logger alone. ``loggers.json`` in the run directory keeps the name of the logger's run and how far it has come: a
run that goes on continues in the same one, and sends no figure twice.
"""

import importlib
import importlib.util
import json
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from sources.errors import ConfigError
from training.config.log_options import LogConfig
from training.report.answered import Answered, sheet
from training.run_dir import files

CLOSE_S = 20.0
"""Seconds in which a logger can send the rest when the run ends."""

_WAITING = 10_000
"""Records that may wait for a logger; what is beyond is left out."""

_PROJECT = "imagenet-ais"

PHOTOS = "val_photos"
"""What loggers call the photos of validations."""


class Figures(NamedTuple):
    """A record: what metrics.jsonl has in a line."""

    kind: str
    step: int
    values: Mapping[str, float]
    time: float


class Photos(NamedTuple):
    """A few photos of a validation, with the model's answers."""

    kind: str
    step: int
    photos: Sequence[Answered]


@dataclass(frozen=True)
class About:
    """What a logger is told of a run: its id, its folder, and its options by their dotted names."""

    run: str
    folder: Path
    options: Mapping[str, Any]


class Service(Protocol):
    """What a logger is for ``Logger``; every method may raise anything, and may take long."""

    def begin(self, about: About, former: str) -> str:
        """Begin a run, or go on with the one that ``former`` names; the name to go on with."""

    def send(self, figures: Figures) -> None:
        """Send a record."""

    def show(self, photos: Photos) -> None:
        """Send photos."""

    def end(self, exit_code: int) -> None:
        """Send what is left, and close the run."""


class Wandb:
    """Weights & Biases. Each record has its own row with the step in it, so that rows need no order."""

    def __init__(self, config: LogConfig) -> None:
        self._mode = config.wandb
        self._run: Any = None

    def begin(self, about: About, former: str) -> str:
        """See ``Service``; the run's id is its name there, too."""
        wandb: Any = importlib.import_module("wandb")
        self._run = wandb.init(
            project=_PROJECT,
            id=former or about.run,
            name=about.folder.name,
            dir=str(about.folder),
            mode=self._mode,
            resume="allow" if self._mode == "online" else None,
            config=dict(about.options),
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )
        self._run.define_metric("*", step_metric="step")
        return former or about.run

    def send(self, figures: Figures) -> None:
        """See ``Service``."""
        self._run.log({"step": figures.step} | {f"{figures.kind}/{name}": v for name, v in figures.values.items()})

    def show(self, photos: Photos) -> None:
        """See ``Service``."""
        wandb: Any = importlib.import_module("wandb")
        images = [wandb.Image(one.photo, caption=one.caption) for one in photos.photos]
        self._run.log({"step": photos.step, photos.kind: images})

    def end(self, exit_code: int) -> None:
        """See ``Service``."""
        self._run.finish(exit_code=exit_code)


class Mlflow:
    """MLflow, by its client alone: nothing global is set."""

    def __init__(self, config: LogConfig) -> None:
        self._uri = config.mlflow
        self._client: Any = None
        self._run = ""

    def begin(self, about: About, former: str) -> str:
        """See ``Service``; the name is what the server calls the run."""
        mlflow: Any = importlib.import_module("mlflow")
        self._client, self._run = mlflow.MlflowClient(self._uri), former
        if former:
            self._client.update_run(former, status="RUNNING")
            return former
        experiment = self._client.get_experiment_by_name(_PROJECT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(_PROJECT)
        self._run = self._client.create_run(number, run_name=about.folder.name, tags={"run": about.run}).info.run_id
        parameter: Any = importlib.import_module("mlflow.entities").Param
        texts = [parameter(name, str(value)[:500]) for name, value in about.options.items()]
        for first in range(0, len(texts), 100):  # the most that a request may have
            self._client.log_batch(self._run, params=texts[first : first + 100])
        return self._run

    def send(self, figures: Figures) -> None:
        """See ``Service``."""
        metric: Any = importlib.import_module("mlflow.entities").Metric
        at = round(1000 * figures.time)
        values = [metric(f"{figures.kind}/{name}", value, at, figures.step) for name, value in figures.values.items()]
        self._client.log_batch(self._run, metrics=values)

    def show(self, photos: Photos) -> None:
        """See ``Service``; all of them are one picture."""
        self._client.log_image(self._run, sheet(photos.photos), f"{photos.kind}/{photos.step}.png")

    def end(self, exit_code: int) -> None:
        """See ``Service``."""
        self._client.set_terminated(self._run, "FAILED" if exit_code else "FINISHED")


class Logger:
    """A service in a thread of its own; nothing that it does or raises reaches the run, but for a sentence."""

    def __init__(self, name: str, service: Service, about: About, memory: "Memory", say: Callable[[str], None]) -> None:
        self._name, self._service, self._about, self._memory, self._say = name, service, about, memory, say
        self._waiting: queue.Queue[Figures | Photos | int] = queue.Queue(_WAITING)
        self._left_out = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"log.{name}", daemon=True)
        self._thread.start()

    def send(self, record: Figures | Photos) -> None:
        """Hand a record over; never waits."""
        if self._ended.is_set():
            return
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._left_out += 1

    def close(self, exit_code: int) -> None:
        """Wait until everything is sent, though not for long."""
        if not self._ended.is_set():
            try:
                self._waiting.put(exit_code, timeout=1.0)
            except queue.Full:
                self._left_out += 1
            self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            self._say(f"warning: log.{self._name} has not taken all figures within {CLOSE_S:.0f} s: the run ends now")
        if self._left_out:
            self._say(f"warning: log.{self._name} was too slow, and {self._left_out:,} records were left out")

    def _work(self) -> None:
        try:
            self._memory.begun(self._name, self._service.begin(self._about, self._memory.run(self._name)))
            while not isinstance(record := self._waiting.get(), int):
                if record.step > self._memory.step(self._name, record.kind):
                    if isinstance(record, Figures):
                        self._service.send(record)
                    else:
                        self._service.show(record)
                    self._memory.sent(self._name, record.kind, record.step)
            self._service.end(record)
        except Exception as error:
            said = str(error).strip().splitlines()
            self._say(
                f"warning: log.{self._name} failed, and the run goes on without it: {type(error).__name__}"
                f"{f': {said[0]}' if said else ''}"
            )
        finally:
            self._ended.set()


class Memory:
    """``loggers.json``: for each logger the name of its run, and the last step of each kind that it was sent."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / files.LOGGERS
        self._lock = threading.Lock()
        self._content = files.read_object(self._path)

    def run(self, name: str) -> str:
        """The name of the logger's run; "" if none was begun."""
        return str(self._of(name).get("run", ""))

    def step(self, name: str, kind: str) -> float:
        """The last step that was sent; before every step if none was."""
        return float(self._of(name).get(kind, -math.inf))

    def begun(self, name: str, run: str) -> None:
        """Remember the name of the logger's run. Raises OSError."""
        self._keep(name, "run", run)

    def sent(self, name: str, kind: str, step: int) -> None:
        """Remember that a step was sent. Raises OSError."""
        self._keep(name, kind, step)

    def _of(self, name: str) -> dict[str, Any]:
        found = self._content.get(name)
        return found if isinstance(found, dict) else {}

    def _keep(self, name: str, key: str, value: Any) -> None:
        with self._lock:
            self._content[name] = self._of(name) | {key: value}
            temporary = self._path.with_name(f"{self._path.name}.tmp")
            with files.open_new(temporary) as file:
                file.write(json.dumps(self._content).encode())
            temporary.replace(self._path)


class Loggers:
    """All loggers that the options name; they begin with the first record."""

    KINDS: ClassVar[dict[str, Callable[[LogConfig], Service]]] = {"wandb": Wandb, "mlflow": Mlflow}

    def __init__(self, config: LogConfig, about: About, say: Callable[[str], None]) -> None:
        self._config, self._about, self._say = config, about, say
        self._started: list[Logger] | None = None

    def send(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Hand a record to all of them; never waits, and never raises."""
        self._send(Figures(kind, step, dict(values), time.time()))

    def show(self, step: int, photos: Sequence[Answered]) -> None:
        """Hand photos of a validation to all of them, as ``send`` does."""
        self._send(Photos(PHOTOS, step, photos))

    def _send(self, record: Figures | Photos) -> None:
        if self._started is None:
            names, memory = wanted(self._config), Memory(self._about.folder)
            services = {name: self.KINDS[name](self._config) for name in names}
            self._started = [Logger(name, services[name], self._about, memory, self._say) for name in names]
        for logger in self._started:
            logger.send(record)

    def close(self, exit_code: int) -> None:
        """Let them send what is left; ``exit_code`` is 0 for a run that was not ended by an error."""
        for logger in self._started or ():
            logger.close(exit_code)


def wanted(config: LogConfig) -> list[str]:
    """The names of the loggers that the options ask for."""
    return [*(["wandb"] if config.wandb != "off" else []), *(["mlflow"] if config.mlflow else [])]


def require_loggers(config: LogConfig) -> None:
    """Raise ConfigError for a logger whose package is not installed here."""
    for name in wanted(config):
        if importlib.util.find_spec(name) is None:
            value = getattr(config, name)
            raise ConfigError(
                f"log.{name}={value} needs {name}, which is not installed: pip install {name}, or leave it out."
            )
