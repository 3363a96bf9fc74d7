"""What a tar is to readers of shards: ``etl.tar_members`` reads its headers, and what is wrong is a DataError."""

from collections.abc import Iterator

from etl import tar_members
from etl.tar_members import BLOCK, DAMAGED, MAKE_ANEW, MAKE_SHARDS, BadTar, Headers, Member, crc32_of
from sources.errors import DataError

__all__ = ["BLOCK", "DAMAGED", "MAKE_ANEW", "MAKE_SHARDS", "Headers", "Member", "crc32_of", "members_of"]


def members_of(path: str, file: Headers) -> Iterator[Member]:
    """As ``etl.tar_members.members_of``; raises DataError."""
    try:
        yield from tar_members.members_of(path, file)
    except BadTar as error:
        raise DataError(str(error)) from None
