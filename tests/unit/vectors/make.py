"""Writes the committed test vectors: ``python -m tests.unit.vectors.make``, only when etl.spec.VERSION changes."""

import hashlib
import json
from pathlib import Path

import numpy as np

from etl.crop import horizontal_flip, random_resized_crop_box
from etl.sample import random_words, transform
from etl.spec import VERSION, Key, Spec
from scripts.make_demo_data import draw

HERE = Path(__file__).parent
KEYS = [Key(0, 0, 0), Key(0, 3, 17), Key(1, 0, 17), Key(2**63 - 1, 89, 1281166), Key(7, 1, 2, 1)]
SIZES = [(500, 375), (375, 500), (1, 1), (3, 1000), (1000, 3), (65500, 65500), (224, 224)]
SPECS = [
    Spec.train(),
    Spec.train(64, (0.35, 1.0), interpolation="bicubic"),
    Spec.val(),
    Spec.val(96, 96, interpolation="bicubic"),
    Spec.val(128, 147),
]


def images() -> dict[str, Path]:
    """The committed pictures by name."""
    return {path.name: path for path in sorted(HERE.glob("*.[jp][pn]g"))}


def spec_arguments(spec: Spec) -> dict[str, object]:
    """A spec as JSON."""
    return {name: getattr(spec, name) for name in ("recipe", "size", "resize", "scale", "ratio", "interpolation")}


def _write_images() -> None:
    picture = draw(np.random.default_rng(1), "ring", "striped").resize((323, 241))
    picture.save(HERE / "rgb444.jpg", quality=80, subsampling=0)
    picture.resize((240, 331)).save(HERE / "rgb420.jpg", quality=75)
    picture.convert("L").save(HERE / "grey.jpg", quality=75)
    picture.convert("CMYK").save(HERE / "cmyk.jpg", quality=60)
    picture.resize((150, 20)).quantize(16).save(HERE / "palette.png")
    picture.resize((300, 200)).save(HERE / "progressive.jpg", quality=60, progressive=True)


def main() -> None:
    """Write pictures and vectors."""
    _write_images()
    boxes = [
        {"key": [k.seed, k.epoch, k.index, k.view], "size": size, "box": random_resized_crop_box(*size, *ranges, words)}
        for k in KEYS
        for words in [random_words(k)]
        for size in SIZES
        for ranges in [((0.08, 1.0), (3 / 4, 4 / 3))]
    ]
    samples = [
        {
            "image": name,
            "spec": spec_arguments(spec),
            "key": [key.seed, key.epoch, key.index, key.view],
            "sha256": hashlib.sha256(transform(path.read_bytes(), spec, key).tobytes()).hexdigest(),
        }
        for name, path in images().items()
        for spec in SPECS
        for key in (KEYS[:3] if spec.recipe == "train" else KEYS[:1])
    ]
    words = [
        {
            "key": [k.seed, k.epoch, k.index, k.view],
            "words": [f"{w:016x}" for w in random_words(k)[:9]],
            "flip": horizontal_flip(random_words(k)),
        }
        for k in KEYS
    ]
    content = {"version": VERSION, "words": words, "boxes": boxes, "samples": samples}
    (HERE / "sample.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
