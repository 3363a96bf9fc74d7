"""What an ETL is asked for, whether it proves its answers, and whether it makes the same pixels as this machine."""

import json
import re
from typing import Any, cast
from urllib.parse import quote, quote_plus

import numpy as np
import PIL

from aistore_data.bucket.photos import at_of, object_of, read_photo
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.access import object_path, printable
from aistore_data.client.http_reader import HttpReader
from etl.code import code_sha256
from etl.request import TAR_BLOCK, At, Request, Wire, encode, stated
from etl.sample import CorruptSample, transform
from etl.spec import POLICY_FIELDS, Key, Spec
from sources.errors import ClusterError, ObjectError
from sources.manifest import Manifest
from sources.shards.manifest import ShardManifest

_AT = (0, 0, 0, 0)
_VARIES = re.compile(
    r'(?<="epoch":)0(?=,"index":0,)|(?<="epoch":0,"index":)0(?=,)|(?<="tag":)0(?=}$)'
    r'|(?<="at":\[)0(?=,0,0,0\])|(?<="at":\[0,)0(?=,0,0\])|(?<="at":\[0,0,)0(?=,0\])|(?<="at":\[0,0,0,)0(?=\])'
)

_PLAIN = re.compile(r"[A-Za-z0-9_.~/-]*").fullmatch
"""Names that are the same when they are quoted, as most are."""

UNSAFE = re.compile(r"[?#]|%(?![0-9A-Fa-f]{2})")
"""Characters of an object's name for which AIS asks the ETL for another name, so such samples are made here."""

_INFO_BYTES = 1 << 16
"""The most bytes of an ETL's answer to wire=info."""

_PLACES = 64
"""Samples of a manifest among which one is looked for on every target."""

_COMPARED, _COMPARED_WITH_POLICY = 2, 16
"""Samples that are compared at least; a policy draws another operation for each."""


class EtlPaths:
    """Requests for samples of a split, tagged with the sample's index if ``tags``. What they share is written once.

    ``in_shards``: each says where in its object the sample lies.
    """

    def __init__(
        self, uri: str, etl_name: str, spec: Spec, seed: int, wire: str, tags: bool, in_shards: bool = False
    ) -> None:
        key, at = Key(seed, 0, 0) if spec.recipe == "train" else None, _AT if in_shards else None
        parts = _VARIES.split(encode(Request(spec, key, cast(Wire, wire), tag=0 if tags else None, at=at)))
        self._folder, _, query = object_path(uri, "", etl_name=etl_name, etl_args="").partition("?")
        first_view, others = parts, [*parts[:2], ',"view":', *parts[2:]] if key else parts
        # A request that names no view is for the first one.
        self._arguments = _template(first_view), _template(others)
        self._queries = tuple(
            _template([query + quote_plus(of[0]), *map(quote_plus, of[1:])]) for of in (first_view, others)
        )
        self._bucket = f"{parse_bucket(uri).name}/"
        self._has_key, self._tags = key is not None, tags

    def ask(
        self, name: str, epoch: int, index: int, view: int = 0, at: tuple[()] | At = ()
    ) -> tuple[str, bytes | None]:
        """``path`` and ``stated`` of a ``Get``: as ``object_path`` gives the one, and ``etl.request`` the other.

        ``name``: the object; ``at``: where in it the sample lies.
        """
        key = ((epoch, index, view) if view else (epoch, index)) if self._has_key else ()
        values, further = (*key, *at, index) if self._tags else (*key, *at), view > 0
        path = f"{self._folder}{name if _PLAIN(name) else quote(name)}?{self._queries[further] % values}"
        return path, stated(self._bucket + name, self._arguments[further] % values) if self._tags else None


def _template(parts: list[str]) -> str:
    return "%d".join(part.replace("%", "%%") for part in parts)


def knows_tags(reader: HttpReader, uri: str, manifest: Manifest, name: str) -> bool:
    """Whether ETL ``name`` proves what its answers are answers to; one of an earlier version knows no ``tag``.

    Raises ClusterError if it does not answer.
    """
    return _knows(reader, uri, manifest, name, {"tag": 0})


def knows_shards(reader: HttpReader, uri: str, manifest: Manifest, name: str) -> bool:
    """Whether ETL ``name`` makes samples of photos in tar shards; one of an earlier version does not.

    Raises ClusterError if it does not answer.
    """
    return _knows(reader, uri, manifest, name, {"at": (TAR_BLOCK, 0, 0, 0)})


def knows_index(reader: HttpReader, uri: str, object_name: str, name: str) -> bool:
    """Whether ETL ``name`` indexes tar shards; one of an earlier version does not. ``object_name``: any of the bucket.

    Raises ClusterError if it does not answer.
    """
    return _takes(reader, uri, object_name, name, {"labels": "cls"})


def knows_policy(reader: HttpReader, uri: str, manifest: Manifest, name: str, spec: Spec) -> bool:
    """Whether ETL ``name`` knows the policy of ``spec``; one of an earlier version knows none, or not this one.

    Raises ClusterError if it does not answer.
    """
    fields = json.loads(encode(Request(spec)))
    policy = {field: fields[field] for field in POLICY_FIELDS if field in fields}
    return not policy or _knows(reader, uri, manifest, name, policy)


def former_version(name: str, spec: Spec) -> str:
    """The words for an ETL that does not ``knows_policy``."""
    policy = [f"augment={spec.augment}"] if spec.augment else []
    policy += [f"jitter={spec.jitter:g}"] if spec.jitter else []
    return f"ETL {name} runs the code of a former version, which does not know {' and '.join(policy)}"


def _knows(reader: HttpReader, uri: str, manifest: Manifest, name: str, fields: dict[str, Any]) -> bool:
    """Whether an ETL takes these fields of a request."""
    return _takes(reader, uri, object_of(manifest, 0), name, fields)


def _takes(reader: HttpReader, uri: str, object_name: str, name: str, fields: dict[str, Any]) -> bool:
    arguments = json.dumps({"wire": "info"} | fields, separators=(",", ":"))
    path = object_path(uri, object_name, etl_name=name, etl_args=arguments)
    try:
        reader.get(path, _INFO_BYTES)
    except (ObjectError, OSError) as error:
        if isinstance(error, ObjectError) and error.status == 400:  # an unknown field
            return False
        raise _unanswered(name, f"{uri}/{object_name}", error) from None
    return True


def prove(
    reader: HttpReader,
    uri: str,
    manifest: Manifest,
    name: str,
    spec: Spec,
    targets: int,
    tags: bool = False,
    skip: frozenset[str] = frozenset(),
) -> int:
    """Compare the ETL's samples with those made here, on objects of every target; answers how many were compared.

    ``targets``: how many there are; 0 if this token may not know, and then wherever some samples turn out to lie.
    ``tags``: whether it ``knows_tags``, and so must prove its answers. ``skip``: objects that it is not asked about.
    Raises ClusterError that names the versions on both sides if a byte differs.
    """
    hosts: set[str] = set()
    compared, enough = 0, _COMPARED_WITH_POLICY if spec.is_augmented else _COMPARED
    for index in np.linspace(0, len(manifest) - 1, min(len(manifest), _PLACES)).astype(int).tolist():
        if compared >= enough and len(hosts) >= (targets or _PLACES):
            break
        object_name = object_of(manifest, index)
        if object_name in skip:
            continue
        object_ = object_path(uri, object_name)
        host = reader.host_of(object_)
        if host in hosts and compared >= enough:
            continue
        hosts.add(host)
        row = bytearray(spec.size * spec.size * 3)
        path, statement = EtlPaths(uri, name, spec, compared, "raw", tags, isinstance(manifest, ShardManifest)).ask(
            object_name, 3, index, at=at_of(manifest, index)
        )
        key = Key(compared, 3, index) if spec.recipe == "train" else None
        try:
            here = transform(read_photo(reader, uri, manifest, index), spec, key).tobytes()
            reader.get_into(path, memoryview(row), statement)
        except CorruptSample:
            continue  # training will say so when it comes to this object
        except (ObjectError, OSError) as error:
            raise _unanswered(name, f"{uri}/{object_name}", error) from None
        if here != bytes(row):
            answer = reader.get(object_path(uri, object_name, etl_name=name, etl_args='{"wire":"info"}'), _INFO_BYTES)
            info = printable(answer.decode("utf-8", "replace"))
            raise ClusterError(
                f"ETL {name} makes other pixels of {uri}/{object_name} than this machine. There: {info}. Here: "
                f"Pillow {PIL.__version__}, NumPy {np.__version__}, code {code_sha256()}. "
                "Use the same versions on both sides."
            )
        compared += 1
    return compared


def _unanswered(name: str, where: str, error: ObjectError | OSError) -> ClusterError:
    """The sentence for an ETL that does not answer for an object."""
    return ClusterError(
        f"ETL {name} does not answer for {where}: {error}. Check that it runs and that its code is this version's; "
        "data.etl.manage=auto starts ETLs, and data.transform=client needs none."
    )
