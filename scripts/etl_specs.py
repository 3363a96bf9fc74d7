"""Write into etl/train.yaml and etl/val.yaml which image they start and which code it holds.

    python -m scripts.etl_specs [--image REGISTRY/imagenet-etl:2]

For whoever has built the image from etl/Dockerfile and keeps the specs under version control. The fingerprint is how a
run with data.etl.manage=auto tells the ETL of its own version from others.
"""

import re
import sys
from pathlib import Path

from etl.code import code_sha256
from etl.request import CODE_VARIABLE
from sources.command_line import command

ETL = Path(__file__).resolve().parent.parent / "etl"
SPECS = (ETL / "train.yaml", ETL / "val.yaml")

_IMAGE = re.compile(r"(?<=\n  image: ).*")
_CODE = re.compile(rf"(?<=name: {CODE_VARIABLE}, value: )[^}}]*")


def updated(text: str, image: str) -> str:
    """A spec's text with this version's fingerprint, and with ``image`` unless that is empty."""
    text = _CODE.sub(f'"{code_sha256()}"', text)
    return _IMAGE.sub(image, text) if image else text


def main() -> int:
    """Run the command line and return the exit code."""
    parser = command("scripts.etl_specs", __doc__)
    parser.add_argument("--image", default="", help="name of the image; default: as it is")
    image = parser.parse_args().image
    if not re.fullmatch(r"[^\s'\"#]*", image):
        parser.error(f"--image {image!r} is not the name of an image")
    for path in SPECS:
        path.write_text(updated(path.read_text(), image))
        print(f"{path}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
