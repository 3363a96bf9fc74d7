"""A photo, smaller: for photos that are larger than training looks at. Needs Pillow, nothing else.

The pixels that training sees differ then from those of the original photos.
"""

import io
import warnings

from PIL import Image


def shrink(data: bytes, side: int, quality: int) -> bytes:
    """A JPEG of ``quality`` whose short side is ``side`` pixels, if the photo's is longer; else the bytes as they are.

    What is no photo, or cannot be decoded whole, stays as it is too, so labels beside photos do. Greyscale stays
    greyscale, everything else becomes RGB as training makes it (``convert("RGB")``); EXIF and colour profile, which
    training ignores, are dropped. Resized by Lanczos, horizontally and then vertically: Pillow's own call has changed
    the order between its versions.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF
            with Image.open(io.BytesIO(data)) as opened:
                if min(opened.size) <= side:
                    return data
                image = opened.convert("L" if opened.mode == "L" else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return data
    width, height = shrunk_size(image.width, image.height, side)
    for size in ((width, image.height), (width, height)):
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def shrunk_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with the short side ``side`` and the long one in proportion, rounded half up."""
    short = min(width, height)
    return (2 * width * side + short) // (2 * short), (2 * height * side + short) // (2 * short)
