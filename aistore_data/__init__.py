"""Buckets and folders as PyTorch data sets: manifests, readers, ETL life cycle, upload, an embedded AIStore."""

import sys
from typing import Any

__all__ = ["ImageDataset"]

if sys.platform != "linux":  # before epoll, memory without a name and signals of threads are asked for
    sys.exit(
        f"error: imagenet-ais runs on Linux alone, and this is {sys.platform}: use a Linux machine, WSL or a container."
    )


def __getattr__(name: str) -> Any:
    """``ImageDataset`` when it is first asked for: a folder needs none of what it imports."""
    if name == "ImageDataset":
        from aistore_data.dataset import ImageDataset

        return ImageDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
