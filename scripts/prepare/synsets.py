"""The classes that the devkit's numbers mean: ILSVRC2012_ID 1 is the class n02119789, a kit fox.

``ilsvrc2012_ids.txt`` holds for each id, from 1 to 1,000, the place of its class among the sorted ones, from 1 as well.
It agrees with the names of all 50,000 validation photos as torch7's examples sort them into folders, and with two lists
of ids and classes that others have read from the devkit's meta.mat.
"""

import hashlib
from importlib.resources import files
from pathlib import Path

SHA256 = "930a31901625f2149f8bab016254025ad225daf9efafa3f00011daf6f5f919f9"
"""Of the classes in the order of their ids, one a line."""


def wnids_by_id() -> list[str]:
    """The class of each ILSVRC2012_ID, which begin with 1: the first item is an empty text."""
    wnids = (files("training.model") / "imagenet_wnids.txt").read_text(encoding="ascii").split()
    places = Path(__file__).with_name("ilsvrc2012_ids.txt").read_text(encoding="ascii").split()
    classes = [wnids[int(place) - 1] for place in places]
    assert hashlib.sha256("\n".join(classes).encode()).hexdigest() == SHA256, "the table of classes was altered"
    return ["", *classes]
