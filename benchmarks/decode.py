"""CPU time to make one training sample, from the bytes of a JPEG to uint8 pixels: ours beside other decoders.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.decode [--repeats 5] [--images 1000]

FOLDER holds imagenet-sample.tar. One process, one thread, interleaved rounds, medians. All make RandomResizedCrop(224)
and a flip. torchvision's pipelines draw the box themselves and so does ``etl.transform``; the other peers
(``benchmarks.peers``) are given it. "equal" is the share of photos whose bytes are those of ``etl.transform`` by
Pillow for the same key.
"""

import argparse
import io
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import photo_folder, print_machine, print_table
from benchmarks.peers import BATCH, SIZE, Job, peers
from etl import Key, Spec, transform
from etl.sample import NATIVE_VARIABLE, decode, horizontal_flip, native, random_resized_crop_box, random_words

Round = Callable[[Sequence[Job]], Sequence[np.ndarray]]

BASELINE = "torchvision PIL, to float"
SPEC = Spec.train(SIZE)


def jobs_of(paths: Sequence[Path]) -> list[Job]:
    """The photos, and the box and the flip of key (0, 0, index)."""
    jobs = []
    for index, path in enumerate(paths):
        data, words = path.read_bytes(), random_words(Key(0, 0, index))
        top, left, height, width = random_resized_crop_box(*decode(data).size, SPEC.scale, SPEC.ratio, words)
        jobs.append(Job(data, index, (left, top, width, height), horizontal_flip(words)))
    return jobs


def torchvision_pil(to_float: bool) -> Round:
    """What ``ImageFolder`` does to a file: open, convert, RandomResizedCrop, flip; and ToTensor and Normalize."""
    from PIL import Image
    from torchvision import transforms

    from training.loader import MEAN, STD

    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)] if to_float else []
    pipeline = transforms.Compose(steps)
    return lambda jobs: [pipeline(Image.open(io.BytesIO(job.data)).convert("RGB")) for job in jobs]


def ours(variable: str) -> Round:
    """``etl.transform`` with IMAGENET_AIS_NATIVE=``variable``."""

    def run(jobs: Sequence[Job]) -> list[np.ndarray]:
        os.environ[NATIVE_VARIABLE] = variable
        return [transform(job.data, SPEC, Key(0, 0, job.index)) for job in jobs]

    return run


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print_machine()
    rounds: dict[str, Round] = {
        BASELINE: torchvision_pil(True),
        "torchvision PIL, uint8": torchvision_pil(False),
        "etl.transform, Pillow": ours("0"),
    }
    module = native()
    if module is None:
        print("etl.transform, native: imagenet_ais_native is not installed")
    else:
        print(
            f"imagenet_ais_native {module.__version__}, libjpeg-turbo {module.LIBJPEG_TURBO}, {module.SIMD or 'scalar'}"
        )
        rounds["etl.transform, native"] = ours("1")
    rounds |= peers()
    with photo_folder() as root:
        jobs = jobs_of(sorted((root / "train").rglob("*.JPEG"))[: options.images])
    reference = rounds["etl.transform, Pillow"](jobs)
    for name, run in rounds.items():
        if not name.startswith("torchvision PIL"):
            equal = sum(map(np.array_equal, run(jobs), reference)) / len(jobs)
            print(f"{name}: {100 * equal:.1f} % of {len(jobs)} photos equal")
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.repeats):
        cpu_s: dict[str, float] = defaultdict(float)
        for begin in range(0, len(jobs), BATCH):
            for name, run in rounds.items():
                start = time.process_time()
                run(jobs[begin : begin + BATCH])
                cpu_s[name] += time.process_time() - start
        for name in rounds:
            times[name].append(1e3 * cpu_s[name] / len(jobs))
    print_table(times, BASELINE, "CPU ms per image")
    return 0


if __name__ == "__main__":
    sys.exit(main())
