"""Buckets and folders as PyTorch data sets: manifests, readers, ETL life cycle, upload, an embedded AIStore."""

from typing import Any

import sources  # noqa: F401  # says so where this is not Linux

__all__ = ["ImageDataset"]


def __getattr__(name: str) -> Any:
    """``ImageDataset`` when it is first asked for: a folder needs none of what it imports."""
    if name == "ImageDataset":
        from aistore_data.dataset.image_dataset import ImageDataset

        return ImageDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
