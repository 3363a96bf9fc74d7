"""Data sets of smaller photos."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.shrink import main, shrink
from sources.folder import scan_folder
from tests.conftest import PROJECT

SIDE = 200
WORDS = ["--side", str(SIDE), "--quality", "80", "--measure", "20", "--workers", "2"]


@pytest.fixture(scope="module")
def folder(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photos of two classes, one of them damaged."""
    root = tmp_path_factory.mktemp("original")
    for number, photo in enumerate(photos[:120]):
        path = root / ("val" if number % 10 == 9 else "train") / f"class {number // 10 % 2}" / photo.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo.read_bytes())
    (root / "train" / "class 0" / "no photo.jpg").write_bytes(b"none")
    return root


def expected(folder: Path) -> dict[str, bytes]:
    files = (path for split in ("train", "val") for path in (folder / split).rglob("*.*"))
    return {str(path.relative_to(folder)): shrink(path.read_bytes(), SIDE, 80) for path in files}


def content(folder: Path) -> dict[str, bytes]:
    files = (path for split in ("train", "val") for path in (folder / split).rglob("*.*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = tmp_path / "small"
    assert main([str(folder), str(dest), *WORDS]) == 0
    assert content(dest) == expected(folder)
    printed = capsys.readouterr().out
    assert "121 photos stored, 0 were there already" in printed and "measured on 20 photos" in printed
    assert "The pixels differ from the original photos'" in printed
    for before, after in zip(scan_folder(folder), scan_folder(dest), strict=True):
        assert (before.labels.tolist(), before.classes) == (after.labels.tolist(), after.classes)
        assert before.names.tobytes() == after.names.tobytes() and before.sha256() != after.sha256()
    assert main([str(folder), str(dest), *WORDS]) == 0
    assert "0 photos stored, 121 were there already" in capsys.readouterr().out

    assert main([str(folder), str(dest), "--side", "100"]) == 2
    assert "holds other photos" in capsys.readouterr().err
    assert main([str(folder / "train"), str(tmp_path / "no"), *WORDS]) == 2
    for source, other in ((str(folder), "ais://small"), ("ais://whole", "ais://small"), ("ais://whole", str(dest))):
        with pytest.raises(SystemExit) as ended:
            main([source, other, *WORDS])
        assert ended.value.code == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "SOURCE and DEST are folders: shrink the folder that the bucket was uploaded from" in said
        assert "python -m aistore_data.upload DEST ais://BUCKET" in said


def test_killed_and_gone_on(folder: Path, tmp_path: Path, seed: int) -> None:
    dest, number = tmp_path / "small", random.Random(seed).randrange(1, 110)
    command = [sys.executable, "-m", "scripts.shrink", str(folder), str(dest), *WORDS]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and len(list(dest.glob("*/*/*"))) < number:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -9 and process.stderr is not None
    process.stderr.read()
    process.stderr.close()
    whole = expected(folder)
    assert all(whole[name] == data for name, data in content(dest).items())
    assert main([str(folder), str(dest), *WORDS]) == 0
    assert content(dest) == whole
