"""Photos (all 1,000 with ``--all``) against torchvision's PIL pipeline, for the same box and flip, under two versions of Pillow.

Byte for byte under Pillow 12. Under Pillow 13, which resizes some tall crops in the other order, within one level for
bilinear; bicubic overshoots between the passes, so there the order can turn a pixel by more. Our own pixels are the same
under both. ``make test`` puts the second Pillow into build/pillow-12.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from etl.sample import NATIVE_VARIABLE
from tests.conftest import PROJECT

COMPARE = """
import hashlib, json, sys
from pathlib import Path
import numpy as np, PIL
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, hflip, resize, resized_crop
from etl.spec import Key, Spec
from etl.crop import horizontal_flip, random_resized_crop_box
from etl.sample import random_words, transform

def differences(ours, theirs):
    return int(np.abs(ours.astype(np.int16) - np.asarray(theirs)).max())

digest, unequal, largest = hashlib.sha256(), 0, {"bilinear": 0, "bicubic": 0}
paths = list(enumerate(sorted(Path(sys.argv[1]).rglob("*.JPEG"))))[int(sys.argv[2]) :: int(sys.argv[3])]
for index, path in paths:
    data, mode = path.read_bytes(), ("bilinear", "bicubic")[index % 2]
    image, key, how = Image.open(path).convert("RGB"), Key(11, 2, index), InterpolationMode(mode)
    words, spec = random_words(key), Spec.train(interpolation=mode)
    top, left, height, width = random_resized_crop_box(*image.size, spec.scale, spec.ratio, words)
    theirs = resized_crop(image, top, left, height, width, [224, 224], how)
    theirs = hflip(theirs) if horizontal_flip(words) else theirs
    pairs = [(transform(data, spec, key), theirs)]
    pairs += [(transform(data, Spec.val(interpolation=mode)), center_crop(resize(image, 256, how), 224))]
    for ours, theirs in pairs:
        difference = differences(ours, theirs)
        unequal += difference > 0
        largest[mode] = max(largest[mode], difference)
        digest.update(ours.tobytes())
print(json.dumps([PIL.__version__, len(paths), unequal, largest, digest.hexdigest()]))
"""


def compare(folder: Path, first: int, step: int, python_path: list[str]) -> list[Any]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*python_path, str(PROJECT)]), NATIVE_VARIABLE: "0"}
    command = [sys.executable, "-c", COMPARE, str(folder), str(first), str(step)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_the_sample_is_torchvisions_under_both_pillows(
    photos: list[Path], seed: int, request: pytest.FixtureRequest
) -> None:
    other = PROJECT / "build" / "pillow-12"
    if not other.is_dir():
        pytest.skip("needs a second Pillow in build/pillow-12: make test puts it there")
    folder = photos[0].parent
    step = 1 if request.config.getoption("--all") else 7  # an odd one, so that both interpolations take part
    results = [compare(folder, seed % step, step, path) for path in ([], [str(other)])]
    for version, count, unequal, largest, _ in results:
        print(f"Pillow {version}: {unequal} of {2 * count} samples differ from torchvision's, by at most {largest}")
        assert count == len(range(seed % step, 1000, step))
        assert unequal == 0 if int(version.split(".")[0]) <= 12 else largest["bilinear"] <= 1
    assert {int(version.split(".")[0]) for version, *_ in results} >= {12}
    assert results[0][-1] == results[1][-1], "our pixels changed with Pillow's version"
