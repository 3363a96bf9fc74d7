"""A store of objects, by the methods that its users share: the mirror, uploads, leases and listings."""

import pickle
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aistore.sdk.obj.object_writer import ObjectWriter
from requests.exceptions import ConnectionError as NoAnswerError

from aistore_data.bucket import store as module
from aistore_data.bucket.store import AisStore, Destination, Entry
from aistore_data.client.access import Access
from aistore_data.embedded import EmbeddedAIS
from aistore_data.upload.destination import Folder, present, put
from sources.errors import DataError, ObjectError


@pytest.fixture
def store(server: EmbeddedAIS) -> AisStore:
    """An empty bucket, below a prefix."""
    made = AisStore(f"ais://b-{uuid.uuid4().hex}/runs/a", Access(server.endpoint, server.token))
    made.create()
    return made


def test_names_are_below_the_prefix_and_stay_so_in_another_process(store: AisStore) -> None:
    whole = AisStore(store.uri.removesuffix("/runs/a"), store.access)
    store.put("x/1", b"one")
    pickle.loads(pickle.dumps(store)).put("x/2", b"two")
    whole.put("runs/ab", b"beside it")
    assert [(entry.name, entry.size) for entry in store.list("")] == [("x/1", 3), ("x/2", 3)]
    assert [entry.name for entry in whole.list("runs/")] == ["runs/a/x/1", "runs/a/x/2", "runs/ab"]
    assert all(entry.fits(store.get(entry.name)) and not entry.fits(b"two!") for entry in store.list("x/"))
    assert list(store.get_many(["x/2", "x/1", "x/2"])) == [[b"two", b"one", b"two"]]
    store.delete("x/1")
    assert [entry.name for entry in whole.list("")] == ["runs/a/x/2", "runs/ab"]


def test_an_object_is_read_whole_and_in_parts(store: AisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", 3)
    store.put("x", b"0123456789")
    assert list(store.read("x")) == [b"012", b"345", b"678", b"9"]
    assert b"".join(store.read("x", 2, 5)) == b"234" and b"".join(store.read("x", 7)) == b"789"
    with pytest.raises(ObjectError, match="status 200"):
        store.get("x", most=9)


def test_what_is_missing_is_told_by_its_status(store: AisStore) -> None:
    nothing = AisStore("ais://nothing", store.access)
    for ask in (nothing.head, lambda: store.get("x"), lambda: list(store.read("x")), lambda: store.delete("x")):
        with pytest.raises(ObjectError) as caught:
            ask()
        assert caught.value.status == 404 and store.explain(caught.value).startswith("status 404")


def test_a_put_is_tried_again_while_that_may_help(store: AisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAIT_S", 0.0)
    real, errors = ObjectWriter.put_content, [NoAnswerError("reset"), module.AISError(503, "busy", "", None)]

    def put_content(writer: ObjectWriter, content: bytes) -> Any:
        if errors:
            raise errors.pop()
        return real(writer, content)

    monkeypatch.setattr(ObjectWriter, "put_content", put_content)
    AisStore(store.uri, store.access, tries=3).put("x", b"1")
    errors[:] = [NoAnswerError("reset")]
    with pytest.raises(OSError, match="reset"):
        store.put("x", b"2")
    errors[:] = [module.AISError(507, "full", "", None)] * 2
    with pytest.raises(
        DataError, match=f"the upload to {store.uri} failed at x: status 507 full. What was written stays"
    ):
        put(AisStore(store.uri, store.access, tries=2), "x", b"2")
    assert store.get("x") == b"1"


def test_other_bytes_than_were_sent_are_an_error(store: AisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Ais-Checksum-Type": "xxhash2", "Ais-Checksum-Value": "0" * 16}
    monkeypatch.setattr(ObjectWriter, "put_content", lambda *_: SimpleNamespace(headers=headers))
    with pytest.raises(ObjectError, match="other bytes arrived than were sent"):
        store.put("x", b"1")


def test_a_folder_and_a_bucket_hold_the_same(store: AisStore, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    folder.prepare()
    destinations: list[Destination] = [folder, store]
    for destination in destinations:
        for name in ("train/a/b.jpg", "val/c.jpg", ".imagenet-ais/train/classes.json", "elsewhere"):
            put(destination, name, name.encode())
    (tmp_path / "out/.imagenet-ais/partial/half").touch()
    found = [{entry.name: entry.size for entry in present(destination).values()} for destination in destinations]
    assert found[0] == found[1] == {name: len(name) for name in found[0]} and len(found[0]) == 3
    assert list(folder.list("train/a/")) == [Entry("train/a/b.jpg", 13)]
    folder.finish()
    (tmp_path / "out/val/d").symlink_to(tmp_path)
    assert sorted(present(folder)) == [".imagenet-ais/train/classes.json", "train/a/b.jpg", "val/c.jpg", "val/d"]
