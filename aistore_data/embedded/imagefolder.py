"""An ImageFolder as the objects of a bucket, in place: nothing is copied."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from aistore_data.embedded.errors import EmbeddedError
from aistore_data.embedded.store import Entry
from sources.command_line import print_line
from sources.disk import shown
from sources.errors import ConfigError, UserError

LAYOUTS = ("folders", "pairs")
BUCKET = "imagenet"


def served_objects(folder: Path, layout: str) -> dict[str, Entry]:
    """Object name → entry for ``folder``.

    ``folders``: ``train/CLASS/x.JPEG`` and ``val/CLASS/y.JPEG``. ``pairs``: ``train/0000353.jpg``, numbered in the
    manifest's order, beside ``train/0000353.cls`` with the class number as text. In both, the class names are in
    ``.imagenet-ais/train/classes.json`` and that of val, as an upload stores them. Raises EmbeddedError.
    """
    try:
        return dict(_scan(folder, layout))
    except UserError as error:
        raise EmbeddedError(str(error)) from None


def _scan(folder: Path, layout: str) -> Iterator[tuple[str, Entry]]:
    from aistore_data.bucket.layout import classes_name, pair_names
    from sources.folder import scan_folder  # here, so that a server without a folder needs no NumPy

    now, with_train = time.time_ns(), os.path.lexists(folder / "train")
    if not with_train:
        print_line(f"warning: {shown(folder)} holds no train/: its val/ is served alone")
    for split, manifest in zip(("train", "val"), scan_folder(folder, print_line, with_train=with_train), strict=True):
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
                yield f"{split}/{image_name}", Entry(size, path, now, read_only=True)
                yield f"{split}/{class_name}", _generated(str(label).encode(), now)
            else:
                yield f"{split}/{name}", Entry(size, path, now, read_only=True)
        yield classes_name(f"{split}/"), _generated(json.dumps(list(manifest.classes)).encode(), now)


def _generated(content: bytes, now: int) -> Entry:
    return Entry(len(content), "", now, content, read_only=True)
