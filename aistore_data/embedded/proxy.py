"""The proxy: buckets, listings, ETL life cycle; object calls are redirected to the target."""

import html
import json
import re
import secrets
import time
from typing import Any

import msgspec.msgpack
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from aistore_data.embedded.calls import Call, Message, header, json_answer
from aistore_data.embedded.errors import PROXY_ID, TARGET_ID
from aistore_data.embedded.node import Node, signed_location
from aistore_data.embedded.store import DEFAULT_PAGE_SIZE, Bucket, Entry

_MSGPACK_TYPE = "application/msgpack"
_PRESENT, _FOLDER = 64, 256
_NO_RECURSION = 1 << 11
_LOCATION = f"t[{TARGET_ID}]:mp[embedded]"


class Proxy(Node):
    """The public endpoint, which answers or redirects requests."""

    node_id = PROXY_ID

    def route(self, call: Call) -> Response:
        """Answer the request. Raises ApiError."""
        if call.kind == "objects" and len(call.parts) > 3:
            return self._redirect(call)
        if call.parts[1:3] == ["ml", "moss"] and call.method == "GET" and len(call.parts) > 3:
            return Response(status_code=307, headers={"Location": signed_location(self.cluster, call)})
        if call.kind == "buckets":
            return self._buckets(call)
        return self._etl(call) if call.kind == "etl" else self.common(call)

    def _redirect(self, call: Call) -> Response:
        self.cluster.store.bucket(call.bucket_key())
        call.object_name()
        location = signed_location(self.cluster, call)
        if call.method != "GET":
            return Response(status_code=307, headers={"Location": location})
        return HTMLResponse(
            f'<a href="{html.escape(location)}">Moved Permanently</a>.\n\n', 301, {"Location": location}
        )

    # Buckets.

    def _buckets(self, call: Call) -> Response:
        name, store = call.bucket_key(), self.cluster.store
        if call.method == "HEAD":
            return _head_bucket(call, store.bucket(name))
        message = call.message()
        action = (call.method, message.text("action"))
        if action == ("GET", "list") and not name:
            return json_answer([_bucket_model(bucket) for bucket in store.names()])
        if action == ("GET", "list"):
            return _list_objects(call, store.bucket(name), message.message("value"))
        if action == ("GET", "summary-bck"):
            return self._summary(name, message.message("value"))
        if action == ("POST", "create-bck"):
            store.create(name)
        elif action == ("DELETE", "destroy-bck"):
            store.destroy(name)
        else:
            raise call.not_served()
        return Response()

    def _summary(self, name: str, value: Message) -> Response:
        names = [name] if name else self.cluster.store.names()
        buckets = [self.cluster.store.bucket(item) for item in names]
        if value.text("uuid"):
            return json_answer([_summary_of(bucket) for bucket in buckets])
        return PlainTextResponse(secrets.token_urlsafe(6), 202)

    # ETLs.

    def _etl(self, call: Call) -> Response:
        etls = self.cluster.etls
        name, action = [*call.parts[2:], "", ""][:2]
        asked = (call.method, action.split("/")[0])  # logs/TARGET: there is one target
        if not name and call.method == "PUT":
            return PlainTextResponse(etls.init(call.message()))
        if not name and call.method == "GET":
            return json_answer(etls.describe())
        told = {("GET", ""): etls.view, ("GET", "logs"): etls.logs, ("GET", "health"): etls.health}
        if name and asked in told:
            return json_answer(told[asked](name))
        if asked == ("POST", "start"):
            return PlainTextResponse(etls.start(name))
        done = {("POST", "stop"): etls.stop, ("DELETE", ""): etls.delete}
        if not name or asked not in done:
            raise call.not_served()
        done[asked](name)
        return Response()


def _head_bucket(call: Call, bucket: Bucket) -> Response:
    properties = {
        "provider": "ais",
        "checksum": {"type": "xxhash2"},
        "versioning": {"enabled": True},
        "mirror": {"copies": 1, "enabled": False},
        "access": str(2**64 - 1),
        "created": str(bucket.created_ns),
    }
    headers = {"Ais-Bucket-Props": json.dumps(properties)}
    if "presence" in call.query or "bsumm_remote" in call.query:  # bucket.info() asks, then asks with the id
        finished = bool(call.query.get("uuid"))
        headers["Ais-Xaction-Id"] = header(call.query.get("uuid", "")) or secrets.token_urlsafe(6)
        if finished:
            headers["Ais-Bucket-Summ"] = json.dumps(_summary_of(bucket))
        return Response(status_code=200 if finished else 202, headers=headers)
    return Response(headers=headers)


def _list_objects(call: Call, bucket: Bucket, value: Message) -> Response:
    size = value.whole("pagesize") or DEFAULT_PAGE_SIZE
    token = value.text("continuation_token")
    properties = set(re.split(r"[, ]+", value.text("props")))
    recursive = not value.whole("flags") & _NO_RECURSION
    page = bucket.page(value.text("prefix"), token, size, recursive)
    token = page[-1][0] if len(page) == size else ""
    uuid = value.text("uuid") or secrets.token_urlsafe(6)
    if _MSGPACK_TYPE in call.headers.get("accept", ""):
        entries = [_listed(name, entry, properties) for name, entry in page]
        listing = {"UUID": uuid, "ContinuationToken": token, "Entries": entries or None, "Flags": 0}
        return Response(msgspec.msgpack.encode(listing), media_type=_MSGPACK_TYPE)
    objects = [
        {"name": name, "size": str(entry.size), "flags": _PRESENT} if entry else {"name": name, "flags": _FOLDER}
        for name, entry in page
    ]
    return json_answer({"uuid": uuid, "continuation_token": token, "entries": objects or None, "flags": 0})


def _bucket_model(key: str) -> dict[str, Any]:
    namespace, _, name = key.rpartition("/")
    return {"name": name, "provider": "ais", "namespace": {"uuid": "", "name": namespace.removeprefix("#")}}


def _summary_of(bucket: Bucket) -> dict[str, Any]:
    total = bucket.total_bytes()
    return {
        **_bucket_model(bucket.name),
        "obj_count": {"obj_count_present": str(len(bucket)), "obj_count_remote": "0"},
        "size": {"size_on_disk": str(total), "size_all_present_objs": str(total), "size_all_remote_objs": "0"},
        "is_present": True,
    }


def _listed(name: str, entry: Entry | None, properties: set[str]) -> dict[str, Any]:
    if entry is None:
        return {"n": name, "f": _FOLDER}
    item: dict[str, Any] = {"n": name, "f": _PRESENT}
    if entry.size:
        item["s"] = entry.size
    if "checksum" in properties and not (entry.read_only and entry.path):  # a served folder is not read for a listing
        item["cs"] = entry.xxhash2()
    if "atime" in properties:
        item["a"] = time.strftime("%d %b %y %H:%M UTC", time.gmtime(entry.mtime_ns / 1e9))
    if "version" in properties:
        item["v"] = str(entry.version)
    if "location" in properties:
        item["t"] = _LOCATION
    if "copies" in properties:
        item["c"] = 1
    return item
