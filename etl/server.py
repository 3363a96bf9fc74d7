"""The two ETLs: ``etl.sample`` behind the web server of the AIStore SDK.

``TrainETL`` and ``ValETL`` travel by cloudpickle (``client.etl(NAME).init_class(...)(TrainETL)``) to a cluster where no
file of this project exists: ``ship_by_value`` makes cloudpickle take the code along instead of its name.
"""

from typing import Any, Literal

import cloudpickle
from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer
from fastapi import HTTPException

import etl
from etl.request import BadRequest, answer, parse
from etl.sample import CorruptSample


class ImageETL(FastAPIServer):
    """Answers a PUT of an object (its bytes, or its path with ``direct_file_access``) with one sample."""

    recipe: Literal["train", "val"]

    def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
        """One sample. ``path`` differs by transport, so nothing depends on it."""
        request = parse(etl_args, self.recipe)
        if isinstance(data, str):
            with open(data, "rb") as file:
                data = file.read()
        return answer(data, request)

    async def _handle_request(self, path: str, request: Any, is_get: bool) -> Any:
        """As the SDK's, but a client can tell a bad photo (500) and a bad request (400) from a bad ETL."""
        try:
            return await super()._handle_request(path, request, is_get)
        except HTTPException as error:
            if isinstance(error.__cause__, CorruptSample):
                raise HTTPException(500, f"CorruptSample: {error.__cause__}") from error
            if isinstance(error.__cause__, BadRequest):
                raise HTTPException(400, f"BadRequest: {error.__cause__}") from error
            raise


class TrainETL(ImageETL):
    """RandomResizedCrop and flip, by the key in ``etl_args``."""

    recipe = "train"


class ValETL(ImageETL):
    """Resize and central crop."""

    recipe = "val"


def ship_by_value() -> None:
    """Let cloudpickle pickle everything of this package by value from now on."""
    cloudpickle.register_pickle_by_value(etl)
