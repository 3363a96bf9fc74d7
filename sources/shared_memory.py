"""Memory that several processes see: without a name, so that it is gone with the last of them, however that ends."""

import mmap
import os
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sources.manifest import ARRAYS, Manifest

_ALIGNMENT = 64


class SharedMemory:
    """``size`` bytes of zeros, in ``buffer``. A process that is started with it, or given it, sees the same bytes.

    Not in /dev/shm, which is 64 MB in a container unless somebody has thought of it.
    """

    def __init__(self, size: int, duplicate: Any = None) -> None:
        """``duplicate``: of the descriptor of another process, from which this object came."""
        self.size = size
        self._fd = duplicate.detach() if duplicate else os.memfd_create("imagenet-ais")
        os.ftruncate(self._fd, size)
        self.buffer = mmap.mmap(self._fd, size)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)  # the arrays made of the buffer keep that alive

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedMemory, (self.size, reduction.DupFd(self._fd))  # type: ignore[attr-defined]


class SharedManifest(Manifest):
    """A manifest whose arrays lie in ``memory``, one after the other; the workers of a DataLoader have no copies.

    They do not have ``sets``, as they hand over labels alone.
    """

    def __init__(
        self,
        memory: SharedMemory,
        layout: list[tuple[str, int]],
        classes: tuple[str, ...],
        sets: NDArray[np.bool_] | None = None,
    ) -> None:
        arrays: list[NDArray[Any]] = []
        at = 0
        for dtype, length in layout:
            arrays.append(np.ndarray(length, dtype, memory.buffer, at))
            at += _rounded(arrays[-1].nbytes)
        super().__init__(**dict(zip(ARRAYS, arrays, strict=True)), classes=classes, sets=sets)
        self._parts = memory, layout, classes

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedManifest, self._parts


def share(manifest: Manifest) -> SharedManifest:
    """A copy of ``manifest`` in shared memory."""
    arrays = [getattr(manifest, name) for name in ARRAYS]
    memory = SharedMemory(sum(_rounded(array.nbytes) for array in arrays) or 1)
    copy = SharedManifest(memory, [(array.dtype.str, len(array)) for array in arrays], manifest.classes, manifest.sets)
    for name, array in zip(ARRAYS, arrays, strict=True):
        getattr(copy, name)[:] = array
    return copy


def _rounded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
