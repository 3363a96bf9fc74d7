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


class Claim(Lease):
    """Holds a bucket for an upload. Raises ClusterError for what fails."""

    advice = "use another bucket"
    loss = (
        f"the upload stood still for {STALE_S:.0f} s or more, and another one has taken the bucket over. The same "
        "command goes on."
    )
    is_strict = True

    def __init__(self, store: ObjectStore, say: Callable[[str], None]) -> None:
        super().__init__(CLAIMS, say)
        self._store = store
        self.where = self.title = store.uri
        self.in_use = f"another upload to {store.uri} is going on"

    def entries(self) -> list[str]:
        """As in ``Lease``."""
        with self._asking():
            return [entry.name for entry in self._store.list(CLAIMS)]

    def read(self, name: str) -> tuple[str, object]:
        """As in ``Lease``."""
        with self._asking(name):
            text = self._store.get(name).decode("utf-8", "replace")
        return text, text

    def put(self) -> None:
        """As in ``Lease``."""
        with self._asking():
            self._store.put(self.name, json.dumps(myself() | {"beat": time.monotonic()}).encode())

    def touch(self) -> None:
        """As in ``Lease``."""
        self.read(self.name)
        self.put()

    def delete(self, name: str) -> None:
        """As in ``Lease``."""
        with self._asking(name):
            self._store.delete(name)

    @contextmanager
    def _asking(self, name: str = "") -> Iterator[None]:
        """Raises FileNotFoundError where the object ``name`` is missing, ClusterError otherwise."""
        try:
            yield
        except (ObjectError, OSError) as error:
            if name and isinstance(error, ObjectError) and error.status == 404:
                raise FileNotFoundError(name) from None
            raise ClusterError(f"{self.where} cannot be written to: {self._store.explain(error)}") from None
