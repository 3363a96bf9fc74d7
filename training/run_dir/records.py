"""The run directory: what a run writes about itself. Rank 0 alone writes."""

import dataclasses
import errno
import io
import json
import os
import re
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from sources.errors import ConfigError, UserError
from sources.lease import LOCK_PREFIX, FolderLease
from sources.substitutes import Substitution
from sources.text import shell_word
from training.config.files import load_file
from training.config.options import flatten, literal
from training.config.schema import Config
from training.processes.preemption import defer_signals
from training.report.answered import sheet
from training.report.board import Board, NoBoard
from training.report.loggers import PHOTOS, About, Loggers
from training.report.metrics import Metrics, Validation
from training.run_dir import files
from training.run_dir.plain_yaml import dump

if TYPE_CHECKING:
    from training.run_dir.mirror import Mirror, Position


class RunDirectory(AbstractContextManager["RunDirectory"]):
    """Appends metrics, writes the records, and mirrors figures to TensorBoard. Close it when done."""

    def __init__(
        self,
        config: Config,
        lock: FolderLease,
        step: int = 0,
        mirror: "Mirror | None" = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """Open ``config.run_dir``, which ``claim`` has approved; resume=never empties it. Raises UserError.

        ``step``: how many steps of the run are done; what TensorBoard has of later ones is replaced. ``mirror``: where
        the directory is mirrored, which must be open before a checkpoint is. ``say`` tells a person what other loggers
        fail of.
        """
        self.path = Path(config.run_dir)
        self.checkpoints = self.path / "checkpoints"
        self.lock = lock
        self._mirror = mirror
        self._log, self._say = config.log, say
        self._mixes = config.train.mixes
        with _writing(self.path):
            if config.resume == "never":
                files.remove(self.path, files.ENTRIES)
            former = files.read_object(self.path / "environment.json")
            self.attempt = int(former.get("attempt", 0)) + 1
            self.id = str(former.get("id", uuid.uuid4().hex))
            files.remove(self.path, ["PREEMPTED", "summary.json", *files.OF_EVALUATIONS])
            _write(self.path / "config.yaml", config_yaml(config))
            self._former = _kinds_at(self.path / "metrics.jsonl", step)
            self._metrics = _open_lines(self.path / "metrics.jsonl")
            self._stream = files.open_own(self.path / "stream.bin", os.O_RDWR | os.O_CREAT, "r+b")
        options = flatten(dataclasses.asdict(config))
        board = self.path / "tensorboard"
        self._board = Board(board, options, step + 1 if step else 0) if config.log.tensorboard else NoBoard()
        self._loggers = Loggers(config.log, About(self.id, self.path, options), say)

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._metrics.close()
        self._stream.close()
        self._loggers.close(int(kind is not None))
        with _writing(self.path / "tensorboard"), defer_signals():
            self._board.close()

    def environment(self, content: dict[str, Any], changes: list[dict[str, Any]]) -> None:
        """Write environment.json: what the run ran on, on which data, and the changes that were allowed on the way."""
        whole = content | {"changes": changes, "id": self.id, "attempt": self.attempt}
        _write(self.path / "environment.json", json.dumps(whole, indent=2) + "\n")

    def metric(self, kind: str, epoch: int, step: int, metrics: Metrics, **speed: float) -> None:
        """Append a line to metrics.jsonl; the same figures go to TensorBoard and other loggers under ``kind/``."""
        values = {"loss": metrics.loss, "acc1": metrics.acc1, "acc5": metrics.acc5, **speed}
        line: dict[str, Any] = {"kind": kind, "epoch": epoch, "step": step, **values}
        if metrics.fingerprint:
            line["fingerprint"] = metrics.fingerprint
        if self._mixes and kind != "val_epoch":
            line["acc_counts"] = "own label"
        line |= {"attempt": self.attempt, "time": time.time()}
        with _writing(self.path / "metrics.jsonl"):
            _write_all(self._metrics, json.dumps(line).encode() + b"\n")
        if (kind, step) not in self._former:
            with _writing(self.path / "tensorboard"), defer_signals():
                self._board.scalars(kind, values, step)
                if kind != "train_step":
                    self._board.flush()  # what a run that goes on repeats is left out, and so must not be lost
        self._loggers.send(kind, step, values)

    def validation(self, epoch: int, step: int, tally: Validation) -> None:
        """Append the line of a validation to metrics.jsonl; its photos go to TensorBoard and other loggers."""
        speed = {"img_per_s": tally.img_per_s, "data_wait": tally.data_wait}
        speed |= {} if tally.mean_ap is None else {"mean_ap": tally.mean_ap}
        self.metric("val_epoch", epoch, step, tally.metrics, **speed, **tally.ema_figures)
        with _writing(self.path / "tensorboard"), defer_signals():
            if tally.photos and ("val_epoch", step) not in self._former:
                self._board.picture(PHOTOS, sheet(tally.photos), step)
            self._board.flush()
        if tally.photos:
            self._loggers.show(step, tally.photos)

    def images(self, tag: str, images: torch.Tensor, step: int) -> None:
        """A grid of images float [n, 3, H, W] in [0, 1], on any device, for TensorBoard."""
        with _writing(self.path / "tensorboard"), defer_signals():
            self._board.images(tag, images, step)

    def stream(self, position: int, codes: torch.Tensor) -> None:
        """Write the codes uint8 [samples, 2] of the samples from ``position`` on, counted from the run's first one."""
        with _writing(self.path / "stream.bin"):
            self._stream.seek(position * codes.shape[1])
            _write_all(self._stream, codes.numpy().tobytes())

    def replaced(self, cases: Iterable[Substitution]) -> None:
        """Append a line to replaced.jsonl for each sample in whose place another one was taken."""
        lines = [json.dumps(case._asdict() | {"attempt": self.attempt}).encode() + b"\n" for case in cases]
        path, flags = self.path / "replaced.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with _writing(path), files.open_own(path, flags, "ab") as file:
            _write_all(file, b"".join(lines))

    def trace(self, export: Callable[[str], None]) -> None:
        """Write profile/trace.json.gz, which ``export`` writes to the path that it is given."""
        path = self.path / "profile" / "trace.json.gz"
        temporary = path.with_name("new.json.gz")
        with _writing(path):
            path.parent.mkdir(exist_ok=True)
            temporary.unlink(missing_ok=True)
            export(str(temporary))
            temporary.replace(path)

    def summary(self, **values: Any) -> None:
        """Write summary.json."""
        _write(self.path / "summary.json", json.dumps(values, indent=2) + "\n")

    def table(self, name: str, content: bytes) -> None:
        """Write one of ``files.OF_EVALUATIONS``."""
        assert name in files.OF_EVALUATIONS
        _write(self.path / name, content)

    def report(self) -> bool:
        """Write report.html, if it is wanted; whether it is written. What goes wrong is said, and ends nothing."""
        if not self._log.report:
            return False
        from training.report.page import plots, run_page

        try:
            _write(self.path / files.REPORT, run_page.page([self.path]))
        except Exception as error:
            again = f"python -m scripts.report {shell_word(str(self.path))}"
            self._say(f"warning: {files.REPORT} was not written ({type(error).__name__}: {error}); {again} tries again")
            return False
        if "log.report=true" in sys.argv and not plots.has_bokeh():
            self._say(f"log.report=true: {plots.HOW_TO_INSTALL}")
        return True

    def preempted(self) -> None:
        """Leave the mark of a run that was stopped with its state saved."""
        _write(self.path / "PREEMPTED", f"stopped on request {time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n")

    def mirror(self, position: "Position", *, last: bool = False) -> None:
        """Hand the directory over to its mirror, if it has one, as it is at ``position``; raises as ``Mirror.push``.

        TensorBoard's file then has all figures so far, with a mirror or without. ``last``: wait until the directory is
        there; raises as ``Mirror.finish``.
        """
        with _writing(self.path / "tensorboard"), defer_signals():
            self._board.flush()  # writes what it holds back
        if not self._mirror:
            return
        if last:
            self._mirror.finish(position)
        else:
            self._mirror.push(position)


class NoRecords:
    """The records of a rank other than 0: it has the methods of ``RunDirectory``, and they do nothing."""

    def __getattr__(self, name: str) -> Any:
        if not callable(getattr(RunDirectory, name, None)):
            raise AttributeError(f"the records of a rank other than 0 have no {name}")
        return lambda *_, **__: None


Records: TypeAlias = RunDirectory | NoRecords


def claim(config: Config) -> None:
    """Make ``config.run_dir``, or check that it is empty or one of ours. Raises ConfigError."""
    try:
        Path(config.run_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(config, error) from None
    require_ours(config)


def require_ours(config: Config) -> None:
    """Raise ConfigError if ``config.run_dir`` holds anything but a run of this trainer that may be gone on with."""
    path = Path(config.run_dir)
    try:
        there = path.iterdir() if path.exists() else ()
        entries = {entry.name for entry in there if not entry.name.startswith(LOCK_PREFIX)}
    except OSError as error:
        raise _not_writable(config, error) from None
    before_the_first_start = {"config.yaml.tmp", files.FETCHED, *files.OF_JOBS}
    if entries - before_the_first_start and not files.is_run_directory(path):
        raise ConfigError(
            f"run_dir={path} holds files, but no run of this trainer (a config.yaml of ours): choose another run_dir."
        )
    if config.mode == "evaluate" and (path / "checkpoints").exists():
        raise ConfigError(
            f"run_dir={path} holds a training run, which an evaluation must not replace: choose another run_dir."
        )


def _not_writable(config: Config, error: OSError) -> ConfigError:
    return ConfigError(f"run_dir={config.run_dir} cannot be written to: {error.strerror}. Choose another run_dir.")


def recorded(path: Path) -> dict[str, Any] | None:
    """The "config" and "environment" of the run in a directory, if it was begun and both can be read."""
    try:
        environment = json.loads((path / "environment.json").read_text(encoding="utf-8"))
        content = load_file(path / "config.yaml")
        if not files.is_run_directory(path) or not (path / "checkpoints").exists():
            return None
    except (OSError, ValueError, ConfigError):
        return None
    names = [item.name for item in dataclasses.fields(Config)]
    return {"config": {name: content[name] for name in names if name in content}, "environment": environment}


def _open_lines(path: Path) -> io.FileIO:
    """A file to append lines to, unbuffered; half a line that a killed run may have left is cut off."""
    if path.exists() and not path.is_symlink():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    return files.open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, "ab")


def _kinds_at(path: Path, step: int) -> set[tuple[str, int]]:
    """(kind, step) of what a former attempt has recorded at the step from which the run goes on."""
    if step == 0 or not path.exists() or path.is_symlink():
        return set()
    lines = re.findall(rb'^\{"kind": "(\w+)", "epoch": \d+, "step": %d, .*\}$' % step, path.read_bytes(), re.MULTILINE)
    return {(kind.decode(), step) for kind in lines}


def _write_all(file: io.FileIO, content: bytes) -> None:
    """Write without a buffer, so that nothing is left for a later failure. Raises OSError where a disk is full."""
    if file.write(content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def config_yaml(config: Config) -> str:
    """The whole configuration, in a form that ``train.py --config-path`` takes."""
    header = {
        "defaults": ["/schema", "_self_", *({f"override /hydra/{kind}_logging": "none"} for kind in ("job", "hydra"))],
        "hydra": {"run": {"dir": "."}, "output_subdir": None},
    }
    return f"{files.MARK}: {rerun_command(config)}\n" + dump([header | literal(dataclasses.asdict(config))])


def rerun_command(config: Config) -> str:
    """The command that repeats a run in a new directory, and without its mirror; a shell reads it as it is."""
    absolute = os.path.isabs(config.run_dir)
    path = shlex.quote(config.run_dir) if absolute else f'"$PWD"/{shlex.quote(config.run_dir)}'
    mirror = " run_mirror=" if config.run_mirror else ""
    return f"python train.py --config-path {path} --config-name config run_dir=NEW{mirror}"


def _write(path: Path, content: str | bytes) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    with _writing(path), files.open_new(temporary) as file:
        _write_all(file, content.encode() if isinstance(content, str) else content)
        temporary.replace(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}. Make room or repair the disk, and start the same "
            "command again: it goes on from the last checkpoint."
        ) from None
