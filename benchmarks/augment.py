"""CPU time of the augmentation policies: ours beside torchvision's, v1 on PIL images and v2 on tensors, and timm's.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.augment [--repeats 9] [--images 200]

FOLDER holds imagenet-sample.tar. One process, one thread, interleaved rounds over the same crops of 224 pixels; who
wants a PIL image or a tensor gets one. All draw operations of their own, so a round's mean is that of its draws. The
last table is a whole training sample from a JPEG's bytes, with and without a policy.
"""

import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.measure import photo_folder
from benchmarks.results import Row, Table, begin, parser, rows, why
from etl import Key, Spec, transform
from etl.operations import AUGMENT_VERSION, apply
from etl.sample import NATIVE_VARIABLE, native, operations, random_words

V1, V2, TIMM = "torchvision v1, PIL", "torchvision v2, tensor", "timm, PIL"
PILLOW, NATIVE = "etl.transform, Pillow", "etl.transform, native module"
BASELINES = {"ra_timm": TIMM}
SIZE, WORDS = 224, 65

SPECS = {
    f"{augment}{', bilinear' if how == 'bilinear' else ''}": Spec.train(augment=augment, augment_interpolation=how)
    for how in ("nearest", "bilinear")
    for augment in ("ta_wide", "ra", "aa", "ra_timm")
} | {"3a with jitter 0.3": Spec.train(augment="3a", jitter=0.3)}
"""What is measured: of the policies that move pixels, both interpolations."""

Augment = Callable[[Any], Any]


def of_torchvision(spec: Spec, version: Any) -> Augment:
    """The policy by ``torchvision.transforms`` or ``torchvision.transforms.v2``."""
    from torchvision.transforms import InterpolationMode

    how = {"interpolation": InterpolationMode(spec.augment_interpolation)}
    if spec.augment == "3a":
        blur = version.GaussianBlur(9, (0.1, 2.0)) if version.__name__.endswith("v2") else pil_blur
        one = version.RandomChoice([version.Grayscale(3), version.RandomSolarize(128, p=1.0), blur])
        return version.Compose([one, version.ColorJitter(0.3, 0.3, 0.3)])  # type: ignore[no-any-return]
    kinds = {"ta_wide": "TrivialAugmentWide", "ra": "RandAugment", "aa": "AutoAugment"}
    return getattr(version, kinds[spec.augment])(**how)  # type: ignore[no-any-return]


def pil_blur(image: Image.Image) -> Image.Image:
    """DeiT III's blur."""
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def of_timm(spec: Spec) -> Augment:
    """``rand-m9-mstd0.5-inc1``; a random interpolation, timm's default, has no place here."""
    from timm.data.auto_augment import rand_augment_transform

    how = Image.Resampling.BILINEAR if spec.augment_interpolation == "bilinear" else Image.Resampling.NEAREST
    pipeline = rand_augment_transform(
        "rand-m9-mstd0.5-inc1", {"img_mean": (124, 116, 104), "translate_const": 100, "interpolation": how}
    )

    def run(image: Image.Image) -> Image.Image:
        try:
            return pipeline(image)  # type: ignore[no-any-return]
        except ValueError:  # under Pillow 13 it raises where it would keep no bit
            return image

    return run


def peers(spec: Spec) -> dict[str, tuple[str, Callable[[], Augment]]]:
    """By name: the package, and what makes the pipeline."""
    from torchvision import transforms
    from torchvision.transforms import v2

    if spec.augment == "ra_timm":
        return {TIMM: ("timm", lambda: of_timm(spec))}
    return {
        V1: ("torchvision", lambda: of_torchvision(spec, transforms)),
        V2: ("torchvision", lambda: of_torchvision(spec, v2)),
    }


def each(pipeline: Augment, given: Sequence[Any], round_: int) -> None:
    """A round of a peer's."""
    for item in given:
        pipeline(item)


def policy_table(name: str, spec: Spec, crops: Sequence[np.ndarray], repeats: int) -> Table:
    """CPU milliseconds of a policy on a crop."""
    import torch

    images = [Image.fromarray(crop) for crop in crops]
    tensors = [torch.from_numpy(crop).permute(2, 0, 1).contiguous() for crop in crops]
    runs: dict[str, Callable[[int], object]] = {}
    failed: dict[str, str] = {}
    for peer, (package, make) in peers(spec).items():
        try:
            pipeline = make()
            pipeline(tensors[0] if peer == V2 else images[0])
        except Exception as error:  # whatever an installation lacks
            failed[peer] = why(error, package)
        else:
            runs[peer] = partial(each, pipeline, tensors if peer == V2 else images)
    module = native()
    if module is None or getattr(module, "AUGMENT_VERSION", 0) != AUGMENT_VERSION:
        failed[NATIVE] = "imagenet_ais_native is not installed, or older than the policies"
        module = None
    out = np.empty_like(crops[0])

    def ours(round_: int, module: Any) -> None:
        for index, crop in enumerate(crops):
            out[...] = crop
            apply(out, operations(spec, random_words(Key(0, round_, index), WORDS)), module)

    runs[PILLOW] = partial(ours, module=None)
    if module is not None:
        runs[NATIVE] = partial(ours, module=module)
    times: dict[str, list[float]] = defaultdict(list)
    for round_ in range(repeats + 1):
        for who, run in runs.items():
            before = time.process_time()
            run(round_)
            if round_:  # the first one warms up
                times[who].append(1e3 * (time.process_time() - before) / len(crops))
    made = rows(times) + [Row(who, failed=reason) for who, reason in failed.items()]
    return Table(name, f"augment={name}, on a crop of 224 pixels", "CPU ms", made, BASELINES.get(spec.augment, V1))


def sample_table(paths: Sequence[Path], repeats: int) -> Table:
    """CPU milliseconds of whole samples."""
    photos = [path.read_bytes() for path in paths]
    specs = {"no policy": Spec.train()} | SPECS
    times: dict[str, list[float]] = defaultdict(list)
    for round_ in range(repeats + 1):
        for name, spec in specs.items():
            before = time.process_time()
            for index, data in enumerate(photos):
                transform(data, spec, Key(0, round_, index))
            if round_:
                times[name].append(1e3 * (time.process_time() - before) / len(photos))
    how = "native module" if native() is not None else "Pillow"
    return Table("sample", f"A training sample from a JPEG's bytes, {how}", "CPU ms", rows(times), "no policy")


def main() -> int:
    """The command line."""
    options = parser(__doc__, repeats=9, images=200).parse_args()
    import torch

    torch.set_num_threads(1)
    result = begin(options)
    os.environ[NATIVE_VARIABLE] = "1"
    with photo_folder() as root:
        paths = sorted((root / "train").rglob("*.JPEG"))[: options.images]
        crops = [transform(path.read_bytes(), Spec.train(SIZE), Key(0, 0, n)) for n, path in enumerate(paths)]
        for name, spec in SPECS.items():
            result.add(policy_table(name, spec, crops, options.repeats))
        result.add(sample_table(paths, options.repeats))
    return 0


if __name__ == "__main__":
    sys.exit(main())
