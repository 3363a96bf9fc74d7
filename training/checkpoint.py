"""Checkpoints: written whole or not at all, readable by ``torch.load(weights_only=True)``.

``last.pt`` is the newest, ``best.pt`` that of the best acc@1, ``epoch-0007.pt`` those kept of former epochs. All are
whole states: the model's names are torchvision's, and "epoch" and "batches_done" are the position to go on from.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aistore_data.errors import UserError
from training.output import put

KEYS = ("model", "optimizer", "schedule", "epoch", "batches_done", "best_acc1", "config", "environment")


def save(folder: Path, state: dict[str, Any], also: Sequence[str] = ()) -> Path:
    """Write ``last.pt`` atomically: write, fsync, rename, fsync the folder. Raises UserError and keeps the former one.

    The names in ``also`` get the same content, without another copy and before ``last.pt``: who is killed in between
    goes on from the former ``last.pt`` and makes them again.
    """
    path, temporary = folder / "last.pt", folder / "last.pt.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        for name in also:
            _link(temporary, folder / name)
        temporary.replace(path)
        _sync_folder(folder)
    except (
        OSError,
        RuntimeError,
    ) as error:  # torch's zip writer raises RuntimeError over the OSError of a failed write
        temporary.unlink(missing_ok=True)
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UserError(
            f"the checkpoint {path} could not be written: {getattr(cause, 'strerror', None) or cause}. "
            f"{'The former one is untouched' if path.exists() else 'There is none yet'}; "
            "make room or choose another run_dir, and start the same command again."
        ) from None
    return path


def epoch_name(epoch: int) -> str:
    """The file that keeps the end of epoch ``epoch``."""
    return f"epoch-{epoch:04d}.pt"


def keep_last_epochs(folder: Path, keep: int) -> None:
    """Remove all but the last ``keep`` files of former epochs."""
    for old in sorted(folder.glob("epoch-*.pt"))[: -keep or None]:
        old.unlink()


def _link(path: Path, target: Path) -> None:
    temporary = target.with_name(f"{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(path)
    except OSError:  # a file system without hard links
        temporary.write_bytes(path.read_bytes())
    temporary.replace(target)


def newest(folder: Path) -> Path | None:
    """The newest readable checkpoint of a run, or None if there is none; unreadable ones are named on the way.

    Raises UserError if there are checkpoints and none of them can be read.
    """
    last = folder / "last.pt"
    others = [*folder.glob("epoch-*.pt"), folder / "best.pt"]
    if _position(last):
        return last
    found = [(position, path) for path in others if (position := _position(path))]
    if found:
        return max(found)[1]
    if any(path.exists() for path in [last, *others]):
        raise UserError(f"no checkpoint in {folder} can be read: restore one, or start over with resume=never.")
    return None


def newest_position(folder: Path) -> tuple[int, int] | None:
    """(epoch, batches done) of the readable checkpoint that goes furthest; None if there is none."""
    return max((position for path in folder.glob("*.pt") if (position := _position(path))), default=None)


def _position(path: Path) -> tuple[int, int] | None:
    """(epoch, batches done) of a checkpoint; None, and a sentence, if it is damaged; None if there is none."""
    if not path.exists():
        return None
    try:
        state = load(path)
    except UserError as error:
        put(str(error))
        return None
    return state["epoch"], state["batches_done"]


def load(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, on the CPU. Raises UserError if it is missing, damaged or something else."""
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist: resume takes auto, never or a checkpoint's path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its zip and pickle readers do
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"the checkpoint {path} is damaged or not a checkpoint: {reason}") from None
    if not isinstance(state, dict) or not all(key in state for key in KEYS):
        raise UserError(
            f"{path} is not a checkpoint of this trainer (it needs {', '.join(KEYS)}): "
            "to start from its weights alone, give it as model.weights."
        )
    return state


def state_sha256(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over a state dict: for each name in sorted order its name, dtype, shape and C-order bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
