"""How the processes of a run find each other, and make sure that they are of one run, before any depends on another."""

import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore

from sources.errors import ConfigError, UserError
from training.processes.world import LOOPBACK, World
from training.report.output import put_error

_PATIENCE = timedelta(hours=1)
"""The timeout of collectives: rank 0 may list a bucket for this long. A rank that died is noticed at once."""

_ANSWER_S = 1.0
"""Seconds after which a wait for others pauses, to notice signals and to see again which rank is whose."""

TELL_S = 5.0
"""Seconds after which a process says which others it waits for."""

_PREFIX = "imagenet-ais"

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""By the type of the device. Tensors in CPU memory go over gloo also on GPUs: a flag must not wait for the GPU."""


@contextmanager
def process_group(
    world: World, find_device: Callable[[], torch.device], facts: dict[str, Any], meet_s: float
) -> Iterator[torch.device]:
    """Join the other processes, once all agree on ``facts``; answers the device, and leaves when done.

    GPUs talk by NCCL, CPUs by gloo. Raises ConfigError on all ranks, naming the one, where ``find_device`` fails on any
    or facts differ from rank 0's; raises UserError where they cannot meet.
    """
    if world.size == 1:
        yield _use(find_device())
        return
    try:
        device: torch.device | None = find_device()
        facts = facts | {"device": device.type if device else ""}
    except ConfigError as error:
        device, facts = None, {"error": str(error)}
    store = agree(meet(world, meet_s), world, facts)
    assert device is not None  # else nobody agreed
    _use(device)
    backend = BACKENDS[device.type]
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=_PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _use(device: torch.device) -> torch.device:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def meet(world: World, limit_s: float) -> Any:
    """The store through which processes find each other; rank 0 serves it, or torchrun's agent does.

    Waits in pieces of a second, so that signals are heard. Raises UserError after ``limit_s``.
    """
    host, port = _address(world)
    where = f"{host}:{port} (MASTER_ADDR and MASTER_PORT)" if world.init_method == "env://" else world.init_method
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and world.init_method == "env://"
    serves = world.is_main and not by_agent
    waiting = _Waiting(f"rank {world.rank} waits at {where} for {'torchrun' if by_agent else 'rank 0'}", limit_s)
    while True:
        try:
            return _store(host, port, serves, world.one_host and not by_agent, timedelta(seconds=limit_s))
        except (RuntimeError, OSError) as error:  # DistError is one, and torch 2.6 raises others
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if serves or waiting.is_over():
                raise UserError(
                    f"the {world.size} processes could not meet at {where}: {reason} "
                    "If the port is in use, set MASTER_PORT to a free one; if the host is wrong, set MASTER_ADDR."
                ) from None
        time.sleep(0.1)


def _store(host: str, port: int, serves: bool, loopback: bool, timeout: timedelta) -> Any:
    """The meeting point's store; one for processes of this machine alone listens on the loopback alone."""
    open_store, host = (store_on_loopback, LOOPBACK) if loopback else (TCPStore, host)
    common: dict[str, Any] = {"host_name": host, "port": port, "wait_for_workers": False}
    if serves:
        return PrefixStore(_PREFIX, open_store(is_master=True, timeout=timeout, **common))
    socket.create_connection((host, port), _ANSWER_S).close()  # torch's own attempts fill the screen
    store = open_store(timeout=timedelta(seconds=10), **common)
    store.set_timeout(timeout)
    return PrefixStore(_PREFIX, store)


def store_on_loopback(*arguments: Any, **words: Any) -> TCPStore:
    """A ``TCPStore`` that listens on the loopback alone: what torch opens listens on all interfaces."""
    names = ("host_name", "port", "world_size", "is_master", "timeout")
    given = dict(zip(names, arguments, strict=False)) | words | {"host_name": LOOPBACK}
    if given.get("is_master"):
        listener = socket.create_server((LOOPBACK, given["port"]))
        given |= {"port": listener.getsockname()[1], "master_listen_fd": listener.detach()}
    try:
        return TCPStore(**given)
    except NotImplementedError:  # torch 2.6, whose newer backend takes no socket that listens already
        return TCPStore(**given, use_libuv=False)


class _Waiting:
    """Says after ``TELL_S`` seconds, and again from time to time, what is waited for; over after ``limit_s``."""

    def __init__(self, what: str, limit_s: float) -> None:
        self.what = what
        self.limit_s = limit_s
        self._begin = time.monotonic()
        self._next = TELL_S

    def is_over(self) -> bool:
        """Whether there is no time left; says so when it is due."""
        waited = time.monotonic() - self._begin
        if waited >= self._next:
            put_error(f"{self.what}: for {waited:.0f} s, up to {self.limit_s:g} s (meet_s)")
            self._next = max(waited, self._next) + 30
        return waited >= self.limit_s

    def go_on(self, advice: str) -> None:
        """Raise UserError if there is no time left."""
        if self.is_over():
            raise UserError(f"{self.what}: gave up after {self.limit_s:g} s (meet_s). {advice}")


def _address(world: World) -> tuple[str, int]:
    """Host and port of the meeting point. Raises ConfigError."""
    if world.init_method == "env://":
        host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    else:
        host, _, port = world.init_method.removeprefix("tcp://").rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 65536:
        raise ConfigError(
            f"WORLD_SIZE={world.size}, but MASTER_ADDR={host} and MASTER_PORT={port} do not say where the processes "
            "meet: set both to rank 0's host and a free port of it, or start the processes by torchrun."
        )
    return host, int(port)


def agree(store: Any, world: World, facts: dict[str, Any]) -> Any:
    """Rank 0 compares what all ranks say of themselves, before they depend on each other.

    Answers a store in which nobody has written yet: torchrun may keep its own when it starts all processes again, with
    what those wrote that have ended, addresses among it. So each process draws a name, and rank 0's is the attempt's.
    """
    name = secrets.token_hex(8)
    mine = facts | {"name": name, "host": socket.gethostname()}
    if not world.is_main:
        store.set(f"facts/{world.rank}", json.dumps(mine))
        limit_s = store.timeout.total_seconds()
        waiting = _Waiting(f"rank {world.rank} waits for rank 0, which compares all {world.size} processes", limit_s)
        attempt = _get(store, f"attempt/{name}", waiting).decode()
        store.set(f"{attempt}/{name}", "here")
        if _get(store, f"{attempt}/verdict", waiting):
            raise SystemExit(ConfigError.exit_code)  # rank 0 says why
        return PrefixStore(attempt, store)
    verdict = ""
    waiting = _Waiting("", store.timeout.total_seconds())
    for rank in range(world.size):
        waiting.what = f"rank 0 waits for rank {rank} of {world.size} processes"
        other = _facts_of(store, rank, name, waiting) if rank else mine
        differing = [f"{key}: {value} → {other.get(key)}" for key, value in facts.items() if other.get(key) != value]
        if "error" in other:
            verdict = f"rank {rank} on {other['host']}: {other['error']}"
        elif differing and not verdict:
            verdict = (
                f"rank {rank} on {other['host']} is not like rank 0: {'; '.join(differing[:5])}. "
                "All processes need the same command, code and packages."
            )
    store.set(f"{name}/verdict", verdict)
    if verdict:
        if world.size > 1:
            time.sleep(1)  # rank 0 holds the store: let the others read it
        raise ConfigError(verdict)
    return PrefixStore(name, store)


def _get(store: Any, key: str, waiting: _Waiting) -> bytes:
    """A value, once it is there. Raises UserError if it is not in time, and DistError if the store is gone."""
    while not _comes(store, key):
        waiting.go_on("See why it did not start, or has ended.")
    return store.get(key)


def _comes(store: Any, key: str) -> bool:
    """Whether a key is there within ``_ANSWER_S``."""
    end = time.monotonic() + _ANSWER_S
    while not (there := store.check([key])) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(there)


def _facts_of(store: Any, rank: int, attempt: str, waiting: _Waiting) -> dict[str, Any]:
    """What another rank says of itself, once it has answered. Raises UserError if none does in time."""
    while True:
        facts: dict[str, Any] = json.loads(_get(store, f"facts/{rank}", waiting))
        store.set(f"attempt/{facts['name']}", attempt)
        if _comes(store, f"{attempt}/{facts['name']}"):
            return facts
        waiting.go_on("The one that came has ended.")  # those are its facts, or this one is slow
