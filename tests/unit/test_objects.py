"""Listings that AIStore pages in its own way."""

from types import SimpleNamespace
from typing import Any

from aistore.sdk.list_object_flag import ListObjectFlag

from aistore_data.bucket.store import iter_objects


class WalkedBucket:
    """Lists like AIStore 5.0: folder by folder in the order of their own names, and on from page to page by whole names."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def pages(self, prefix: str, size: int, recursive: bool) -> list[list[Any]]:
        below = [name.removeprefix(prefix) for name in self.names if name.startswith(prefix)]
        below = below if recursive else [f"{folder}{slash}" for folder, slash, _ in (n.partition("/") for n in below)]
        walk = [prefix + name for name in sorted(set(below), key=lambda name: name.split("/"))]
        pages: list[list[Any]] = []
        token = ""
        while walk:
            page, walk = sorted(walk[:size]), walk[size:]
            pages.append([SimpleNamespace(name=name) for name in page])
            token = page[-1]
            walk = [name for name in walk if name > token]
        return pages or [[]]

    def list_objects(self, prefix: str, props: str, page_size: int) -> Any:
        pages = self.pages(prefix, page_size, recursive=True)
        return SimpleNamespace(entries=pages[0], continuation_token=pages[0][-1].name if len(pages) > 1 else "")

    def list_objects_iter(self, prefix: str, props: str, page_size: int, flags: list[ListObjectFlag]) -> list[Any]:
        recursive = ListObjectFlag.NO_RECURSION not in flags
        return [entry for page in self.pages(prefix, page_size, recursive) for entry in page]


def test_a_listing_of_several_pages_is_complete() -> None:
    folders = ["tiger", "tiger cat", "tiger shark", "tigers", "tiger.x/y"]
    names = sorted(f"train/{folder}/{number}.jpg" for folder in folders for number in range(5))
    bucket = WalkedBucket([*names, "val/1"])
    lost = set(names) - {entry.name for entry in bucket.list_objects_iter("train/", "", 6, [])}
    assert lost
    assert sorted(entry.name for entry in iter_objects(bucket, "train/", page_size=6)) == names
    assert sorted(entry.name for entry in iter_objects(bucket, page_size=6)) == [*names, "val/1"]
    assert list(iter_objects(bucket, "test/", page_size=6)) == []
