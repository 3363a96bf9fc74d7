"""The proxy: buckets, listings, ETL life cycle; object calls are redirected to the target."""

import html
import json
import re
import secrets
import time
from typing import Any

import msgspec.msgpack

from aistore_data.embedded.errors import PROXY_ID, TARGET_ID
from aistore_data.embedded.messages import Message
from aistore_data.embedded.node import NodeHandler, signed_location
from aistore_data.embedded.store import DEFAULT_PAGE_SIZE, Bucket, Entry

_MSGPACK_TYPE = "application/msgpack"
_PRESENT, _FOLDER = 64, 256
_NO_RECURSION = 1 << 11
_LOCATION = f"t[{TARGET_ID}]:mp[embedded]"


class ProxyHandler(NodeHandler):
    """What the public endpoint answers."""

    node_id = PROXY_ID

    def route(self) -> None:
        """Answers the request; raises ApiError."""
        if self.route_common():
            return
        kind = self.parts[1] if len(self.parts) > 1 else ""
        if kind == "objects" and len(self.parts) > 3:
            self._redirect()
        elif self.parts[1:3] == ["ml", "moss"] and self.command == "GET" and len(self.parts) > 3:
            self.reply(307, headers={"Location": self._location()})
        elif kind == "buckets":
            self._buckets()
        elif kind == "etl":
            self._etl()
        else:
            raise self.not_served()

    def _redirect(self) -> None:
        self.cluster.store.bucket(self.bucket_key())
        self.object_name()
        location = self._location()
        if self.command == "GET":
            body = f'<a href="{html.escape(location)}">Moved Permanently</a>.\n\n'.encode()
            self.reply(301, body, {"Location": location, "Content-Type": "text/html; charset=utf-8"})
        else:
            self.reply(307, headers={"Location": location})

    def _location(self) -> str:
        return signed_location(self.cluster, self.command, self.decoded_path, self.raw_query)

    # Buckets.

    def _buckets(self) -> None:
        name = self.bucket_key()
        if self.command == "HEAD":
            self._head_bucket(self.cluster.store.bucket(name))
            return
        message = self.message()
        action = (self.command, message.text("action"))
        if action == ("GET", "list") and not name:
            self.reply_json([_bucket_model(bucket) for bucket in self.cluster.store.names()])
        elif action == ("GET", "list"):
            self._list_objects(self.cluster.store.bucket(name), message.message("value"))
        elif action == ("POST", "create-bck"):
            self.cluster.store.create(name)
            self.reply()
        elif action == ("DELETE", "destroy-bck"):
            self.cluster.store.destroy(name)
            self.reply()
        elif action == ("GET", "summary-bck"):
            self._summary(name, message.message("value"))
        else:
            raise self.not_served()

    def _head_bucket(self, bucket: Bucket) -> None:
        properties = {
            "provider": "ais",
            "checksum": {"type": "xxhash2"},
            "versioning": {"enabled": True},
            "mirror": {"copies": 1, "enabled": False},
            "access": str(2**64 - 1),
            "created": str(bucket.created_ns),
        }
        headers = {"Ais-Bucket-Props": json.dumps(properties)}
        if "presence" in self.query or "bsumm_remote" in self.query:  # bucket.info() asks, then asks with the id
            finished = bool(self.query.get("uuid"))
            headers["Ais-Xaction-Id"] = self.query.get("uuid") or secrets.token_urlsafe(6)
            if finished:
                headers["Ais-Bucket-Summ"] = json.dumps(_summary_of(bucket))
            self.reply(200 if finished else 202, headers=headers)
        else:
            self.reply(headers=headers)

    def _summary(self, name: str, value: Message) -> None:
        names = [name] if name else self.cluster.store.names()
        buckets = [self.cluster.store.bucket(item) for item in names]
        if value.text("uuid"):
            self.reply_json([_summary_of(bucket) for bucket in buckets])
        else:
            self.reply(202, secrets.token_urlsafe(6).encode(), {"Content-Type": "text/plain; charset=utf-8"})

    def _list_objects(self, bucket: Bucket, value: Message) -> None:
        size = value.whole("pagesize") or DEFAULT_PAGE_SIZE
        token = value.text("continuation_token")
        properties = set(re.split(r"[, ]+", value.text("props")))
        recursive = not value.whole("flags") & _NO_RECURSION
        page = bucket.page(value.text("prefix"), token, size, recursive)
        token = page[-1][0] if len(page) == size else ""
        uuid = value.text("uuid") or secrets.token_urlsafe(6)
        if _MSGPACK_TYPE in self.headers.get("Accept", ""):
            entries = [_listed(name, entry, properties) for name, entry in page]
            listing = {"UUID": uuid, "ContinuationToken": token, "Entries": entries or None, "Flags": 0}
            self.reply(200, msgspec.msgpack.encode(listing), {"Content-Type": _MSGPACK_TYPE})
        else:
            objects = [
                {"name": name, "size": str(entry.size), "flags": _PRESENT}
                if entry
                else {"name": name, "flags": _FOLDER}
                for name, entry in page
            ]
            self.reply_json({"uuid": uuid, "continuation_token": token, "entries": objects or None, "flags": 0})

    # ETLs.

    def _etl(self) -> None:
        etls = self.cluster.etls
        name, action = [*self.parts[2:], "", ""][:2]
        action = action.split("/")[0]  # logs/TARGET: there is one target
        call = (self.command, action)
        if not name and self.command == "PUT":
            self._reply_text(etls.init(self.message()))
        elif not name and self.command == "GET":
            self.reply_json(etls.describe())
        elif name and call == ("GET", ""):
            self.reply_json(etls.view(name))
        elif call == ("GET", "logs"):
            self.reply_json(etls.logs(name))
        elif call == ("GET", "health"):
            self.reply_json(etls.health(name))
        elif call == ("POST", "start"):
            self._reply_text(etls.start(name))
        elif call == ("POST", "stop"):
            etls.stop(name)
            self.reply()
        elif name and call == ("DELETE", ""):
            etls.delete(name)
            self.reply()
        else:
            raise self.not_served()

    def _reply_text(self, text: str) -> None:
        self.reply(200, text.encode(), {"Content-Type": "text/plain; charset=utf-8"})


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
