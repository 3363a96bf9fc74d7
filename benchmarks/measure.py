"""CPU time of a process and all that it started, and the table of medians that a benchmark prints."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def session_cpu_s() -> float:
    """CPU seconds, user and system, of all live processes of this process's session, and of those they waited for."""
    session, total = os.getsid(0), 0
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[3]) == session:
                total += sum(map(int, fields[11:15]))
    return total / TICKS_PER_S


def in_own_session(module: str, *arguments: str) -> dict[str, Any]:
    """Run ``python -m module arguments`` in a session of its own; answers the JSON object of its last line."""
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


@contextmanager
def photo_folder() -> Iterator[Path]:
    """The 1,000 photos of IMAGENET_TRAINER_DATA as an ImageFolder, in both splits. Exits with 2 without them."""
    data = os.environ.get("IMAGENET_TRAINER_DATA")
    if not data or not (Path(data) / "imagenet-sample.tar").exists():
        print("error: set IMAGENET_TRAINER_DATA to the folder that holds imagenet-sample.tar", file=sys.stderr)
        raise SystemExit(2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with tarfile.open(Path(data) / "imagenet-sample.tar") as tar:
            tar.extractall(root / "photos", filter="data")
        for path in sorted((root / "photos").rglob("*.JPEG")):
            for split in ("train", "val"):
                (root / split / path.name.split("_")[0]).mkdir(parents=True)
                (root / split / path.name.split("_")[0] / path.name).symlink_to(path)
        yield root


def compare(module: str, kinds: Sequence[str], repeats: int, root: Path, *words: str) -> None:
    """Run ``python -m module words --one KIND ROOT`` for each kind in turn; print CPU and wall time."""
    print_machine()
    results: dict[str, dict[str, list[float]]] = {"cpu_ms": defaultdict(list), "wall_ms": defaultdict(list)}
    for _ in range(repeats):
        for kind in kinds:
            for name, value in in_own_session(module, *words, "--one", kind, str(root)).items():
                results[name][kind].append(value)
    for name, label in (("cpu_ms", "CPU ms per image"), ("wall_ms", "wall ms per image")):
        print_table(results[name], kinds[0], label)


def print_table(rows: dict[str, Sequence[float]], baseline: str, unit: str) -> None:
    """Median, smallest and largest of each row, and the ratio of the medians to ``baseline``'s."""
    reference = statistics.median(rows[baseline])
    width = max(map(len, rows))
    print(f"\n{'':<{width}}  median  (min–max) {unit}   ratio")
    for name, values in rows.items():
        median = statistics.median(values)
        spread = f"({min(values):.3f}–{max(values):.3f})"
        print(f"{name:<{width}}  {median:6.3f}  {spread:<15}  {median / reference:7.3f}")


def print_machine() -> None:
    """The machine and the versions that a figure belongs to."""
    import PIL
    import torch
    import torchvision

    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {versions}")
