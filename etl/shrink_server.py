"""``etl.shrink`` as an ETL, for a transform from bucket to bucket."""

import os
from typing import Any

from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer

from etl.files import own_files_only, read
from etl.limits import Limits
from etl.shrink import QUALITY_VARIABLE, SIDE_VARIABLE, shrink


class ShrinkETL(FastAPIServer):
    """Answers an object with a smaller photo, or as it is; side and quality by the pod's environment."""

    app: Any

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits.of_environment()
        self.app = own_files_only(self.app)
        self.side, self.quality = int(os.environ[SIDE_VARIABLE]), int(os.environ[QUALITY_VARIABLE])

    def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
        """The object's bytes, or the path of its file, to bytes."""
        if isinstance(data, str):
            data = read(data, self.limits.object_bytes)
        if not data:  # AIS loses the object where its name holds ? or #
            raise ValueError(f"{path} has come without its bytes")
        return shrink(data, self.side, self.quality)
