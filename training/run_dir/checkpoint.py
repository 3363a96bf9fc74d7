"""Checkpoints: written whole or not at all, readable by ``torch.load(weights_only=True)``.

``last.pt`` is the newest, ``best.pt`` that of the best acc@1, ``epoch-0007.pt`` those kept of former epochs. All are
whole states: the model's names are torchvision's, and "epoch" and "batches_done" are the position to go on from.
"""

import hashlib
import io
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sources.errors import UserError
from training.report.output import put
from training.run_dir import torch_files
from training.run_dir.files import open_new
from training.state import checkpoint_contents
from training.state.checkpoint_contents import KEYS

_OURS = re.compile(r"collections OrderedDict|torch (Size|\w+Storage)|torch\._utils _rebuild_tensor_v2")
"""What the values of a checkpoint of ours are made of besides plain ones."""


def save(folder: Path, state: dict[str, Any], also: Sequence[str] = ()) -> Path:
    """Write ``last.pt`` atomically: write, fsync, rename, fsync the folder. Raises UserError and keeps the former one.

    The names in ``also`` get the same content, without another copy and before ``last.pt``: who is killed in between
    goes on from the former ``last.pt`` and makes them again.
    """
    path, temporary = folder / "last.pt", folder / "last.pt.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_new(temporary) as raw, io.BufferedWriter(raw) as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        for name in also:
            _link(temporary, folder / name)
        temporary.replace(path)
        sync(folder)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError | RuntimeError):  # torch's zip writer raises the latter over any error
            raise
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UserError(
            f"the checkpoint {path} could not be written: {getattr(cause, 'strerror', None) or cause}. "
            f"{'The former one is untouched' if path.exists() else 'There is no former one'}; "
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
        with open_new(temporary) as raw, open(path, "rb") as whole, io.BufferedWriter(raw) as file:
            shutil.copyfileobj(whole, file)
    temporary.replace(target)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint of a run and its content; None if there is none.

    Unreadable ones are named on the way. Raises UserError if there are checkpoints and none of them can be read.
    """
    last = folder / "last.pt"
    others = [*sorted(folder.glob("epoch-*.pt")), folder / "best.pt"]
    if state := _told(last):
        return last, state
    positions = [(position, path) for path in others if (position := _position(path))]
    for _, path in sorted(positions, reverse=True):
        if state := _told(path):
            return path, state
    if any(path.exists() for path in [last, *others]):
        raise UserError(f"no checkpoint in {folder} can be read: restore one, or start over with resume=never.")
    return None


def newest_position(folder: Path) -> tuple[int, int] | None:
    """(epoch, batches done) of the readable checkpoint that goes furthest; None if there is none."""
    return max((position for path in folder.glob("*.pt") if (position := _position(path))), default=None)


def _told(path: Path, mmap: bool = False) -> dict[str, Any] | None:
    """A checkpoint; None, and a sentence, if it is damaged; None if there is none."""
    if not path.exists():
        return None
    try:
        return _read(path, mmap)
    except UserError as error:
        put(str(error))
        return None


def _position(path: Path) -> tuple[int, int] | None:
    state = _told(path, mmap=True)  # the tensors are left in the file
    return (state["epoch"], state["batches_done"]) if state else None


def load(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, on the CPU, as this version would have written it.

    Raises UserError if it is missing, of a newer version or something else, or if a bit of it is not as it was written.
    """
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist: resume takes auto, never or a checkpoint's path.")
    return _read(path)


def _read(path: Path, mmap: bool = False) -> dict[str, Any]:
    try:
        if not torch_files.is_archive(path):
            raise _not_ours(path)
        if damage := torch_files.damage(path):
            raise UserError(f"the checkpoint {path} is damaged: {damage}.{_others(path)}")
        foreign = [name for name in sorted(torch_files.pickled_names(path)) if not _OURS.fullmatch(name)]
        if foreign:
            raise _not_ours(path, f": it holds {foreign[0].replace(' ', '.')}")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise UserError(f"the checkpoint {path} cannot be read: {error.strerror or error}.") from None
    except UserError:
        raise
    except Exception:  # torch.load raises whatever its zip and pickle readers do
        raise UserError(
            f"the checkpoint {path} is damaged or not a checkpoint: torch cannot read it.{_others(path)}"
        ) from None
    if not isinstance(state, dict) or not all(key in state for key in KEYS):
        raise _not_ours(path, f" (it needs {', '.join(KEYS)})")
    try:
        checkpoint_contents.check_format(state)
        state = checkpoint_contents.migrated(state)
        checkpoint_contents.check(state)
    except ValueError as error:
        raise UserError(f"the checkpoint {path} cannot be resumed: {error}.{_others(path)}") from None
    return state


def _not_ours(path: Path, why: str = "") -> UserError:
    return UserError(
        f"{path} is not a checkpoint of this trainer{why}: to start from its weights alone, give it as model.weights."
    )


def _others(path: Path) -> str:
    """What else there is to go on from, as a sentence."""
    names = sorted(other.name for other in path.parent.glob("*.pt") if other != path)
    return f" Restore it, or go on from another one by resume=PATH; beside it: {', '.join(names)}." if names else ""


def state_sha256(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over a state dict: for each name in sorted order its name, dtype, shape and C-order bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Have a file, or what a folder lists, on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
