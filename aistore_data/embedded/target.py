"""The target: objects' data, and inline transforms by ETLs."""

import errno
import io
import re
import tarfile
import time

from aistore_data.embedded.errors import TARGET_ID, ApiError
from aistore_data.embedded.node import NodeHandler, is_signed
from aistore_data.embedded.store import CHUNK_BYTES, Bucket, Entry

_ALL_PROPERTIES = "name,checksum,atime,version,copies,location"
_MAX_KNOWN_LENGTH = 2048
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"GIF8": "image/gif"}
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


class TargetHandler(NodeHandler):
    """What clients get after the proxy's redirect, or directly."""

    node_id = TARGET_ID

    def allowed_without_token(self) -> bool:
        """A request that the proxy redirected, or one of a pod with its ETL's secret."""
        if self.parts[:3] == ["v1", "etl", "_object"]:
            etl_name, _, rest = (self.parts[3] if len(self.parts) > 3 else "").partition("/")
            return self.cluster.etls.is_secret(etl_name, rest.partition("/")[0])
        return is_signed(self.cluster, self.command, self.decoded_path, self.query_items)

    def route(self) -> None:
        """Answers the request; raises ApiError."""
        if self.route_common():
            return
        if self.parts[:3] == ["v1", "etl", "_object"] and self.command == "GET":
            self._pod_object()
            return
        if self.parts[1:3] == ["ml", "moss"] and self.command == "GET" and len(self.parts) > 3:
            self._get_batch(self.parts[3])
            return
        if len(self.parts) < 4 or self.parts[1] != "objects":
            raise self.not_served()
        if self.command in ("PUT", "DELETE") and "pid" not in self.query:
            raise ApiError(400, f"t[{TARGET_ID}]: {self.command}(obj) is expected to be redirected")
        bucket, name = self.cluster.store.bucket(self.bucket_key()), self.object_name()
        if self.command == "GET" and self.query.get("etl_name"):
            self._transform(bucket, name)
        elif self.command == "GET":
            self._get(bucket, name)
        elif self.command == "HEAD":
            self._head_object(bucket, name, bucket.get(name))
        elif self.command == "PUT":
            self._put(bucket, name)
        elif self.command == "DELETE":
            if not bucket.delete(name):
                raise ApiError(404, f"ais://{bucket.name}/{name} doesn't exist", "ErrNotFound")
            self.reply()
        else:
            raise self.not_served()

    def _put(self, bucket: Bucket, name: str) -> None:
        try:
            entry = bucket.put(name, self.body())
        except ConnectionError:
            raise
        except OSError as error:
            status = 400 if error.errno == errno.ENAMETOOLONG else 500
            raise ApiError(status, f"ais://{bucket.name}/{name} cannot be written: {error.strerror}") from None
        self.reply(headers=_attributes(entry))

    def _get(self, bucket: Bucket, name: str) -> None:
        entry, file = bucket.open(name)
        with file:
            start, end = self._range(entry.size)
            headers = {"Content-Type": "application/octet-stream", **_attributes(entry)}
            headers["Content-Length"] = str(end - start)
            status = 200
            if "Range" in self.headers:
                status = 206
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{entry.size}"
            if end - start <= CHUNK_BYTES:
                file.seek(start)
                self.reply(status, file.read(end - start), headers)
            else:
                self.reply(status, headers=headers)
                if self.connection.sendfile(file, start, end - start) < end - start:
                    self.close_connection = True  # a served file that shrank: the client sees that bytes are missing

    def _range(self, size: int) -> tuple[int, int]:
        text = self.headers.get("Range")
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

    def _head_object(self, bucket: Bucket, name: str, entry: Entry) -> None:
        wanted = set((self.query.get("props") or _ALL_PROPERTIES).split(","))
        headers = {"Content-Length": str(entry.size), "Ais-Present": "true"}
        if "name" in wanted and name.isprintable():
            headers |= {"Ais-Name": name, "Ais-Bucket-Name": bucket.name, "Ais-Bucket-Provider": "ais"}
        attributes = _attributes(entry) if wanted & {"checksum", "atime", "version"} else {}
        for key, value in attributes.items():
            if key.split("-")[1].lower() in wanted:
                headers[key] = value
        if "copies" in wanted:
            headers["Ais-Mirror-Copies"] = "1"
        if "location" in wanted:
            headers["Ais-Location"] = f"t[{TARGET_ID}]:mp[embedded]"
        self.reply(headers=headers)

    def _transform(self, bucket: Bucket, name: str) -> None:
        stages = [self.query["etl_name"], *filter(None, self.query.get("etl_pipeline", "").split(","))]
        data = self.cluster.etls.transform(stages, bucket, name, self.query.get("etl_args"))
        headers = {"Content-Type": _sniff(data)}
        if len(data) <= _MAX_KNOWN_LENGTH:
            self.reply(200, data, headers)
        else:
            self.reply_chunked(data, headers)

    def _get_batch(self, bucket_name: str) -> None:
        """Many objects as one tar stream; what is missing lies empty below ``__404__/``."""
        message = self.message()
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
        self.reply_chunked(stream.getvalue(), {"Content-Type": "application/x-tar"})

    def _pod_object(self) -> None:
        """GET of a pod: ``/v1/etl/_object/ETL/SECRET/BUCKET/OBJECT``, or AIS's full name ``ais/@#/BUCKET/OBJECT``."""
        etl_name, _, rest = (self.parts[3] if len(self.parts) > 3 else "").partition("/")
        secret, _, path = rest.partition("/")
        if not self.cluster.etls.is_secret(etl_name, secret):
            raise ApiError(401, "access denied: the secret is not that of this ETL", "ErrInvalidToken")
        self.parts = ["v1", "objects", *re.sub(r"^ais(/|%2F)(@|%40)(#|%23)(/|%2F)", "", path).split("/", 1)]
        self._get(self.cluster.store.bucket(self.parts[2]), self.object_name())


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
