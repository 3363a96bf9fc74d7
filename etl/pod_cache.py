"""The decoded photos that an ETL keeps on its storage node, where its environment says so.

The photos of files alone are kept, which a storage node names for the objects that it holds: a body may be anybody's.
A file's content is known by its place, inode, size and times, so the file itself is not read for a sample of a photo
that is kept.
"""

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from etl.decoded_cache import CacheError, DecodedCache
from etl.decoded_sample import file_key, is_settled, keep, sample_from_cache
from etl.files import is_of_aistore
from etl.request import At, Request

GB_VARIABLE, FOLDER_VARIABLE = "IMAGENET_AIS_CACHE_GB", "IMAGENET_AIS_CACHE_DIR"


class PodCache:
    """The cache of a pod, in ``folder``, or in the one for temporary files if that is ""; or why it has none."""

    def __init__(self, folder: str, gb: float) -> None:
        self._cache: DecodedCache | None = None
        self._problem = ""
        try:
            cache = DecodedCache(folder or tempfile.gettempdir(), int(gb * 1e9))
            cache.require_room()
            self._cache = cache
        except (CacheError, OSError) as error:  # OSError: there is no folder for temporary files
            self._problem = str(error)

    @classmethod
    def of_environment(cls) -> "PodCache | None":
        """As the pod's environment has it; None where it says nothing. Raises ValueError for what is no number."""
        text = os.environ.get(GB_VARIABLE, "")
        if not text:
            return None
        try:
            gb = float(text)
        except ValueError:
            gb = 0.0
        if not 0 < gb < 1e9:
            raise ValueError(f"{GB_VARIABLE}={text!r} is not a number of GB above 0")
        return cls(os.environ.get(FOLDER_VARIABLE, ""), gb)

    @property
    def keeps_more(self) -> bool:
        """Whether there may be room for another photo."""
        return self._cache is not None and not self._cache.full

    def key(self, file: str, at: At | None = None) -> bytes | None:
        """What tells the file's content, or what lies ``at`` a place in it, from any other.

        None where that cannot be told, or nothing is kept.

        AIStore writes each version of an object to a new file, and changes the inode whenever it notes that an object
        was read. So changes of the inode count for other files alone.
        """
        if self._cache is None:
            return None
        try:
            status = Path(file).stat()
        except (OSError, ValueError):  # told by whoever reads it
            return None
        changes = not is_of_aistore(file)
        told = stat.S_ISREG(status.st_mode) and is_settled(status, changes)
        return file_key(f"{file}:{at[0]}" if at else file, status, changes) if told else None

    def sample(self, key: bytes, request: Request, wait: bool = True) -> np.ndarray | None:
        """The pixels that are asked for; None where the photo is not kept. ``wait`` as in ``DecodedCache.rows``."""
        size = request.spec.size
        out = np.empty((size, size, 3), np.uint8)
        if self._cache is None or not sample_from_cache(self._cache, key, request.spec, request.key, out, wait):
            return None
        self._cache.count_hit()
        return out

    def keep(self, file: str, key: bytes, content: bytes, at: At | None = None) -> None:
        """Keep a photo, if its file still has the ``key`` that it had before it was read."""
        if self._cache is not None and not self._cache.full and self.key(file, at) == key:
            keep(self._cache, key, content)

    def facts(self) -> dict[str, Any]:
        """For ``wire=info``: of all processes that share the cache, ever."""
        if self._cache is None:
            return {"problem": self._problem}
        cache = self._cache
        numbers = {"photos": cache.photos, "bytes": cache.size, "limit": cache.limit, "hits": cache.hits}
        return {**numbers, "problem": cache.problem}
