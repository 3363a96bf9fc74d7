"""One upload at a time to a bucket, also from several machines: a lease by objects, written anew to renew them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aistore_data.bucket.layout import METADATA_PREFIX
from aistore_data.bucket.store import ObjectStore
from sources.errors import ClusterError, ObjectError
from sources.lease import STALE_S, Lease
from sources.owner import myself

CLAIMS = f"{METADATA_PREFIX}uploads/"


def claim(store: ObjectStore, say: Callable[[str], None]) -> Lease:
    """A bucket, held for an upload as long as the context. Raises ConfigError, and ClusterError for other faults."""
    return Lease(_Bucket(store), say)


class _Bucket:
    """As ``sources.lease`` wants it; an entry's text is another one after each renewal."""

    prefix = CLAIMS
    is_strict = True

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.where = self.title = store.uri
        self.in_use = f"another upload to {store.uri} is going on"
        self.advice = "use another bucket"
        self.loss = (
            f"the upload stood still for {STALE_S:.0f} s or more, and another one has taken the bucket over. The same "
            "command goes on."
        )

    def names(self) -> list[str]:
        with self._asking():
            return [entry.name for entry in self._store.list(CLAIMS)]

    def read(self, name: str) -> tuple[str, object] | None:
        with self._asking():
            try:
                text = self._store.get(name).decode("utf-8", "replace")
            except ObjectError as error:
                if error.status == 404:
                    return None
                raise
        return text, text

    def put(self, name: str) -> None:
        with self._asking():
            self._store.put(name, json.dumps(myself() | {"beat": time.monotonic()}).encode())

    def renew(self, name: str) -> None:
        if self.read(name) is None:
            raise FileNotFoundError(name)
        self.put(name)

    def delete(self, name: str) -> None:
        with self._asking():
            try:
                self._store.delete(name)
            except ObjectError as error:
                if error.status != 404:
                    raise

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (ObjectError, OSError) as error:
            raise ClusterError(f"{self.where} cannot be written to: {self._store.explain(error)}") from None
