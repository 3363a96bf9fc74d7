"""An answer's head and chunks and where a redirect leads, read strictly: what is not HTTP to the letter is an error.

Two readers that understand a message differently, or one that guesses, take one answer for another.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

from etl.request import LABEL
from sources.errors import ObjectError

_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5]\d\d)(?: [^\r\n\0]*)?")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_LENGTH = re.compile(r"\d{1,15}")
_ONCE = {"content-length", "transfer-encoding", "content-encoding", "location", LABEL}
"""Headers that may not say two things."""

_LOCATED = re.compile(rb"(?i)\r\nlocation:[ \t]*([^\r\n\0]*?)[ \t]*(?=\r\n|$)")
_REDIRECT = b"HTTP/1.1 3"
_LABELLED = re.compile(rb"\r\nimagenet-sample: ([^\r\n]*)(?=\r\n|$)")
_LABEL = LABEL.encode()
_HOST = re.compile(r"(?:[0-9a-z_-]{1,63}\.)*[0-9a-z_-]{1,63}\.?|\[[0-9a-f:.]+\]")
_VISIBLE = re.compile(r"[!-~]+")
_LONGEST_LOCATION = 1 << 14
_USUAL_LOCATION = re.compile(r"(https?)://([\w.:-]+)(/[!-\"$-~]*)", re.ASCII)
"""Scheme, host and port, path with query, without a fragment."""

_LONGEST_LINE = 64
"""Bytes of the line before a chunk of an answer: ``SIZE CRLF data CRLF … 0 CRLF CRLF``, to the letter."""

_FIRST_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\t -~]{0,40})?\r\n").match
_NEXT_CHUNK = re.compile(rb"\r\n([0-9A-Fa-f]{1,8})(?:;[\t -~]{0,40})?\r\n").match


class Head(NamedTuple):
    """What the head of an answer says."""

    status: int
    headers: Mapping[str, str]
    keep: bool
    chunked: bool
    length: int | None
    """Bytes of the body; None where that is not said."""


def parse_head(text: bytes) -> tuple[Head, bytes | None]:
    """Parse a head without the empty line at its end; answer it and the value of ``LABEL``. Raises ObjectError."""
    if text.startswith(_REDIRECT) and (match := _LOCATED.search(text)):  # as with the label below
        head, label = parse_head(text[: match.start()] + text[match.end() :])
        location = match[1].decode("latin-1")
        if head.headers.get("location", location) != location:
            raise ObjectError(head.status, "the answer says location twice")
        return head._replace(headers=MappingProxyType({**head.headers, "location": location})), label
    label = None
    if _LABEL in text and (match := _LABELLED.search(text)):  # it differs from answer to answer; what is left does not
        label = match[1]
        text = text[: match.start()] + text[match.end() :]
    head = _parse(text)
    if LABEL in head.headers:  # once more, or spelt in another way
        other = head.headers[LABEL].encode("latin-1")
        if label is not None and other != label:
            raise ObjectError(head.status, f"the answer says {LABEL} twice")
        label = other
    return head, label


@lru_cache(maxsize=64)  # a server's answers to one sort of request have the same head, within a second
def _parse(text: bytes) -> Head:
    first, *lines = text.decode("latin-1").split("\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise ObjectError(0, "the answer has no head: this is not an HTTP server")
    version, status = match[1], int(match[2])
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise ObjectError(status, "the answer's head is not that of HTTP")
        name, value = header[1].lower(), header[2]
        if name in headers and name in _ONCE and headers[name] != value:
            raise ObjectError(status, f"the answer says {name} twice")
        headers[name] = f"{headers[name]}, {value}" if name in headers and name not in _ONCE else value
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if length is not None and coding is not None:
        raise ObjectError(status, "the answer gives its length and comes in chunks: where it ends nobody can tell")
    if length is not None and not _LENGTH.fullmatch(length):
        raise ObjectError(status, "the answer's length is not a number of bytes")
    if coding is not None and (coding.lower() != "chunked" or version == "0"):
        raise ObjectError(status, "the answer comes in a transfer encoding that was not asked for")
    if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise ObjectError(status, "the answer is compressed, which was not asked for")
    options = [option.strip().lower() for option in headers.get("connection", "").split(",")]
    return Head(
        status,
        MappingProxyType(headers),
        version == "1" and "close" not in options,
        coding is not None,
        None if length is None else int(length),
    )


@lru_cache(maxsize=1024)
def parse_host(netloc: str) -> tuple[str, int | None]:
    """(name, port or None) of a URL's ``host:port``. Raises OSError for what is not a host and a port."""
    name, _, port = netloc.lower().rpartition(":") if re.search(r":\d*$", netloc) else (netloc.lower(), "", "")
    number = int(port) if re.fullmatch(r"\d{1,5}", port) else None
    if len(name) > 255 or not _HOST.fullmatch(name) or (port and (number is None or not 0 < number < 1 << 16)):
        raise OSError(f"{netloc[:100]!r} is not a host and a port")
    return name.strip("[]"), number


def parse_location(location: str, scheme: str) -> tuple[str, str]:
    """(host and port, path with query) of a redirect by a server that speaks ``scheme``; the host is "" for the same.

    Raises ObjectError for what cannot or must not be followed.
    """
    usual = _USUAL_LOCATION.fullmatch(location)
    if usual and usual[1] == scheme and len(location) <= _LONGEST_LOCATION:
        with suppress(OSError):
            parse_host(usual[2])
            return usual[2].lower(), usual[3]
    shown = re.sub(r"[^!-~]", "?", location[:200])
    refused = ObjectError(0, f"the answer is a redirect to {shown!r}, which is not followed")
    if len(location) > _LONGEST_LOCATION or not _VISIBLE.fullmatch(location):
        raise refused
    try:
        parts = urlsplit(location)
        if parts.netloc:
            parse_host(parts.netloc)
    except (ValueError, OSError):
        raise refused from None
    if "@" in parts.netloc or not parts.path.startswith("/") or bool(parts.scheme) != bool(parts.netloc):
        raise refused
    if parts.scheme and parts.scheme != scheme:
        raise ObjectError(0, f"the answer is a redirect from {scheme} to {shown!r}, which is not followed")
    return parts.netloc.lower(), f"{parts.path}?{parts.query}" if parts.query else parts.path


class Chunks:
    """Reads the lines between the data of an answer with ``status``; ``begun``: that before the first has been read."""

    __slots__ = ("_begun", "_status")

    def __init__(self, status: int, begun: bool = False) -> None:
        self._status = status
        self._begun = begun

    def next(self, data: memoryview, at: int) -> tuple[int | None, int]:
        """(size of the next chunk, where its data begin); size 0 after the last one, None if more must come first.

        Raises ObjectError for what is no chunk.
        """
        match = (_NEXT_CHUNK if self._begun else _FIRST_CHUNK)(data, at)
        if match is None:
            self._want_more(bytes(data[at : at + _LONGEST_LINE]))
            return None, at
        size, end = int(match[1], 16), match.end()
        if size:
            self._begun = True
            return size, end
        last = bytes(data[end : end + 2])
        if last == b"\r\n":
            return 0, end + 2
        if b"\r\n".startswith(last):
            return None, at
        raise self._wrong()  # trailers too: nobody asked for them

    def _want_more(self, line: bytes) -> None:
        """Raises ObjectError unless ``line`` may be the beginning of one that is right."""
        lead = b"\r\n" if self._begun else b""
        if len(line) >= _LONGEST_LINE or not line.startswith(lead[: len(line)]):
            raise self._wrong()
        line = line[len(lead) :]
        if line and not re.fullmatch(rb"[0-9A-Fa-f]{1,8}(?:;[\t -~]{0,40})?\r?", line):
            raise self._wrong()

    def _wrong(self) -> ObjectError:
        return ObjectError(self._status, "the answer's chunks are not those of HTTP")
