"""Seeds for the fuzzer: small JPEGs of every kind, and the photos of a folder made small.

python native/fuzz/seeds.py OUTPUT [PHOTOS]
"""

import io
import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def turned(data: bytes) -> bytes:
    """A 4:2:2 file with width and height exchanged: a 4:4:0 file of as many blocks, with another picture."""
    at = data.index(b"\xff\xc0") + 5
    height, width, rest = data[at : at + 2], data[at + 2 : at + 4], data[at + 4 :]
    return data[:at] + width + height + rest.replace(b"\x21", b"\x12", 1)


def main() -> int:
    """The command line."""
    output = Path(sys.argv[1])
    output.mkdir(parents=True, exist_ok=True)
    photos = sorted(Path(sys.argv[2]).rglob("*.JPEG")) if len(sys.argv) > 2 else []
    rng = np.random.default_rng(0)
    blobs = [Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((160, 120))]
    pictures = blobs + [Image.open(path).convert("RGB") for path in photos[::10]]
    kinds = itertools.product(("4:4:4", "4:2:2", "4:2:0", "4:4:0", "L"), (0, 1, 4), (40, 90))
    for number, (sampling, restart, quality) in enumerate(kinds):
        for picture in pictures[number % 5 :: 5]:
            width, height = (int(length) for length in rng.integers(1, 130, 2))
            small = picture.resize((width, height)).convert("L" if sampling == "L" else "RGB")
            options = {"quality": quality, "restart_marker_blocks": restart, "optimize": bool(number & 1)}
            if sampling != "L":
                options["subsampling"] = sampling.replace("4:4:0", "4:2:2")
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", **options)
            data = turned(buffer.getvalue()) if sampling == "4:4:0" else buffer.getvalue()
            (output / f"{number}-{width}x{height}.jpg").write_bytes(data)
    for path in photos[::50]:
        (output / path.name).write_bytes(path.read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
