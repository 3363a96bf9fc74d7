"""What an ETL is asked for, and what it answers: the JSON of ``etl_args`` in, the bytes of one sample out.

    {"v":1,"seed":0,"epoch":3,"index":17,"size":224,"wire":"raw"}

Every field may be left out, and an unknown one is an error. Four wire formats: ``raw`` (uint8 [size, size, 3] as
C-order bytes), ``jpeg`` (for a person and for thin links; lossy), ``info`` (JSON about the ETL) and ``index`` (what is
in an object that is a tar shard, as ``etl.shard_index`` has it; with ``"labels":"json"`` also the contents of .json).

A request with ``"tag"``, a number that its client chooses for the sample, has a proof after all but ``info``: 16 bytes
that nobody can take for those of another request. A storage node passes an ETL's body on, not its headers.

A request with ``"at"`` is for a photo in an object that is a tar shard; what lies there must be what it says.
Needs NumPy and Pillow, nothing else.
"""

import io
import json
import os
import platform
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal
from urllib.parse import quote, unquote

import numpy as np
import PIL
from PIL import Image, features

from etl.sample import native, transform
from etl.spec import POLICY_FIELDS, RECIPES, VERSION, Key, Spec, shown

PROTOCOL = 1
DEFAULT_QUALITY = 90
CODE_VARIABLE = "IMAGENET_AIS_CODE"
"""Environment variable of a pod that holds the fingerprint of the code it was started with."""

PROOF_BYTES = 16
"""Of the proof that follows the answer to a request with a tag."""

LABEL = "imagenet-sample"
"""Header of such an answer: the tag, and bucket and object. It arrives where a storage node redirects to the ETL."""

TAR_BLOCK = 512
"""Bytes of the header before a photo in a tar."""

_PROVED_BYTES = 64
"""Of the content, at each of its ends."""

_PULLED = re.compile(r"(?:ais|aws|gcp|azure|oci|ht)/@[^/]*#[^/]*/")
"""PROVIDER/@UUID#NAMESPACE/, with which the path of a GET (hpull) begins, and that of a PUT (hpush) does not."""

_INDEX = re.compile(r'"wire"\s*:\s*"index"')
_TAG = re.compile(rb'"tag"\s*:\s*(\d{1,19})')

Wire = Literal["raw", "jpeg", "info", "index"]
Labels = Literal["cls", "json"]

_DEFAULTS = RECIPES["train"] | RECIPES["val"]
_FIELDS: dict[str, type] = {
    **dict.fromkeys(("v", "seed", "epoch", "index", "view"), int),
    **{
        name: list if isinstance(_DEFAULTS[name], tuple) else type(_DEFAULTS[name])
        for name in Spec.__dataclass_fields__
        if name in _DEFAULTS
    },
    **{"wire": str, "quality": int, "at": list, "labels": str, "tag": int},
}
"""By name their types in JSON."""


At = tuple[int, int, int, int]
"""Of a photo in a tar shard: where it begins, its bytes, the checksum in the header before it, its CRC-32 or 0."""


class BadRequest(ValueError):  # noqa: N818  # the name of HTTP's status 400
    """``etl_args`` that cannot be answered. Takes one string."""


@dataclass(frozen=True)
class Request:
    """What an ETL is asked for: one sample."""

    spec: Spec
    key: Key | None = None
    wire: Wire = "raw"
    quality: int = DEFAULT_QUALITY
    tag: int | None = None
    """Chosen by the client: the answer then has a proof."""
    at: At | None = None
    """Where in the object, a tar shard, the photo lies; None: the object is the photo."""
    labels: Labels = "cls"
    """Of ``index``: the kinds of members whose contents are told; json: .cls and .json."""


def encode(request: Request) -> str:
    """``etl_args`` for a request: compact JSON with what differs from the defaults, and all that ``raw`` asks for."""
    spec, key = request.spec, request.key
    fields: dict[str, Any] = {"v": PROTOCOL}
    if key is not None:
        fields |= {"seed": key.seed, "epoch": key.epoch, "index": key.index}
        if key.view:
            fields["view"] = key.view
    fields["size"] = spec.size
    for name, default in _defaults(spec.recipe, spec.size).items():
        if getattr(spec, name) != default:
            fields[name] = getattr(spec, name)
    fields["wire"] = request.wire
    if request.wire == "jpeg" and request.quality != DEFAULT_QUALITY:
        fields["quality"] = request.quality
    if request.at is not None:
        fields["at"] = request.at
    if request.tag is not None:
        fields["tag"] = request.tag
    return json.dumps(fields, separators=(",", ":"))


def parse(etl_args: str, recipe: Literal["train", "val"]) -> Request:
    """The request in ``etl_args``; without arguments a JPEG of the sample with key 0, 0, 0. Raises BadRequest.

    ``raw`` is given only to a request that names seed, epoch and index, or for val the size: its answer carries no
    description of its own, so a client must have said what it expects.
    """
    fields = _fields(etl_args)
    wire = fields.get("wire", "jpeg")
    if wire not in ("raw", "jpeg", "info", "index"):
        raise BadRequest(f"wire must be raw, jpeg, info or index, not {shown(wire)}")
    labels = fields.get("labels", "cls")
    if labels not in ("cls", "json"):
        raise BadRequest(f"labels must be cls or json, not {shown(labels)}")
    needed = ("seed", "epoch", "index") if recipe == "train" else ("size",)
    missing = [name for name in needed if name not in fields]
    if wire == "raw" and missing:
        raise BadRequest(f"wire=raw needs {', '.join(missing)}")
    quality = fields.get("quality", DEFAULT_QUALITY)
    if not 1 <= quality <= 100:
        raise BadRequest(f"quality must be from 1 to 100, not {shown(quality)}")
    tag = fields.get("tag")
    if tag is not None and not 0 <= tag < 1 << 63:
        raise BadRequest(f"tag must be from 0 to 2^63 - 1, not {shown(tag)}")
    at = tuple(fields["at"]) if "at" in fields else None
    if at is not None and not (
        len(at) == 4 and all(type(number) is int and 0 <= number < 1 << 62 for number in at) and at[0] >= TAR_BLOCK
    ):
        raise BadRequest(f"at takes offset, bytes, header's checksum and CRC-32, not {shown(at)}")
    defaults = _defaults(recipe, fields.get("size", RECIPES[recipe]["size"]))
    for name in POLICY_FIELDS:
        if name in fields and name not in defaults:
            raise BadRequest(f"{name} is of training samples alone: a validation sample has no policy")
    given = {name: fields.get(name, default) for name, default in defaults.items()}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    try:
        names = ("seed", "epoch", "index", "view")
        key = Key(*(fields.get(name, 0) for name in names)) if recipe == "train" else None
        return Request(Spec.of(recipe, **given), key, wire, quality, tag, at, labels)
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise BadRequest(str(error)) from None


def encode_index(labels: Labels, tag: int) -> str:
    """``etl_args`` of a request for the index of a tar shard."""
    return json.dumps({"v": PROTOCOL, "wire": "index", "labels": labels, "tag": tag}, separators=(",", ":"))


def takes_long(etl_args: str) -> bool:
    """Whether a whole shard is read for a request."""
    return _INDEX.search(etl_args) is not None


def answer(data: bytes, request: Request) -> bytes:
    """The bytes that the request asks for. Raises CorruptSample for data that are no image, BadRequest for an index."""
    if request.wire == "index":
        raise BadRequest("wire=index is for the file of a tar shard, and these are bytes")
    return info_bytes() if request.wire == "info" else body(transform(data, request.spec, request.key), request)


def body(pixels: np.ndarray, request: Request) -> bytes:
    """A sample as the request wants it to travel."""
    return pixels.tobytes() if request.wire == "raw" else encode_jpeg(pixels, request.quality)


def proved(body: bytes, request: Request, path: str, etl_args: str) -> bytes:
    """An answer's ``body`` with the proof that ``request`` wants: ``path`` and ``etl_args`` are as they came."""
    if request.tag is None or request.wire == "info":
        return body
    return body + proof(statement(path, etl_args), body)


def statement(path: str, etl_args: str) -> bytes:
    """``stated`` for a request with ``path``: BUCKET/OBJECT, or with hpull ais/@#/BUCKET/OBJECT."""
    plain = _decoded(path).removeprefix("/")
    pulled = _PULLED.match(plain)
    return stated(plain[pulled.end() :] if pulled else plain, etl_args)


def stated(name: str, etl_args: str) -> bytes:
    """What a proof says beside the content: ``name``, which is BUCKET/OBJECT, and all arguments.

    How often the percent signs of a name have been decoded differs by transport, and so all are decoded.
    """
    return f"{_decoded(name)}\0{etl_args}\0".encode("utf-8", "surrogatepass")


def looks_pulled(path: str) -> bool:
    """Whether a PUT's ``path`` looks like that of a GET: what ``statement`` would say is another object's."""
    return _PULLED.match(_decoded(path)) is not None


def _decoded(name: str) -> str:
    for _ in range(4):
        if "%" not in name or (plain := unquote(name)) == name:
            break
        name = plain
    return name


def proof(stated: bytes, content: bytes | bytearray | memoryview) -> bytes:
    """BLAKE2b, 16 bytes, of a ``statement`` and of the first and the last 64 bytes of the content."""
    ends = b"".join((stated, content[:_PROVED_BYTES], content[-_PROVED_BYTES:]))
    return blake2b(ends, digest_size=PROOF_BYTES).digest()


def label(stated: bytes) -> bytes | None:
    """The value of the header ``LABEL`` for a ``statement``; None where its arguments have no tag."""
    name, arguments, _ = stated.rsplit(bytes(1), 2)
    match = _TAG.search(arguments)
    return f"{match[1].decode()} {quote(name)}".encode() if match else None


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Pixels uint8 [H, W, 3] as a JPEG with 4:2:0 chroma."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2)
    return buffer.getvalue()


def info_bytes(**more: Any) -> bytes:
    """``info`` as an answer, with ``more`` in it."""
    return json.dumps(info() | more, separators=(",", ":")).encode()


def info() -> dict[str, Any]:
    """What makes the samples here: the code's fingerprint and the versions that could change a pixel."""
    return {
        "v": PROTOCOL,
        "sample": VERSION,
        "code": os.environ.get(CODE_VARIABLE, ""),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "native": native() is not None,
        "workers": int(os.environ.get("NUM_WORKERS", "0")),
    }


def _defaults(recipe: str, size: int) -> dict[str, Any]:
    """The fields of a spec of ``size`` pixels, with what they are where a request does not name them."""
    defaults = RECIPES[recipe] | {"size": size}
    return defaults | {"resize": max(size, 256)} if recipe == "val" else defaults


def _fields(etl_args: str) -> dict[str, Any]:
    if not etl_args:
        return {}
    try:
        fields = json.loads(etl_args)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"etl_args is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadRequest("etl_args must be a JSON object")
    for name, value in fields.items():
        if name not in _FIELDS:
            raise BadRequest(f"unknown field {shown(name)}: there are {', '.join(_FIELDS)}")
        kind = (int, float) if _FIELDS[name] is float else _FIELDS[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BadRequest(f"{name} must be of type {_FIELDS[name].__name__}, not {shown(value)}")
    if fields.get("v", PROTOCOL) != PROTOCOL:
        raise BadRequest(f"this ETL speaks version {PROTOCOL}, not {shown(fields['v'])}")
    return fields
