"""What the ingredients of the recipes are worth: accuracy with and without each, on generated scenes, over seeds.

    python -m benchmarks.learns [--seeds 3] [--only "mixup and CutMix,label smoothing"] [--folder build/learns]

The scenes are those of ``benchmarks/scenes.py``: 30 classes, too varied to be learned by heart. Each run is a call of
train.py as a user would make it, on one CPU thread. It may be stopped at any time: a run that was killed goes on from
its last checkpoint, and FOLDER/runs/NAME-SEED.json keeps a run that is done, with its command; ``--only`` takes some of
the ingredients, and the tables show all runs that are there. A run of other options or other scenes is made anew.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import scenes
from benchmarks.results import Row, Table, begin, parser

PROJECT = Path(__file__).resolve().parent.parent
PER_CLASS = {"train": 24, "val": 20}
EPOCHS = 24

BASE = (
    *("model.name=timm/test_resnet", "data.image_size=64", "data.val_image_size=64", "data.val_resize=72"),
    *("data.scale=[0.5,1.0]", "data.workers=0", "threads=1", "train.batch_size=24", f"train.epochs={EPOCHS}"),
    *("optim.lr=0.05", "optim.nesterov=true", "optim.weight_decay=5e-4", "optim.schedule=cosine"),
    *("optim.warmup_epochs=1", "eval.every=8", "data.fingerprint=off"),
)
"""Options of all runs: crops and flips, a cosine schedule."""


class Ingredient(NamedTuple):
    """What is added to the base."""

    options: tuple[str, ...]
    figure: str = "acc1"
    """Of the run's summary."""


PLAIN = "the base"
INGREDIENTS = {
    PLAIN: Ingredient(()),
    "TrivialAugment": Ingredient(("data.augment=ta_wide",)),
    "RandAugment": Ingredient(("data.augment=ra",)),
    "mixup and CutMix": Ingredient(("train.mixup=0.2", "train.cutmix=1.0")),
    "label smoothing": Ingredient(("train.label_smoothing=0.1",)),
    "averaged weights": Ingredient(("train.ema_decay=0.99",), "ema_acc1"),
    "random erasing": Ingredient(("train.random_erasing=0.25",)),
    "steps, not cosine": Ingredient(("optim.schedule=step", f"optim.step_epochs={EPOCHS // 3}")),
    "sizes that grow": Ingredient((f"data.sizes=['0:40','{EPOCHS // 3}:52','{2 * EPOCHS // 3}:64']",)),
    "repeated augmentation": Ingredient(("train.repeated_augmentation=2",)),
}


def command(folder: Path, name: str, seed: int) -> list[str]:
    """Of one run, as a user would type it."""
    run_dir = run_folder(folder, name, seed)
    return ["python", "train.py", f"data.root={folder / 'data'}", *options_of(name, seed), f"run_dir={run_dir}"]


def run_folder(folder: Path, name: str, seed: int) -> Path:
    """Of a run; its record lies beside it."""
    return folder / "runs" / f"{_slug(name)}-{seed}"


def options_of(name: str, seed: int) -> list[str]:
    """Those that decide how a run ends."""
    return [*BASE, *INGREDIENTS[name].options, f"seed={seed}"]


def record_of(folder: Path, name: str, seed: int) -> dict[str, Any] | None:
    """The record of a run that is done with these options and scenes."""
    file = run_folder(folder, name, seed).with_suffix(".json")
    record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return record if record and _identity(name, seed).items() <= record.items() else None


def _identity(name: str, seed: int) -> dict[str, Any]:
    return {"options": options_of(name, seed), "scenes": scenes.VERSION, "per_class": PER_CLASS}


def run(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """The record of a run, which is made where there is none of the same options and scenes.

    Raises SystemExit with the end of the run's output where it fails.
    """
    words = command(folder, name, seed)
    run_dir = run_folder(folder, name, seed)
    record_file = run_dir.with_suffix(".json")
    if record := record_of(folder, name, seed):
        return record
    if record_file.exists():
        record_file.unlink()
        shutil.rmtree(run_dir, ignore_errors=True)
    call = [sys.executable, *words[1:], "allow_changes=false"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(words)}\nexit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    summary = json.loads((run_dir / "summary.json").read_text())
    figures = ("acc1", "ema_acc1", "loss", "samples_seen", "img_per_s", "state_sha256")
    record = {"command": shlex.join(words), **_identity(name, seed)}
    record |= {figure: summary[figure] for figure in figures if figure in summary}
    record_file.write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(run_dir / "checkpoints")
    return record


def kept(folder: Path, seeds: int) -> dict[str, list[float]]:
    """acc@1 of the runs that are there, by ingredient."""
    found: dict[str, list[float]] = {}
    for name, ingredient in INGREDIENTS.items():
        records = (record_of(folder, name, seed) for seed in range(seeds))
        values = [record[ingredient.figure] for record in records if record]
        if values:
            found[name] = values
    return found


def note(values: list[float], base: list[float]) -> str:
    """Mean, and the difference to the base with what it means among these seeds."""
    mean = statistics.fmean(values)
    if values is base or not base:
        return f"mean {mean:.1f}"
    words = "the ranges overlap"
    if min(values) > max(base):
        words = "each run is better than each of the base"
    elif max(values) < min(base):
        words = "each run is worse than each of the base"
    return f"mean {mean:.1f}, {mean - statistics.fmean(base):+.1f} against the base; {words}"


def main() -> int:
    """The command line."""
    options = parser(__doc__, seeds=3, only="", folder="build/learns").parse_args()
    chosen = _chosen(options)
    result = begin(options)
    folder = Path(options.folder)
    scenes.write(folder / "data", PER_CLASS)
    for seed in range(options.seeds):
        for name in chosen:
            record = run(folder, name, seed)
            print(f"{name}, seed {seed}: {record[INGREDIENTS[name].figure]:.2f}", flush=True)
    found = kept(folder, options.seeds)
    base = found.get(PLAIN, [])
    rows = [Row(name, tuple(values), note(values, base)) for name, values in found.items()]
    samples = PER_CLASS["train"] * len(scenes.CLASSES)
    title = f"acc@1 on scenes of {len(scenes.CLASSES)} classes, {samples:,} training photos, {EPOCHS} epochs, by seed"
    result.add(Table("learns", title, "%", rows, PLAIN if base else "", "more"))
    print("\nThe runs, of which seed=0 is the first:")
    for name in found:
        print(f"  {name}: {shlex.join(command(folder, name, 0))}")
    return 0


def _chosen(options: argparse.Namespace) -> list[str]:
    names = [name.strip() for name in options.only.split(",") if name.strip()] or list(INGREDIENTS)
    unknown = [name for name in names if name not in INGREDIENTS]
    if unknown:
        sys.exit(f"error: --only knows {', '.join(INGREDIENTS)}, and not {unknown[0]!r}.")
    return names


def _slug(name: str) -> str:
    return "-".join(name.replace(",", "").lower().split())


if __name__ == "__main__":
    sys.exit(main())
