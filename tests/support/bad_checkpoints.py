"""Checkpoints that nobody's run has written: absurd contents, damage, bombs and code."""

import copy
import dataclasses
import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from training.state.progress import Progress


class _Calls:
    """A value whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def real_state() -> dict[str, Any]:
    """What a run of a linear layer with SGD and momentum saves in mid-epoch."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    progress = Progress(epoch=1, batches_done=2, validation={"loss": 1.0, "acc1": 50.0, "acc5": 100.0, "count": 9})
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": {"last_epoch": 8},
        "scaler": {},
        "config": {"seed": 0, "train": {"epochs": 3}, "optim": {"schedule": "step"}},
        "environment": {"versions": {"torch": "2.15"}, "data": {"train": {"samples": 24}}, "world_size": 1},
        "steps_per_epoch": 6,
        "format": 2,
        **dataclasses.asdict(progress),
    }


def _deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def _laughs() -> Any:
    """2**40 values that take 40 dicts of memory."""
    value: Any = {}
    for _ in range(40):
        value = {"a": value, "b": value}
    return value


ABSURD: list[Any] = [
    *(None, True, -5, 2.5, 10**18, 10**400, float("nan"), float("-inf"), "x", "", b"x", (), [], [-1], ["x"], {}),
    *({"a": 1}, {1: 2}, {"x": torch.ones(2)}, torch.tensor(1), torch.full((3,), float("nan")), set(), 1j),
    *(torch.ones(2, 2).to_sparse(), torch.nn.Parameter(torch.ones(1)), _deep(150), _laughs(), [[]] * 5, torch.float32),
]

PLACES = [
    *(("model",), ("model", "weight"), ("model", 5), ("optimizer",), ("optimizer", "state"), ("optimizer", "state", 0)),
    *(("optimizer", "state", 0, "momentum_buffer"), ("optimizer", "state", "x"), ("optimizer", "param_groups")),
    *(("optimizer", "param_groups", 0), ("optimizer", "param_groups", 0, "params"), ("schedule",), ("scaler",)),
    *(
        ("config",),
        ("config", "seed"),
        ("config", "train"),
        ("config", "train", "epochs"),
        ("config", "optim"),
        ("environment",),
    ),
    *(("environment", "versions"), ("environment", "data"), ("environment", "data", "train"), ("steps_per_epoch",)),
    *(("format",), ("epoch",), ("batches_done",), ("best_acc1",), ("train_s",), ("counts",), ("counts", 0)),
    *(("counts_before",), ("replaced",), ("stream_total",), ("changes",), ("validation",), ("validation", "acc1")),
    *(("epoch_tally",), ("epoch_tally", "sums"), ("epoch_tally", "seconds"), ("interval_tally",)),
]


def with_absurd_contents() -> Iterator[tuple[str, dict[str, Any]]]:
    """(what was done, state) for every place and absurd value, and for every entry that is missing."""
    whole = real_state()
    for place in PLACES:
        for value in ABSURD:
            state = copy.deepcopy(whole)
            inner: Any = state
            for part in place[:-1]:
                inner = inner[part]
            inner[place[-1]] = value
            said = repr(value)[:30] if not isinstance(value, dict) else f"a dict of {len(value)}"
            yield f"{'.'.join(map(str, place))} = {said if len(said) < 30 else type(value).__name__}", state
    for name in whole:
        state = {key: value for key, value in whole.items() if key != name}
        yield f"without {name}", state
    for value in ABSURD:
        yield f"only {type(value).__name__}", value


def archived(state: Any) -> bytes:
    """As ``torch.save`` writes it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _repacked(content: bytes, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return buffer.getvalue()


def _with_pickle(content: bytes, pickled: bytes) -> bytes:
    return _repacked(content, lambda name, old: pickled if name.endswith("/data.pkl") else old)


def damaged_files(whole: bytes, mark: Path) -> Iterator[tuple[str, bytes]]:
    """(what it is, content) of files that are no checkpoint; code in them would make the file ``mark``."""
    for number in range(40):
        yield f"cut off at {number}/40", whole[: len(whole) * number // 40]
    for less in (1, 10, 22, 100):
        yield f"cut off {less} bytes before the end", whole[:-less]
    yield "text", b"this is no checkpoint\n"
    yield "zeros", bytes(5000)
    yield "the beginning doubled", whole[:500] + whole
    yield "an archive of nothing", b"PK\x05\x06" + bytes(18)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("notes.txt", "hello")
    yield "an archive of something else", zipped.getvalue()
    yield "a pickle", pickle.dumps(real_state())
    old = io.BytesIO()
    torch.save(real_state(), old, _use_new_zipfile_serialization=False)
    yield "torch's former format", old.getvalue()
    compressed = _repacked(whole, lambda name, content: content, zipfile.ZIP_DEFLATED)
    yield "compressed", compressed
    yield "a bomb", _repacked(whole, lambda n, old: bytes(50 << 20) if n.endswith("/0") else old, zipfile.ZIP_DEFLATED)
    yield "without its pickle", _with_pickle(whole, b"")
    nested = b"\x80\x02" + b"}X\x01\0\0\0a" * 100_000 + b"}" + b"s" * 100_000 + b"."
    yield "a hundred thousand dicts in each other", _with_pickle(whole, nested)
    yield "a pickle that never ends", _with_pickle(whole, b"\x80\x02" + b"(" * 100_000)
    state = real_state()
    for name, value in (
        ("os.system", _Calls(os.system, f"touch {mark}")),
        ("eval", _Calls(eval, f"open({str(mark)!r}, 'w')")),
        ("exec", _Calls(exec, f"open({str(mark)!r}, 'w')")),
        ("getattr", _Calls(getattr, [], "append")),
        ("a gigabyte", _Calls(bytearray, 1 << 30)),
        ("another class", Path("x")),
    ):
        for protocol in (2, 4):
            content = state | {"validation": {"x": value}}
            buffer = io.BytesIO()
            torch.save(content, buffer, pickle_protocol=protocol)
            yield f"{name} by protocol {protocol}", buffer.getvalue()
        yield f"{name} in a plain pickle", pickle.dumps(value)


def flipped(whole: bytes, times: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """A file with one bit that is another one, at random places."""
    places = random.Random(seed)
    for _ in range(times):
        place, bit = places.randrange(len(whole)), places.randrange(8)
        content = bytearray(whole)
        content[place] ^= 1 << bit
        yield f"bit {bit} of byte {place}", bytes(content)
