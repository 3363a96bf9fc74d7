"""What can be odd about a data set, how grave each kind is, and what the trainer does with it."""

from typing import NamedTuple

from etl.spec import Spec
from sources.substitutes import advice

STOP, WARNING, NOTE = "stop", "warning", "note"


class Kind(NamedTuple):
    """A kind of finding: its level, its title, and what the trainer does; "" where that depends on the split."""

    level: str
    title: str
    trainer: str


_MEETS = "A run ends when it meets one of these files. {}"

KINDS = {
    "layout": Kind(STOP, "The layout", "A run does not begin."),
    "leftover": Kind(STOP, "What macOS keeps beside photos", "A run does not begin. Delete these files."),
    "empty": Kind(STOP, "Empty files", ""),
    "cut short": Kind(STOP, "Photos that are cut short", ""),
    "broken": Kind(STOP, "Files that cannot be decoded", ""),
    "unreadable": Kind(STOP, "Files that cannot be read", "A run ends where it reads one of these files."),
    "labels differ": Kind(
        WARNING,
        "Equal photos with different labels",
        "The trainer does not look for that: it learns both labels, and one of them is wrong.",
    ),
    "in both splits": Kind(
        WARNING,
        "Equal photos in both splits",
        "The trainer does not look for that: it trains on the photo and validates on it, so the accuracy comes out too "
        "high.",
    ),
    "duplicate": Kind(
        WARNING,
        "Equal photos in one split",
        "The trainer does not look for that: the photo counts as often as it is there.",
    ),
    "scan": Kind(WARNING, "What a run warns of when it starts", "A run says this when it starts, and goes on."),
    "one folder": Kind(
        WARNING,
        "One folder of classes",
        "A run needs a validation split: make train/ and val/, or let data.val_split keep a share of the photos.",
    ),
    "class order": Kind(
        WARNING,
        "The order of the classes",
        "The trainer numbers the classes by their names sorted as text, as torchvision's ImageFolder does. Pretrained "
        "heads and files of labels must have that order.",
    ),
    "kind left out": Kind(
        WARNING,
        "Photos of kinds that do not count",
        "The trainer leaves them out without a word, as torchvision's ImageFolder does. Convert them to JPEG or PNG.",
    ),
    "rotated": Kind(
        WARNING,
        "Photos that EXIF says are rotated",
        "The trainer ignores that, as torchvision does: the model sees these photos turned, as they are stored.",
    ),
    "damaged": Kind(
        WARNING,
        "Photos with damaged data",
        "The trainer takes them, as libjpeg does: what is missing is made grey, or of false pixels.",
    ),
    "washed out": Kind(
        WARNING,
        "Photos that become nearly white",
        'convert("RGB") clips values above 255, and most of the photo is white after that. Convert these files to 8 '
        "bits.",
    ),
    "16 bits": Kind(NOTE, "Photos with more than 8 bits in a value", 'The trainer makes 8 bits by convert("RGB").'),
    "mode": Kind(
        NOTE, "Photos that are not RGB", 'The trainer makes them RGB by convert("RGB"), and leaves transparency out.'
    ),
    "format": Kind(
        NOTE, "Photos of another format than their name says", "The trainer goes by the content, and takes them."
    ),
    "frames": Kind(NOTE, "Files of several pictures", "The trainer takes the first picture."),
    "thin": Kind(
        NOTE,
        "Photos more than five times as long as wide",
        "The trainer takes them. The validation crop shows less than a fifth of such a photo.",
    ),
    "odd": Kind(NOTE, "Photos that are read although something is odd", "The trainer takes them, and says so once."),
    "left out": Kind(NOTE, "Other files", "The trainer leaves them out without a word."),
}
"""In the order in which they are told."""

_LEVELS = (STOP, WARNING, NOTE)


class Finding(NamedTuple):
    """One thing that was found: its kind, where, and what it is in words.

    ``split`` is train, val or "", ``photo`` a name below the split or "", ``label`` the name of its class, ``other``
    the photo that this one equals, with its split.
    """

    kind: str
    split: str
    photo: str
    label: str
    what: str
    other: str = ""

    @property
    def level(self) -> str:
        """Return the level: stop, warning or note."""
        return KINDS[self.kind].level

    @property
    def trainer(self) -> str:
        """What the trainer does with it."""
        spec = Spec.val() if self.split == "val" else Spec.train()
        return KINDS[self.kind].trainer or _MEETS.format(advice(spec))


def in_order(findings: list[Finding]) -> list[Finding]:
    """The gravest kind first, then by split and name; each once."""
    kinds = {kind: (_LEVELS.index(about.level), number) for number, (kind, about) in enumerate(KINDS.items())}
    return sorted(set(findings), key=lambda finding: (kinds[finding.kind], finding[1:]))


def by_kind(findings: list[Finding]) -> dict[str, list[Finding]]:
    """The findings of each kind that there are, in the order of ``findings``."""
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        found.setdefault(finding.kind, []).append(finding)
    return found
