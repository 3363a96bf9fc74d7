"""A thread beside training that sees to broken ETLs: it asks whether they work again, and on rank 0 repairs them."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Event, Thread

from aistore_data.bucket.photos import some_objects
from aistore_data.client.access import object_path
from aistore_data.client.http_reader import HttpReader
from aistore_data.dataset.policy import Remote, uname
from etl.code import code_sha256
from sources.errors import ClusterError, ObjectError
from sources.shards.manifest import ShardManifest

PERIOD_S = 1.0
_PROBE_S = 2.0
_REPAIR_S = 5.0
"""Seconds before another repair is tried; twice as many each time, up to a minute."""


@dataclass
class _Watched:
    remote: Remote
    repair: Callable[[], None] | None
    next_repair: float = 0.0
    pause_s: float = _REPAIR_S
    failed_probes: int = 0
    open: bool = False
    banned: bool = False
    out_of_step: int = 0


class EtlMonitor:
    """Watches ETLs until it is closed; ``say`` hears what happens.

    ``watched``: the splits whose ETLs they are, and what mends each of them, for rank 0 where they are ours; without it
    they are only asked. One keeper of each machine is enough: its workers share the breakers.
    """

    def __init__(self, watched: Sequence[tuple[Remote, Callable[[], None] | None]], say: Callable[[str], None]) -> None:
        self._watched = [_Watched(*pair) for pair in watched]
        access = replace(watched[0][0].access, connect_timeout_s=_PROBE_S, read_timeout_s=_PROBE_S)
        self._reader = HttpReader(access)
        self._say = say
        self._waiting_said = 0.0
        self._done = Event()
        self._thread = Thread(target=self._watch, name="keeper", daemon=True)

    def __enter__(self) -> "EtlMonitor":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join(_PROBE_S)

    def _watch(self) -> None:
        failed = ""
        while not self._done.wait(PERIOD_S):
            try:
                self._look_at_waiting()
                for watched in self._watched:
                    self._look_at(watched)
                    self._count_out_of_step(watched)
            except Exception as error:  # of any library: the watch must go on
                what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                if what != failed:
                    self._say(f"the watch over the ETLs met an error, and goes on: {what}")
                failed = what

    def _look_at_waiting(self) -> None:
        waiting_s = max(watched.remote.breakers.waiting_s() for watched in self._watched)
        if waiting_s == 0:
            if self._waiting_said:
                self._say("the cluster answers again")
            self._waiting_said = 0.0
        elif waiting_s > 2 and (not self._waiting_said or time.monotonic() - self._waiting_said > 30):
            remote = self._watched[0].remote
            self._say(
                f"the cluster at {remote.access.endpoint} gives neither samples nor objects: waiting for "
                f"{waiting_s:.0f} s, up to {remote.patience_s:g} s (data.patience_s)"
            )
            self._waiting_said = time.monotonic()

    def _count_out_of_step(self, watched: _Watched) -> None:
        total = watched.remote.breakers.answers_out_of_step
        if total >= max(2 * watched.out_of_step, 1):  # each time that they have doubled
            watched.out_of_step = total
            self._say(
                f"{total:,} of the cluster's answers for {watched.remote.uri} were not those to the requests before "
                "them: they were not used, and the samples asked for again. Something between here and the cluster "
                "mixes them up"
            )

    def _look_at(self, watched: _Watched) -> None:
        breakers, name = watched.remote.breakers, watched.remote.etl_name
        if breakers.banned:
            if not watched.banned:
                self._say(f"ETL {name} makes other pixels than this machine: it is not asked any more")
            watched.banned = True
            return
        opened = breakers.opened()
        if opened and not watched.open:
            hosts = ", ".join(watched.remote.placement.hosts[node] for node in opened)
            self._say(f"ETL {name} fails on {hosts}: samples are made here until it works again")
        watched.open = bool(opened)
        broken = [node for node in opened if not self._works(watched.remote, node)]
        for node in set(opened) - set(broken):
            breakers.close(node)
        if opened and not broken:
            self._say(f"ETL {name} works again")
            watched.open, watched.failed_probes, watched.pause_s = False, 0, _REPAIR_S
        elif broken:
            watched.failed_probes += 1
            self._repair(watched, broken[0])

    def _works(self, remote: Remote, node: int) -> bool:
        """Whether the ETL on a node answers, and runs the code of this version, as far as it knows."""
        answer = self._get(remote, node, etl_name=remote.etl_name, etl_args='{"wire":"info"}')
        try:
            return answer is not None and json.loads(answer)["code"] in ("", code_sha256())
        except (ValueError, KeyError, TypeError):
            return False

    def _get(self, remote: Remote, node: int, **query: str) -> bytes | None:
        """What a GET of an object on this node is answered; None for an error."""
        prefix, placement = uname(remote.uri), remote.placement
        names = some_objects(remote.manifest, 1000)
        name = next((name for name in names if placement.numbers_of([prefix + name]) == [node]), names[0])
        part = (0, 1) if isinstance(remote.manifest, ShardManifest) and not query else None
        try:
            return self._reader.get(object_path(remote.uri, name, **query), part=part)
        except (ObjectError, OSError, ClusterError):  # the token's file may be gone, too
            return None

    def _repair(self, watched: _Watched, node: int) -> None:
        """Stop and start it, once it is clear that the cluster is well and the ETL is not."""
        now = time.monotonic()
        if watched.repair is None or watched.failed_probes < 2 or now < watched.next_repair:
            return
        if self._get(watched.remote, node) is None:
            return
        name = watched.remote.etl_name
        self._say(f"ETL {name} is being repaired")
        try:
            watched.repair()
        except ClusterError as error:
            self._say(f"ETL {name} could not be repaired: {str(error).splitlines()[0]}")
        watched.next_repair = time.monotonic() + watched.pause_s
        watched.pause_s = min(60.0, 2 * watched.pause_s)
