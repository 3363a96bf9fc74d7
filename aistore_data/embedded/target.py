"""The target: objects' data, and inline transforms by ETLs."""

import errno
import io
import os
import re
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from starlette.responses import Response, StreamingResponse

from aistore_data.embedded.calls import Call, header
from aistore_data.embedded.errors import TARGET_ID, ApiError
from aistore_data.embedded.node import Node, is_signed
from aistore_data.embedded.store import CHUNK_BYTES, Bucket, Entry

_ALL_PROPERTIES = "name,checksum,atime,version,copies,location"
_MAX_KNOWN_LENGTH = 2048
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"GIF8": "image/gif"}
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


class Target(Node):
    """What clients get after the proxy's redirect, or directly."""

    node_id = TARGET_ID

    def allowed_without_token(self, call: Call) -> bool:
        """A request that the proxy redirected, or one of a pod with its ETL's secret."""
        if call.parts[:3] == ["v1", "etl", "_object"]:
            etl_name, _, rest = (call.parts[3] if len(call.parts) > 3 else "").partition("/")
            return self.cluster.etls.is_secret(etl_name, rest.partition("/")[0])
        return is_signed(self.cluster, call)

    def at_once(self, call: Call) -> Response:
        """An object whose checksum and bytes are in memory: a thread would cost as much again."""
        if call.method == "GET" and call.kind == "objects" and len(call.parts) > 3 and "etl_name" not in call.query:
            bucket, name = self.cluster.store.bucket(call.bucket_key()), call.object_name()
            if bucket.get(name).checksum:
                return _get(call, bucket, name, wait=False)
        raise BlockingIOError

    def route(self, call: Call) -> Response:
        """Answer the request. Raises ApiError."""
        if call.parts[:3] == ["v1", "etl", "_object"] and call.method == "GET":
            return self._pod_object(call)
        if call.parts[1:3] == ["ml", "moss"] and call.method == "GET" and len(call.parts) > 3:
            return self._get_batch(call)
        if len(call.parts) < 4 or call.kind != "objects":
            return self.common(call)
        if call.method in ("PUT", "DELETE") and "pid" not in call.query:
            raise ApiError(400, f"t[{TARGET_ID}]: {call.method}(obj) is expected to be redirected")
        bucket, name = self.cluster.store.bucket(call.bucket_key()), call.object_name()
        if call.method == "GET":
            return self._transform(call, bucket, name) if call.query.get("etl_name") else _get(call, bucket, name)
        if call.method == "HEAD":
            return _head_object(call, bucket, name)
        if call.method == "PUT":
            return _put(call, bucket, name)
        if call.method != "DELETE":
            raise call.not_served()
        if not bucket.delete(name):
            raise ApiError(404, f"ais://{bucket.name}/{name} doesn't exist", "ErrNotFound")
        return Response()

    def _transform(self, call: Call, bucket: Bucket, name: str) -> Response:
        stages = [call.query["etl_name"], *filter(None, call.query.get("etl_pipeline", "").split(","))]
        data = self.cluster.etls.transform(stages, bucket, name, call.query.get("etl_args"))
        response = Response(data, headers={"Content-Type": _sniff(data)})
        return response if len(data) <= _MAX_KNOWN_LENGTH else _chunked(response)

    def _get_batch(self, call: Call) -> Response:
        """Many objects as one tar stream; what is missing lies empty below ``__404__/``."""
        bucket_name, message = call.parts[3], call.message()
        self.cluster.store.bucket(bucket_name)
        if not message.fields.get("strm") or message.text("mime") != ".tar" or not message.fields.get("coer"):
            raise ApiError(400, "the embedded AIS answers get-batch as a tar stream that goes on after errors alone")
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for item in message.messages("in"):
                bucket, name = self.cluster.store.bucket(item.text("bucket") or bucket_name), item.text("objname")
                member = tarfile.TarInfo(name if message.fields.get("onob") else f"{bucket.name}/{name}")
                try:
                    content = bucket.read(name)
                except ApiError:
                    member.name, content = f"__404__/{member.name}", b""
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return _chunked(Response(stream.getvalue(), media_type="application/x-tar"))

    def _pod_object(self, call: Call) -> Response:
        """GET of a pod: ``/v1/etl/_object/ETL/SECRET/BUCKET/OBJECT``, or AIS's full name ``ais/@#/BUCKET/OBJECT``."""
        etl_name, _, rest = (call.parts[3] if len(call.parts) > 3 else "").partition("/")
        secret, _, path = rest.partition("/")
        if not self.cluster.etls.is_secret(etl_name, secret):
            raise ApiError(401, "access denied: the secret is not that of this ETL", "ErrInvalidToken")
        call.parts = ["v1", "objects", *re.sub(r"^ais(/|%2F)(@|%40)(#|%23)(/|%2F)", "", path).split("/", 1)]
        return _get(call, self.cluster.store.bucket(call.parts[2]), call.object_name())


def _chunked(response: Response) -> Response:
    """A body whose length the client is not told in advance."""
    del response.headers["content-length"]
    return response


def _put(call: Call, bucket: Bucket, name: str) -> Response:
    try:
        entry = bucket.put(name, call.pieces())
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        status = 400 if error.errno == errno.ENAMETOOLONG else 500
        raise ApiError(status, f"ais://{bucket.name}/{name} cannot be written: {error.strerror}") from None
    return Response(headers=_attributes(entry))


def _get(call: Call, bucket: Bucket, name: str, wait: bool = True) -> Response:
    """Raises ApiError; BlockingIOError where ``wait`` is False and the bytes are not in memory."""
    entry, file = bucket.open(name)
    try:
        start, end = _range(call.headers.get("range", ""), entry.size)
    except ApiError:
        file.close()
        raise
    headers = {"Content-Type": "application/octet-stream", **_attributes(entry), "Content-Length": str(end - start)}
    if "range" in call.headers:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{entry.size}"
    status, pieces = 206 if "range" in call.headers else 200, _pieces(file, start, end)
    if end - start > CHUNK_BYTES:
        return StreamingResponse(pieces, status, headers)  # one that shrinks breaks off: the client sees that
    with file:
        return Response(b"".join(pieces) if wait else _in_memory(file, start, end), status, headers)


def _in_memory(file: BinaryIO, start: int, end: int) -> memoryview:
    """Bytes of a file that can be had without waiting for a disk. Raises BlockingIOError."""
    data = memoryview(bytearray(end - start))
    with suppress(OSError):  # io.UnsupportedOperation too, of an object without a file
        if os.preadv(file.fileno(), [data], start, os.RWF_NOWAIT) == len(data):
            return data
    raise BlockingIOError


def _pieces(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while piece := file.read(min(CHUNK_BYTES, end - file.tell())):
            yield piece


def _range(text: str, size: int) -> tuple[int, int]:
    if not text:
        return 0, size
    match = _RANGE.fullmatch(text.strip())
    first, last = match.groups() if match else ("", "")
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
    elif last:
        start, end = max(size - int(last), 0), size
    else:
        raise ApiError(416, f'range "{text}" is not understood: write bytes=FIRST-LAST', "ErrRange")
    if start >= end:
        raise ApiError(416, f'range "{text}" is not within the object\'s {size} bytes', "ErrRange")
    return start, end


def _head_object(call: Call, bucket: Bucket, name: str) -> Response:
    entry = bucket.get(name)
    wanted = set((call.query.get("props") or _ALL_PROPERTIES).split(","))
    headers = {"Content-Length": str(entry.size), "Ais-Present": "true"}
    if "name" in wanted and name.isprintable():
        headers |= {"Ais-Name": header(name), "Ais-Bucket-Name": bucket.name, "Ais-Bucket-Provider": "ais"}
    attributes = _attributes(entry) if wanted & {"checksum", "atime", "version"} else {}
    headers |= {key: value for key, value in attributes.items() if key.split("-")[1].lower() in wanted}
    if "copies" in wanted:
        headers["Ais-Mirror-Copies"] = "1"
    if "location" in wanted:
        headers["Ais-Location"] = f"t[{TARGET_ID}]:mp[embedded]"
    return Response(headers=headers)


def _attributes(entry: Entry) -> dict[str, str]:
    return {
        "Ais-Checksum-Type": "xxhash2",
        "Ais-Checksum-Value": entry.xxhash2(),
        "Ais-Version": str(entry.version),
        "Ais-Atime": str(entry.mtime_ns or time.time_ns()),
    }


def _sniff(data: bytes) -> str:
    """The type that Go's server makes of a body; the ETL's own is not passed on."""
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    return "application/octet-stream" if _BINARY.search(data, 0, 512) else "text/plain; charset=utf-8"
