"""What makes the samples of this version, measured: "the same samples" is said of pixels, not of source text."""

import base64
import functools
import hashlib

import etl
from etl.sample import Key, Spec, transform
from sources.samples import through_wire

_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19i"
    "Z2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2Nj"
    "Y2NjY2NjY2P/wAARCAAfACgDASIAAhEBAxEB/8QAGQAAAwEBAQAAAAAAAAAAAAAAAAQFAwYC/8QAIBAAAgICAgMBAQAAAAAAAAAA"
    "AAECEQMEBSESEzFBUf/EABcBAAMBAAAAAAAAAAAAAAAAAAMEBQL/xAAdEQABBAMBAQAAAAAAAAAAAAABAAIDBBESIhQT/9oADAMB"
    "AAIRAxEAPwBbFhkpLos6a8Ydm70Yx/h4mvWuhi2fYNWp2B2yX3ZdMibCtso7eS7ElFTYOsz4clQbXNnKnTxu/gFdaqaArB4wqrLb"
    "QE1HmVN1YzDN742cRrZpOa7Ot4p+WNWRLLzWGWrcPJWe7CrJ6y+DKvIrpkDO6bARzmQbFFkptk7KeW9X6BGlN39AJ6XJM12hf//Z"
)
"""A photo of 40 x 31 pixels."""

_PPM = b"P6 29 37 255\n" + bytes(
    (x * 7 + y * 13 + channel * 61) % 256 for y in range(37) for x in range(29) for channel in range(3)
)
"""An image that no library has to decompress."""


@functools.cache
def samples_sha256() -> str:
    """Fingerprint of what this process makes of two images, by both recipes, several keys and both wire formats.

    It stays the same when the code is rewritten, and changes when a sample's bytes do, whoever changes them: this
    project, Pillow or NumPy. It cannot see a change that needs another image or key to show; ``etl.VERSION``, which is
    part of it, and the vectors in ``tests/unit/vectors`` stand for those.
    """
    digest = hashlib.sha256(f"samples 1, version {etl.VERSION}\n".encode())
    specs = (
        Spec.train(32),
        Spec.train(20, (0.3, 0.9), (0.5, 1.5), "bicubic"),
        Spec.val(32, 36),
        Spec.val(24, 30, "bicubic"),
    )
    keys = (Key(0, 0, 0), Key(1, 2, 3), Key(5, 1, 70_000, 1))
    for data in (_JPEG, _PPM):
        for spec in specs:
            for key in keys:
                pixels = transform(data, spec, key)
                digest.update(pixels.tobytes())
                digest.update(through_wire(pixels, "jpeg").tobytes())
    return digest.hexdigest()
