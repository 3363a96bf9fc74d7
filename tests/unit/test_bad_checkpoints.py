"""Whatever lies in a checkpoint's place: it is gone on from as it was written, or a sentence says why not."""

import itertools
import json
import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from sources.errors import UserError
from tests.support.bad_checkpoints import archived, damaged_files, flipped, real_state, with_absurd_contents
from training.model.torchvision_models import load_weights
from training.run_dir import checkpoint
from training.state.checkpoint_contents import FORMAT, KEYS, check, check_fits, check_format, migrated
from training.state.compatibility import changes_of_result


def problem(state: Any) -> str:
    """What is wrong with the contents of a checkpoint; empty if it fits the model that ``real_state`` is of."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if not isinstance(state, dict) or not all(key in state for key in KEYS):
        return "not a checkpoint"
    try:
        check_format(state)
        state = migrated(state)
        check(state)
        check_fits(model, optimizer, state, "sgd")
        load_weights(model, state["model"], "it", "linear")
    except (ValueError, UserError) as error:
        return str(error)
    optimizer.load_state_dict(state["optimizer"])
    model(torch.ones(1, 3)).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    json.dumps([state["environment"], state["changes"], state["validation"]])
    return "; ".join(map(str, changes_of_result(state, NOW)))


def test_absurd_contents_are_a_sentence() -> None:
    """Or they are something that the run goes on with: older versions wrote less, and figures may be anything."""
    cases = [(what, problem(state)) for what, state in with_absurd_contents()]
    taken = [what for what, found in cases if not found and not RIGHT.match(what)]
    assert taken == []
    assert len(cases) > 1000 and all(len(found) < 1000 and "\n" not in found for _, found in cases)
    assert sum(bool(found) for _, found in cases) > 900


FORMER = {"seed": 0, "train": {"epochs": 3, "schedule": "step"}, "submit": {"nodes": 2}}
"""The configuration of the same run as versions with format 1 recorded it."""

NOW = {name: real_state()[name] for name in ("config", "environment")}

RIGHT = re.compile(
    r"config.seed = a dict of 0|without (?!model|optimizer|schedule|epoch$|batches_done|best_acc1|config|environment|validation)"
    r"|schedule = a dict"  # it is made of the position
    r"|config.train.epochs = |config = a dict of 0|config.(train|optim) = a dict of 0"  # more epochs of these steps; defaults
    r"|(scaler|optimizer.state|optimizer.state.0|epoch_tally|interval_tally) = a dict of [012]"
    r"|optimizer.state.0.momentum_buffer = None"
    r"|(counts|counts_before) = (\[\]|\(\))|(replaced|changes) = \[\]"
    r"|(train_s|epoch_tally.seconds|best_acc1) = 2.5|\S+ = 1000000000000000000$"
    r"|steps_per_epoch = None|validation.acc1 = (-5|2.5|nan|-inf)"
)


@pytest.mark.parametrize("state", [real_state(), real_state() | {"scaler": {}, "format": 1, "config": FORMER}])
def test_a_real_one_is_right(state: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(archived(state))
    assert problem(state) == "" and checkpoint.load(tmp_path / "last.pt")["epoch"] == 1


def refusal(path: Path) -> str:
    """The sentence about a file, which keeps to our words."""
    with pytest.raises(UserError) as error:
        checkpoint.load(path)
    said = str(error.value)
    assert str(path) in said and "weights_only" not in said and "\n" not in said and len(said) < 1000
    return said


def test_damaged_files_are_a_sentence_and_run_no_code(tmp_path: Path) -> None:
    path, mark = tmp_path / "last.pt", tmp_path / "mark"
    cases = list(damaged_files(archived(real_state()), mark))
    before = peak_bytes()
    for _, content in cases:
        path.write_bytes(content)
        refusal(path)
    assert len(cases) > 60 and not mark.exists()
    assert peak_bytes() - before < 300 << 20, "something was unpacked"


@pytest.mark.parametrize("times", [100, pytest.param(5000, marks=pytest.mark.long)])
def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path, times: int, seed: int) -> None:
    path, state = tmp_path / "last.pt", real_state()
    whole = archived(state)
    expected, found = repr(migrated(state)), 0
    for what, content in flipped(whole, times, seed):
        path.write_bytes(content)
        try:
            loaded = checkpoint.load(path)
        except UserError as error:
            found += 1
            assert str(path) in str(error) and "weights_only" not in str(error)
        else:
            assert repr(loaded) == expected, what
    assert found


def test_every_flipped_bit_of_a_record_s_entry_is_found_or_changes_nothing(tmp_path: Path) -> None:
    """zipfile and torch read an archive's list of records with different eyes: one bit makes a folder of a tensor."""
    path, state = tmp_path / "last.pt", real_state()
    whole, expected = archived(state), repr(migrated(state))
    begin = whole.index(b"PK\x01\x02", whole.index(b"archive/data/3PK\x01\x02"))
    for place, bit in itertools.product(range(begin, whole.index(b"PK\x01\x02", begin + 1)), range(8)):
        content = bytearray(whole)
        content[place] ^= 1 << bit
        path.write_bytes(content)
        try:
            assert repr(checkpoint.load(path)) == expected, f"bit {bit} of byte {place - begin} of the entry"
        except UserError as error:
            assert str(path) in str(error)


def test_every_flipped_bit_of_the_weights_is_found(tmp_path: Path) -> None:
    path, whole = tmp_path / "last.pt", archived(real_state())
    begin = whole.index(real_state()["model"]["weight"].numpy().tobytes())
    for place in range(begin, begin + 24):
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        assert "is not what was written (the checksum differs)" in refusal(path)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "device", "unreadable"])
def test_what_is_no_file_is_a_sentence(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "unreadable":
        path.write_bytes(archived(real_state()))
        monkeypatch.setattr(
            "training.run_dir.torch_files.is_archive", lambda path: (_ for _ in ()).throw(OSError(5, "EIO"))
        )
    refusal(path)


def test_an_older_format_is_completed_and_a_newer_one_refused(tmp_path: Path) -> None:
    path, older = tmp_path / "last.pt", real_state()
    for name in ("stream_total", "validation", "train_s", "interval_tally", "format", "scaler"):
        del older[name]
    older["epoch"], older["counts"] = 0, [5]
    path.write_bytes(archived(older))
    state = checkpoint.load(path)
    assert (state["stream_total"], state["validation"], state["counts"][:2]) == (0, {}, [5, 0])
    path.write_bytes(archived(real_state() | {"format": FORMAT + 1}))
    assert f"has format {FORMAT + 1}, and this version reads formats up to {FORMAT}" in refusal(path)


def test_the_checkpoint_before_a_damaged_one_is_named_and_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, real_state() | {"epoch": 1, "batches_done": 0}, [checkpoint.epoch_name(0)])
    path = checkpoint.save(tmp_path, real_state())
    content = bytearray(path.read_bytes())
    content[content.index(real_state()["model"]["weight"].numpy().tobytes())] ^= 4
    path.write_bytes(content)
    found = checkpoint.newest(tmp_path)
    assert found is not None and found[0].name == "epoch-0000.pt" and found[1]["batches_done"] == 0
    assert f"{path} is damaged" in capsys.readouterr().out
    assert "beside it: epoch-0000.pt" in refusal(path)
    assert checkpoint.newest_position(tmp_path) == (1, 0)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
