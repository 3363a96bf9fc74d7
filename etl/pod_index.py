"""The JPEG index that the pod of an ETL keeps, of the files that its storage node names for the objects that it holds.

Entries have the files' paths as names: no other object has them, and an entry is bound to the file's content besides.
A body may be anybody's, and gets none.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from etl.jpeg_index import VERSION, IndexFileError, JpegIndex, can_use
from etl.sample import native

INDEX_VARIABLE = "IMAGENET_AIS_INDEX"
"""Environment variable of a pod that keeps no JPEG index when it is 0."""

NAME = f"imagenet-ais-jpeg-index-{VERSION}"
"""Of the file in the pod's folder for temporary files, with the user's number; pods that share the folder share it."""

_PHOTOS, _MOST_BYTES = 1 << 21, 1 << 31
"""Objects that there is room for, and bytes of the file: ImageNet takes 1.2 GB, and what is replaced adds to it."""


def open_pod_index(warn: Callable[[str], None]) -> JpegIndex | None:
    """That of this pod, whose processes share it; None where there is none, and ``warn`` hears of faults."""
    if os.environ.get(INDEX_VARIABLE) == "0" or not can_use(native()):
        return None
    path = Path(tempfile.gettempdir(), f"{NAME}-{os.geteuid()}")
    try:
        index = JpegIndex(str(path), _PHOTOS, _MOST_BYTES)
        status = path.lstat()
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise IndexFileError(f"{path} belongs to somebody else, or others may write to it: remove it")
    except (OSError, IndexFileError) as error:
        warn(f"no JPEG index is kept, and crops take longer to decode: {error}")
        return None
    index.on_problem = lambda why: warn(f"no more entries are written to the JPEG index {path}: {why}")
    return index
