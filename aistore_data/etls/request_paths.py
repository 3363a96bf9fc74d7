"""Requests to an ETL: what all of a split have in common is written once."""

import re
from typing import Literal, Protocol
from urllib.parse import quote, quote_plus

from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.access import object_path
from etl.request import Request, encode, stated
from etl.sample import Key, Spec

_VARIES = re.compile(r'(?<="epoch":)0(?=,"index":0,)|(?<="epoch":0,"index":)0(?=,)|(?<="tag":)0(?=}$)')

_PLAIN = re.compile(r"[A-Za-z0-9_.~/-]*").fullmatch
"""Names that are the same when they are quoted, as most are."""


class Asked(Protocol):
    """A sample that is asked for."""

    epoch: int
    index: int
    name: str


class EtlPaths:
    """Of requests for samples of a split, with a tag, the sample's index, if ``tags``."""

    def __init__(
        self, uri: str, etl_names: tuple[str, ...], spec: Spec, seed: int, wire: Literal["raw", "jpeg"], tags: bool
    ) -> None:
        key = Key(seed, 0, 0) if spec.recipe == "train" else None
        arguments = encode(Request(spec, key, wire, tag=0 if tags else None))
        parts = _VARIES.split(arguments)
        start, *rest = [quote_plus(part) for part in parts]
        self._folder, _, query = object_path(uri, "", etl_name="".join(etl_names), etl_args="").partition("?")
        self._quoted = [f"?{query}{start}", *rest]
        self._plain = parts
        self._bucket = f"{parse_bucket(uri).name}/"
        self._has_key, self._tags = key is not None, tags

    def ask(self, sample: Asked) -> tuple[str, bytes | None]:
        """``path`` and ``stated``."""
        name = sample.name
        if not (self._tags and self._has_key and _PLAIN(name)):
            return self.path(sample), self.stated(sample)
        epoch, index = sample.epoch, sample.index
        first, second, third, fourth = self._quoted
        path = f"{self._folder}{name}{first}{epoch}{second}{index}{third}{index}{fourth}"
        first, second, third, fourth = self._plain
        return path, f"{self._bucket}{name}\0{first}{epoch}{second}{index}{third}{index}{fourth}\0".encode()

    def path(self, sample: Asked) -> str:
        """As ``object_path`` with ``encode`` gives it."""
        name = sample.name
        if not _PLAIN(name):
            name = quote(name)
        return f"{self._folder}{name}{self._filled(self._quoted, sample)}"

    def stated(self, sample: Asked) -> bytes | None:
        """What the proof after the answer says; None where there is none."""
        if not self._tags:
            return None
        name = sample.name
        if "%" in name:
            return stated(self._bucket + name, self._filled(self._plain, sample))
        return f"{self._bucket}{name}\0{self._filled(self._plain, sample)}\0".encode()

    def _filled(self, parts: list[str], sample: Asked) -> str:
        index = sample.index
        if not self._has_key:
            return f"{parts[0]}{index}{parts[1]}" if self._tags else parts[0]
        if self._tags:
            return f"{parts[0]}{sample.epoch}{parts[1]}{index}{parts[2]}{index}{parts[3]}"
        return f"{parts[0]}{sample.epoch}{parts[1]}{index}{parts[2]}"
