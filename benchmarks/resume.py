"""Seconds from the command to the first step of a run that goes on, at ImageNet's size, early and late in an epoch.

    python -m benchmarks.resume [--samples 1281167] [--repeats 3] [--folder DIR]

Makes a folder of that many hard links to one small photo a class, trains two steps, and starts the same command from
its checkpoint: as it is, and with the position moved to five steps before the end of the epoch. A loader that replays
the epoch so far would need the time of an epoch for the second.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.results import Table, begin, parser, rows
from sources.folder import scan_folder
from training.loader.order import epoch_order

CLASSES = 1000
BATCH = 256
PROJECT = Path(__file__).resolve().parent.parent


def make_folder(root: Path, samples: int) -> None:
    """An ImageFolder of ``samples`` training images in 1,000 classes, and one validation image each."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    for label in range(CLASSES):
        for split, count in (("train", len(range(label, samples, CLASSES))), ("val", 1)):
            folder = root / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            first = folder / f"n{label:08d}_0.JPEG"
            photo.save(first)
            for number in range(1, count):
                os.link(first, f"{folder}/n{label:08d}_{number}.JPEG")


def start(root: Path, run_dir: Path, *words: str) -> "subprocess.Popen[str]":
    """The trainer on this folder, with a line for each step."""
    options = [f"data.root={root}", "model.name=squeezenet1_1", "data.image_size=32", "data.val_image_size=32"]
    options += [f"train.batch_size={BATCH}", "train.log_every=1", "data.val_resize=32", "data.workers=1", *words]
    command = [sys.executable, "train.py", *options, f"run_dir={run_dir}"]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)


def seconds_to(process: "subprocess.Popen[str]", start_s: float, step: int) -> float:
    """Seconds until the trainer says that it has done ``step``; it is stopped then."""
    assert process.stdout is not None
    for line in process.stdout:
        if f"  step {step}/" in line:
            took = time.perf_counter() - start_s
            process.kill()
            process.wait()
            return took
    raise SystemExit(f"error: the trainer ended before step {step}")


def main() -> int:
    """The command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--samples", type=int, default=1281167)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--folder", type=Path, help="where the data set is made; the default is a temporary folder")
    options = arguments.parse_args()
    result = begin(options)
    steps = options.samples // BATCH
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root, run_dir = Path(folder) / "data", Path(folder) / "run"
        make_folder(root, options.samples)
        start_s = time.perf_counter()
        scan_folder(root)
        scanned_s = time.perf_counter()
        epoch_order(options.samples, 0, 0)
        parts = {"scanning the folder": [scanned_s - start_s], "its order": [time.perf_counter() - scanned_s]}
        result.add(Table("parts", f"What a start does with {options.samples:,} files", "s", rows(parts)))
        seconds_to(start(root, run_dir, "train.checkpoint_every=2"), time.perf_counter(), 3)
        last = run_dir / "checkpoints" / "last.pt"
        early = torch.load(last, weights_only=True)
        results = defaultdict(list)
        for _ in range(options.repeats):
            for name, done in (("after 2 steps", 2), (f"after {steps - 5:,} steps", steps - 5)):
                torch.save(early | {"batches_done": done}, last)
                start_s = time.perf_counter()
                results[name].append(seconds_to(start(root, run_dir), start_s, done + 1))
        title = f"From the command to the first step of a resumed run, {steps:,} steps an epoch"
        result.add(Table("resume", title, "s", rows(results), "after 2 steps"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
