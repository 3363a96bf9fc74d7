"""An ImageFolder as the objects of a bucket, in place: nothing is copied.

    python -m aistore_data.embedded.imagefolder FOLDER LAYOUT

writes the objects to standard output, in msgpack: the scan imports torch, which takes more memory than the whole
server, so it runs in a process of its own.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec.msgpack

from aistore_data.embedded.errors import EmbeddedError
from aistore_data.embedded.store import Entry
from aistore_data.errors import ConfigError

LAYOUTS = ("folders", "pairs")
BUCKET = "imagenet"
_PROJECT = Path(__file__).parents[2]

Object = tuple[str, int, str, bytes]
"""Name, size, path, and the content of an object that is no file."""


def served_objects(folder: Path, layout: str) -> dict[str, Entry]:
    """Object name → entry for ``folder``.

    ``folders``: ``train/CLASS/x.JPEG`` and ``val/CLASS/y.JPEG``. ``pairs``: ``train/0000353.jpg``, numbered in the
    manifest's order, beside ``train/0000353.cls`` with the class number as text. In both, the class names are in
    ``.imagenet-ais/train/classes.json`` and that of val, as an upload stores them. Raises EmbeddedError.
    """
    if not folder.is_dir():
        raise EmbeddedError(f"--imagefolder {folder} is not a folder: it must hold train/ and val/.")
    command = [sys.executable, "-m", "aistore_data.embedded.imagefolder", str(folder), layout]
    scan = subprocess.run(command, cwd=_PROJECT, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if scan.returncode:
        raise EmbeddedError(scan.stderr.decode("utf-8", "replace").strip())
    now = time.time_ns()
    return {
        name: Entry(size, path, now, content=None if path else content, read_only=True)
        for name, size, path, content in msgspec.msgpack.decode(scan.stdout, type=list[Object])
    }


def scan_objects(folder: Path, layout: str) -> Iterator[Object]:
    """The objects of ``folder``, in any order. Raises ConfigError for a folder that is no ImageFolder."""
    from aistore_data.folder import scan_folder
    from aistore_data.layout import classes_name, pair_names

    for split, manifest in zip(("train", "val"), scan_folder(folder), strict=True):
        pairs = pair_names(manifest) if layout == "pairs" else []
        for index, (size, label) in enumerate(zip(manifest.sizes.tolist(), manifest.labels.tolist(), strict=True)):
            name = manifest.name(index)
            path = f"{folder}/{split}/{name}"
            try:
                path.encode()
            except UnicodeEncodeError:
                raise ConfigError(f"{path!r} is not UTF-8, as names in a bucket are: rename it.") from None
            if pairs:
                image_name, class_name = pairs[index]
                yield f"{split}/{image_name}", size, path, b""
                yield f"{split}/{class_name}", len(str(label)), "", str(label).encode()
            else:
                yield f"{split}/{name}", size, path, b""
        classes = json.dumps(list(manifest.classes)).encode()
        yield classes_name(f"{split}/"), len(classes), "", classes


def main() -> int:
    """Scans; the exit code."""
    try:
        objects = list(scan_objects(Path(sys.argv[1]), sys.argv[2]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    sys.stdout.buffer.write(msgspec.msgpack.encode(objects))
    return 0


if __name__ == "__main__":
    sys.exit(main())
