"""JSON that a client sends: objects whose fields have the types that are expected, or ApiError 400."""

import json
from collections.abc import Iterable
from typing import Any

from aistore_data.embedded.errors import ApiError

MAX_BYTES = 16 << 20
"""Of a message: an ETL's class, or the names of a batch."""


class Message:
    """A JSON object, read by typed fields; a missing one, or null, is the default."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    @classmethod
    def of_body(cls, body: Iterable[bytes]) -> "Message":
        """Empty without a body. Raises ApiError 400, 413."""
        text = bytearray()
        for piece in body:
            text += piece
            if len(text) > MAX_BYTES:
                raise ApiError(413, f"the request's body has more than {MAX_BYTES} bytes")
        try:
            fields = json.loads(text.decode()) if text else {}
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"the request's body is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise ApiError(400, "the request's body is not a JSON object")
        return cls(fields)

    def text(self, name: str) -> str:
        """A string that can be written as UTF-8; else ""."""
        value: str = self._field(name, str, "a string") or ""
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _wrong(name, "valid Unicode") from None
        return value

    def whole(self, name: str) -> int:
        """A number from 0 to 2**63 - 1, also as a string; else 0."""
        value = self.fields.get(name)
        if value is None or value == "":
            return 0
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise _wrong(name, "a whole number")
        return value

    def message(self, name: str) -> "Message":
        """An object; else an empty one."""
        return Message(self._field(name, dict, "an object") or {})

    def messages(self, name: str) -> list["Message"]:
        """A list of objects."""
        return [Message({name: item}).message(name) for item in self._field(name, list, "a list") or []]

    def _field(self, name: str, kind: type, wanted: str) -> Any:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, kind):
            raise _wrong(name, wanted)
        return value


def _wrong(name: str, wanted: str) -> ApiError:
    return ApiError(400, f'"{name}" of the message is not {wanted}')
