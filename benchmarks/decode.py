"""CPU time to make one sample, from the bytes of a JPEG to uint8 pixels: ours beside other decoders.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.decode [--repeats 3] [--val-repeats 3] [--images 1000]

FOLDER holds imagenet-sample.tar. One process, one thread, interleaved rounds. "train" is RandomResizedCrop(224) and a
flip, "val" Resize(256) and CenterCrop(224). In training, torchvision's PIL pipelines draw their own boxes and so does
``etl.transform``; the other peers (``benchmarks.peers``) are given its boxes. Each row tells the share of photos whose
bytes are the contract's: those of ``etl.transform`` by Pillow for the same key.
"""

import io
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import photo_folder
from benchmarks.peers import BATCH, RESIZE, SIZE, Job, Round, peers, probe
from benchmarks.results import Row, Table, begin, parser, rows, why
from etl import Key, Spec, transform
from etl.crop import horizontal_flip, random_resized_crop_box
from etl.decoded_cache import DecodedCache
from etl.decoded_sample import keep, sample_from_cache
from etl.jpeg_index import JpegIndex, can_use
from etl.sample import NATIVE_VARIABLE, decode, native, random_words

BASELINE = "torchvision PIL, to float"
KEPT = "etl.transform, native, decoded photo kept"
REFERENCE = "etl.transform, Pillow"
INDEXED = "etl.transform, native, index"
SPECS = {"train": Spec.train(SIZE), "val": Spec.val(SIZE, RESIZE)}
TITLES = {"train": "A training sample from a JPEG's bytes", "val": "A validation sample from a JPEG's bytes"}


def jobs_of(paths: Sequence[Path], split: str) -> list[Job]:
    """The photos; for training with the box and the flip of key (0, 0, index)."""
    jobs = []
    for index, path in enumerate(paths):
        data, words, spec = path.read_bytes(), random_words(Key(0, 0, index)), SPECS["train"]
        top, left, height, width = random_resized_crop_box(*decode(data).size, spec.scale, spec.ratio, words)
        box = (left, top, width, height) if split == "train" else None
        jobs.append(Job(data, index, box, box is not None and horizontal_flip(words)))
    return jobs


def torchvision_pil(split: str, to_float: bool) -> Round:
    """What ``ImageFolder`` users do to a file: open, convert, crop, resize, flip; and ToTensor and Normalize."""
    from PIL import Image
    from torchvision import transforms

    from training.model.bundle import MEAN, STD

    steps: list[Callable[..., object]] = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    if split == "val":
        steps = [transforms.Resize(RESIZE), transforms.CenterCrop(SIZE)]
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)] if to_float else [np.array]
    pipeline = transforms.Compose(steps)
    return lambda jobs: [pipeline(Image.open(io.BytesIO(job.data)).convert("RGB")) for job in jobs]


def ours(split: str, variable: str, index: JpegIndex | None = None) -> Round:
    """``etl.transform`` with IMAGENET_AIS_NATIVE=``variable``, and with a JPEG index."""

    def run(jobs: Sequence[Job]) -> list[np.ndarray]:
        os.environ[NATIVE_VARIABLE] = variable
        entries = [index.entry(str(job.index)) if index else None for job in jobs]
        keys = [Key(0, 0, job.index) for job in jobs]
        return [
            transform(job.data, SPECS[split], key, entry=entry)
            for job, key, entry in zip(jobs, keys, entries, strict=True)
        ]

    return run


def index_of(paths: Sequence[Path], folder: str) -> JpegIndex:
    """The JPEG index of the photos, made ahead, with their numbers as names."""
    index, module = JpegIndex(f"{folder}/index", len(paths)), native()
    assert module is not None
    for number, path in enumerate(paths):
        index.entry(str(number)).make(module, path.read_bytes())
    return index


def kept(split: str, jobs: Sequence[Job], folder: str) -> Round:
    """From the photos' decoded pixels, which are in a cache in ``folder`` that is in memory."""
    cache = DecodedCache(folder, 1 << 32)
    for job in jobs:
        keep(cache, job.index.to_bytes(16, "little"), job.data)

    def run(jobs: Sequence[Job]) -> list[np.ndarray]:
        os.environ[NATIVE_VARIABLE] = "1"
        made = [np.empty((SIZE, SIZE, 3), np.uint8) for _ in jobs]
        for job, out in zip(jobs, made, strict=True):
            key = job.index.to_bytes(16, "little")
            assert sample_from_cache(cache, key, SPECS[split], Key(0, 0, job.index), out)
        return made

    return run


def table(split: str, paths: Sequence[Path], repeats: int, folder: str) -> Table:
    """CPU milliseconds per image of all ways to a sample of ``split``; ``folder``: an empty one, for an index."""
    rounds: dict[str, Round] = {
        BASELINE: torchvision_pil(split, True),
        "torchvision PIL, uint8": torchvision_pil(split, False),
        REFERENCE: ours(split, "0"),
    }
    failed: dict[str, str] = {}
    jobs = jobs_of(paths, split)
    os.environ[NATIVE_VARIABLE] = "1"
    if native() is None:
        failed["etl.transform, native"] = "imagenet_ais_native is not installed"
    else:
        rounds["etl.transform, native"] = ours(split, "1")
        rounds[KEPT] = kept(split, jobs, folder)
    index = index_of(paths, folder) if can_use(native()) else None
    if index:
        rounds[INDEXED] = ours(split, "1", index)
    else:
        failed[INDEXED] = "imagenet_ais_native is not installed, or older than the index"
    for name, (package, make) in peers().items():
        try:
            run = make(split == "train")
            probe(run, split == "train")
        except Exception as error:  # whatever an installation lacks
            failed[name] = why(error, package)
        else:
            rounds[name] = run
    for run in rounds.values():  # imports, buffers, pipelines
        run(jobs[:BATCH])
    times: dict[str, list[float]] = defaultdict(list)
    equal = Counter[str]()
    for repeat in range(repeats):
        cpu_s: dict[str, float] = defaultdict(float)
        for start in range(0, len(jobs), BATCH):
            pixels = {}
            for name, run in rounds.items():
                before = time.process_time()
                pixels[name] = run(jobs[start : start + BATCH])
                cpu_s[name] += time.process_time() - before
            if repeat == 0:
                for name, images in pixels.items():
                    equal[name] += sum(map(np.array_equal, images, pixels[REFERENCE]))
        for name in rounds:
            times[name].append(1e3 * cpu_s[name] / len(jobs))
    notes = {name: f"{equal[name]} of {len(jobs)} equal to the contract" for name in rounds} | {BASELINE: "floats"}
    if index:
        tally, total = index.tally(), sum(len(job.data) for job in jobs)
        notes[INDEXED] += f"; {tally.size / len(jobs):,.0f} bytes a photo, {tally.size / total:.2%}"
    if split == "train":
        notes["torchvision PIL, uint8"] = "boxes of its own"
    made = rows(times, notes) + [Row(name, failed=reason) for name, reason in failed.items()]
    return Table(split, TITLES[split], "CPU ms per image", made, BASELINE)


def main() -> int:
    """The command line."""
    options = parser(__doc__, repeats=3, val_repeats=0, images=1000).parse_args()
    import torch

    torch.set_num_threads(1)
    result = begin(options)
    if module := native():
        print(f"native: libjpeg-turbo {module.LIBJPEG_TURBO}, {module.SIMD or 'scalar'}")
    with photo_folder() as root, tempfile.TemporaryDirectory() as scratch:
        for split, repeats in (("train", options.repeats), ("val", options.val_repeats or options.repeats)):
            folder = Path(scratch, split)
            folder.mkdir()
            result.add(table(split, sorted((root / split).rglob("*.JPEG"))[: options.images], repeats, str(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
