"""What is odd about a photo: not wrong, but good to know."""

import io
import warnings

from PIL import Image

from sources.manifest import IMG_EXTENSIONS

_EXTENSIONS = {"JPEG": ("jpg", "jpeg"), "PNG": ("png",), "BMP": ("bmp",), "WEBP": ("webp",), "TIFF": ("tif", "tiff"),
               "PPM": ("ppm", "pgm")}  # fmt: skip
_ORIENTATION = 0x0112
CORRUPT = "cannot be decoded"


def inspect(name: str, data: bytes) -> tuple[bytes, list[str]]:
    """The bytes as they are, and the kinds of oddities. Decodes at an eighth of the size: all of the file is read."""
    if not name.lower().endswith(IMG_EXTENSIONS):
        return data, []
    found = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, which nobody reads here
            with Image.open(io.BytesIO(data)) as image:
                extension = name.rpartition(".")[2]
                if extension.lower() not in _EXTENSIONS.get(image.format or "", ()):
                    found.append(f"{image.format} named .{extension}")
                if image.mode != "RGB":
                    found.append({"L": "greyscale", "P": "palette"}.get(image.mode, image.mode))
                if image.getexif().get(_ORIENTATION, 1) != 1:
                    found.append("rotated by EXIF, which training ignores")
                image.draft(None, (1, 1))
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        found.append("cut short" if "truncated" in str(error) else CORRUPT)
    return data, found
