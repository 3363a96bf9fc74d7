"""One upload at a time to a bucket, also from several machines.

Whoever uploads leaves an object with a name of its own and goes on if no other one lives beside it. AIS has no "create
if missing", so each puts first and lists then: of two that start at once, at least one sees the other. The holder
writes its object anew every ten seconds. One that was left by a crash is told by its process on the same machine, and
elsewhere because it did not change in thirty seconds of watching it.
"""

import json
import random
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from aistore.sdk.errors import AISError
from requests.exceptions import RequestException

from aistore_data.bucket.layout import BESIDE
from aistore_data.upload.destination import words
from sources.errors import ClusterError, ConfigError, UserError
from sources.owner import describe, is_process_alive, myself

CLAIMS = f"{BESIDE}uploads/"
RENEW_S = 10.0
STALE_S = 30.0
_TRIES = 5


class Claim:
    """Holds an SDK bucket for an upload as long as its context."""

    def __init__(self, bucket: Any, uri: str, say: Callable[[str], None]) -> None:
        self.bucket = bucket
        self.uri = uri
        self.name = f"{CLAIMS}{uuid.uuid4().hex}"
        self._say = say
        self._beats = 0
        self._lost = ""
        self._done = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="claim", daemon=True)

    def __enter__(self) -> "Claim":
        """Raises ConfigError if another upload goes on, ClusterError if the bucket cannot be written to."""
        living: list[str] = []
        try:
            for _ in range(_TRIES):
                self._write()
                living = [content for name, content in self._others() if self._is_alive(name, content)]
                if not living:
                    self._renewer.start()
                    return self
                self._delete(self.name)
                if any(is_process_alive(content) is not None for content in living):
                    break  # surely another one: both of two that began at once would be waited for
                time.sleep(random.uniform(0, 2))  # noqa: S311
        except BaseException as error:
            self._delete(self.name)
            if isinstance(error, AISError | RequestException):
                raise ClusterError(f"{self.uri} cannot be written to: {words(error)}.") from None
            raise
        raise ConfigError(
            f"another upload to {self.uri} is going on{describe(living[0])}: wait for it, stop it, or use another "
            "bucket."
        )

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._renewer.join()
        self._delete(self.name)

    def check(self) -> None:
        """Raises UserError if another upload has taken the bucket over, or the claim could not be kept up."""
        if self._lost:
            raise UserError(f"the upload to {self.uri} stops: {self._lost}. The same command goes on.")

    def _write(self) -> None:
        self._beats += 1
        content = json.dumps(myself() | {"beat": self._beats})
        self.bucket.object(self.name).get_writer().put_content(content.encode())

    def _others(self) -> list[tuple[str, str]]:
        names = [entry.name for entry in self.bucket.list_objects(prefix=CLAIMS).entries if entry.name != self.name]
        contents = [(name, self._read(name)) for name in names]
        return [(name, content) for name, content in contents if content is not None]

    def _is_alive(self, name: str, content: str) -> bool:
        """Whether the holder of another claim lives; a dead one's is removed."""
        known = is_process_alive(content)
        if known is None:
            self._say(f"{self.uri} is held{describe(content)}; waiting {STALE_S:.0f} s for a sign of life")
            known = self._changes(name, content)
        if not known:
            self._delete(name)
        return known

    def _changes(self, name: str, content: str) -> bool:
        end = time.monotonic() + STALE_S
        while time.monotonic() < end:
            time.sleep(STALE_S / 30)
            now = self._read(name)
            if now != content:
                return now is not None
        return False

    def _read(self, name: str) -> str | None:
        try:
            return bytes(self.bucket.object(name).get_reader().read_all()).decode("utf-8", "replace")
        except AISError as error:
            if error.status_code == 404:
                return None
            raise

    def _delete(self, name: str) -> None:
        """Of a claim that nobody holds any more. One that cannot be removed is told to be stale by the next."""
        try:
            self.bucket.object(name).delete()
        except (AISError, RequestException) as error:
            if getattr(error, "status_code", 0) != 404:
                self._say(f"{self.uri}/{name} could not be removed: {words(error)}")

    def _renew(self) -> None:
        failed_since: float | None = None
        while not self._done.wait(RENEW_S):
            try:
                if self._read(self.name) is None:
                    self._lost = "it stood still for long, and another one has taken the bucket over"
                    return
                self._write()
                failed_since = None
            except Exception as error:  # whatever it is, as a token's file that is just being replaced
                failed_since = failed_since or time.monotonic()
                if time.monotonic() - failed_since > STALE_S - RENEW_S:
                    why = words(error) if isinstance(error, AISError | RequestException) else str(error)
                    self._lost = f"its claim on the bucket could not be renewed: {why}"
                    return
