"""An ImageFolder as the objects of a bucket, in place: nothing is copied."""

import os
import time
from pathlib import Path
from typing import Literal, get_args

from aistore_data.embedded.store import Entry
from sources.command_line import print_line
from sources.disk import shown
from sources.errors import ConfigError

Layout = Literal["folders", "pairs"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
BUCKET = "imagenet"


def served_objects(folder: Path, layout: Layout) -> dict[str, Entry]:
    """Object name → entry for ``folder``: those that an upload in this layout makes of it. Raises UserError.

    ``folders``: ``train/CLASS/x.JPEG`` and ``val/CLASS/y.JPEG``. ``pairs``: ``train/0000353.jpg``, numbered in the
    manifest's order, beside ``train/0000353.cls`` with the class number as text. In both, the class names are in
    ``.imagenet-ais/train/classes.json`` and that of val.
    """
    from aistore_data.upload.items import File, index_folder, items_of  # here: a server without a folder needs no NumPy

    now, with_train = time.time_ns(), os.path.lexists(folder / "train")
    if not with_train:
        print_line(f"warning: {shown(folder)} holds no train/: its val/ is served alone")
    objects = {}
    for split in index_folder(folder, print_line, with_train):
        for name, place, size in items_of(split, split.manifest(), layout):
            path, content = (place.path, None) if isinstance(place, File) else ("", place.read())
            try:
                path.encode()
            except UnicodeEncodeError:
                raise ConfigError(f"{path!r} is not UTF-8, as names in a bucket are: rename it.") from None
            objects[name] = Entry(size, path, now, content, read_only=True)
    return objects
