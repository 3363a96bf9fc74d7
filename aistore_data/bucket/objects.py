"""All objects of a bucket, however many there are."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aistore.sdk.list_object_flag import ListObjectFlag

_LISTINGS = 16
"""Folders that are listed at a time."""


def iter_objects(bucket: Any, prefix: str = "", props: str = "", page_size: int = 0) -> Iterator[Any]:
    """The SDK's entries of all objects below ``prefix`` of an SDK bucket, in an order that their names alone decide.

    AIS (5.0) walks folders in the order of their own names, but goes on from page to page by whole names; so a listing
    of several pages loses objects where one folder's name begins another's ("tiger/", "tiger cat/": a blank comes
    before the slash). What does not fit on a page (10,000 names) is therefore listed folder by folder.
    """
    page = bucket.list_objects(prefix=prefix, props=props, page_size=page_size)
    if not page.continuation_token:
        yield from page.entries
        return
    folders = []
    for entry in bucket.list_objects_iter(prefix, props, page_size, flags=[ListObjectFlag.NO_RECURSION]):
        if entry.name.endswith("/"):
            folders.append(entry.name)
        else:
            yield entry
    with ThreadPoolExecutor(_LISTINGS) as pool:
        for below in pool.map(lambda folder: list(iter_objects(bucket, folder, props, page_size)), folders):
            yield from below
