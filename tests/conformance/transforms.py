"""ETL classes of these tests. They travel by value: a pod cannot import this module."""

import os
import sys
import time

import cloudpickle
from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Upper(FastAPIServer):
    """Upper case, with path and arguments behind; or what the arguments order."""

    def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
        kind = type(data).__name__
        if isinstance(data, str):
            with open(data, "rb") as file:
                data = file.read()
        order, _, number = etl_args.partition(":")
        if order == "raise":
            raise ValueError("bad luck")
        if order == "sleep":
            time.sleep(float(number))
        if order == "exit":
            os._exit(int(number))
        if order == "repeat":
            return data * int(number)
        if order == "environment":
            return os.environ.get(number, "unset").encode()
        return b"|".join([data.upper(), path.encode(), etl_args.encode(), kind.encode()])


class Broken(FastAPIServer):
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no weights here")

    def transform(self, data: bytes, path: str, etl_args: str) -> bytes:
        return data
