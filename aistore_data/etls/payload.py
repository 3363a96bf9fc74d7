"""An ETL class as the variable ETL_CLASS_PAYLOAD of its pod."""

import base64
import pickle
import sys
import zlib
from collections.abc import Callable
from typing import Any

import cloudpickle

from etl.server import ImageETL, ship_by_value

MAX_BYTES = 128 * 1024 - 32
"""Linux gives 128 KB to a variable of an environment, with its name."""


class _Call:
    """Becomes ``function(argument)`` where it is unpickled."""

    def __init__(self, function: Callable[[Any], Any], argument: Any) -> None:
        self._call = function, (argument,)

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return self._call


def runtime_image() -> str:
    """The image of AIStore that runs a class of this Python's version."""
    return f"aistorage/runtime_python:{sys.version_info.major}.{sys.version_info.minor}"


def class_payload(etl_class: type[ImageETL]) -> str:
    """As the SDK's ``init_class`` makes it, but compressed: the pod unpickles a call that inflates the class."""
    ship_by_value()
    packed = zlib.compress(cloudpickle.dumps(etl_class), 9)
    text = base64.b64encode(pickle.dumps(_Call(pickle.loads, _Call(zlib.decompress, packed)))).decode()
    assert len(text) <= MAX_BYTES, f"the code of {etl_class.__name__} has {len(text)} bytes"
    return text
