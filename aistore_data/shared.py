"""A manifest in shared memory: the workers of a DataLoader see it, and none has a copy."""

import torch

from aistore_data.manifest import Manifest


class SharedManifest(Manifest):
    """A manifest whose arrays are the memory of shared ``tensors``: names, offsets, labels and sizes.

    It pickles as these tensors, of which another process gets the same memory.
    """

    def __init__(self, tensors: tuple[torch.Tensor, ...], classes: tuple[str, ...]) -> None:
        names, offsets, labels, sizes = (tensor.numpy() for tensor in tensors)
        super().__init__(names, offsets, labels, sizes, classes)
        self._tensors = tensors

    def __reduce__(self) -> tuple[type, tuple[tuple[torch.Tensor, ...], tuple[str, ...]]]:
        return SharedManifest, (self._tensors, self.classes)


def share(manifest: Manifest) -> SharedManifest:
    """A copy of ``manifest`` in shared memory that has no name, and so is gone with the last process that sees it."""
    arrays = (manifest.names, manifest.offsets, manifest.labels, manifest.sizes)
    tensors = tuple(torch.tensor(array).share_memory_() for array in arrays)  # type: ignore[no-untyped-call]
    return SharedManifest(tensors, manifest.classes)
