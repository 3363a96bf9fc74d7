"""The spec, which says what a sample looks like, and the key, which its randomness depends on."""

import inspect
import os
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from etl.policies import MOST_LAYERS, MOST_MAGNITUDE, MOST_MAGNITUDE_OF_TIMM
from etl.resize import FILTERS

VERSION = 1
"""Version of the sample's definition: it changes whenever any pixel of any sample would."""

Interpolation = Literal["bilinear", "bicubic"]
Augment = Literal["", "ta_wide", "ra", "aa", "3a", "ra_timm"]
AUGMENTS = get_args(Augment)[1:]
"""The policies of ``etl/policies.py``; "" is none."""

POLICY_FIELDS = ("augment", "augment_ops", "augment_magnitude", "augment_interpolation", "jitter")
"""What a spec says of its policy. Versions before these fields made the same samples of all other specs."""


@dataclass(frozen=True)
class Key:
    """What a sample's randomness depends on: non-negative integers below 2**63.

    ``index`` is the sample's place in the manifest, not in an epoch's shuffled order; ``view`` counts repeated
    augmentations of one image within an epoch.
    """

    seed: int
    epoch: int
    index: int
    view: int = 0

    def __post_init__(self) -> None:
        for name in ("seed", "epoch", "index", "view"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
                raise ValueError(f"Key.{name} must be an integer from 0 to 2**63 - 1, not {shown(value)}")


@dataclass(frozen=True)
class Spec:
    """What a sample looks like. Use ``Spec.train`` or ``Spec.val``.

    ``train`` is RandomResizedCrop(size, scale, ratio) and a horizontal flip with p = 0.5, then a policy and a colour
    jitter, if any; ``val`` is Resize(resize) of the short side and CenterCrop(size). Both antialias. Raises ValueError
    for sizes and ranges that make no sense. What a policy does not read is its default here, whatever was given: two
    specs of the same samples are equal.
    """

    recipe: Literal["train", "val"]
    size: int
    resize: int = 0
    scale: tuple[float, float] = (0.0, 0.0)
    ratio: tuple[float, float] = (0.0, 0.0)
    interpolation: Interpolation = "bilinear"
    augment: Augment = ""
    augment_ops: int = 2
    augment_magnitude: int = 9
    augment_interpolation: Literal["nearest", "bilinear"] = "nearest"
    jitter: float = 0.0
    version: int = VERSION

    @classmethod
    def train(
        cls,
        size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
        augment: Augment | Literal["none"] = "",
        augment_ops: int = 2,
        augment_magnitude: int = 9,
        augment_interpolation: Literal["nearest", "bilinear"] = "nearest",
        jitter: float = 0.0,
    ) -> "Spec":
        """RandomResizedCrop and flip; ``scale`` is a share of the image's area, ``ratio`` is width / height.

        ``augment`` names a policy, of which ``ra`` has ``augment_ops`` operations of ``augment_magnitude`` of 30, and
        ``ra_timm`` two of around ``augment_magnitude`` of 10; ``jitter``: by how much brightness, contrast and
        saturation may differ from 1.
        """
        return cls(
            "train",
            size,
            scale=scale,
            ratio=ratio,
            interpolation=interpolation,
            augment="" if augment == "none" else augment,
            augment_ops=augment_ops,
            augment_magnitude=augment_magnitude,
            augment_interpolation=augment_interpolation,
            jitter=jitter,
        )

    @classmethod
    def val(cls, size: int = 224, resize: int = 256, interpolation: Interpolation = "bilinear") -> "Spec":
        """Resize of the short side to ``resize`` pixels, then the central ``size`` x ``size``."""
        return cls("val", size, resize=resize, interpolation=interpolation)

    @classmethod
    def of(cls, recipe: str, **fields: Any) -> "Spec":
        """That of ``train`` or ``val`` with the fields that are given; errors as for those."""
        return (cls.train if recipe == "train" else cls.val)(**fields)

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"this code makes samples of version {VERSION}, not {shown(self.version)}")
        if self.recipe not in ("train", "val"):
            raise ValueError(f"recipe must be train or val, not {shown(self.recipe)}")
        if not isinstance(self.interpolation, str) or self.interpolation not in FILTERS:
            raise ValueError(f"interpolation must be one of {', '.join(FILTERS)}, not {shown(self.interpolation)}")
        for name in ("size", "resize"):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise ValueError(f"{name} must be a whole number of pixels, not {shown(value)}")
        for name in ("scale", "ratio"):
            object.__setattr__(self, name, _two_numbers(name, getattr(self, name)))
        if not 1 <= self.size <= 4096:
            raise ValueError(f"size must be from 1 to 4096 pixels, not {shown(self.size)}")
        self._check_policy()
        if self.recipe == "val":
            if not self.size <= self.resize <= 8192:
                raise ValueError(f"resize must be from size ({self.size}) to 8192 pixels, not {shown(self.resize)}")
            return
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two shares of the area with 0 < low <= high <= 1, not {self.scale}")
        if not 1 / 16 <= self.ratio[0] <= self.ratio[1] <= 16:
            raise ValueError(f"ratio must be width / height with 1/16 <= low <= high <= 16, not {self.ratio}")

    @property
    def is_augmented(self) -> bool:
        """Whether a policy or a jitter changes the crop."""
        return bool(self.augment or self.jitter)

    def _check_policy(self) -> None:
        if self.augment not in ("", *AUGMENTS):
            raise ValueError(f"augment must be one of none, {', '.join(AUGMENTS)}, not {shown(self.augment)}")
        for name, low, high in (("augment_ops", 1, MOST_LAYERS), ("augment_magnitude", 0, MOST_MAGNITUDE)):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}, not {shown(value)}")
        if self.augment_interpolation not in ("nearest", "bilinear"):
            raise ValueError(
                f"augment_interpolation must be nearest or bilinear, not {shown(self.augment_interpolation)}"
            )
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, Real) or not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be a number from 0 to 1, not {shown(self.jitter)}")
        if self.recipe == "val" and self.is_augmented:
            raise ValueError("augment and jitter are of the train recipe: a validation sample has none")
        if self.augment == "ra_timm" and self.augment_magnitude > MOST_MAGNITUDE_OF_TIMM:
            most = f"ra_timm has magnitudes from 0 to {MOST_MAGNITUDE_OF_TIMM}"
            raise ValueError(f"augment_magnitude={self.augment_magnitude} is too much: {most}")
        unread: dict[str, object] = {} if self.augment == "ra" else {"augment_ops": 2}
        if self.augment not in ("ra", "ra_timm"):
            unread["augment_magnitude"] = 9
        if self.augment in ("", "3a"):  # they move nothing
            unread["augment_interpolation"] = "nearest"
        for name, default in ({"jitter": float(self.jitter)} | unread).items():
            object.__setattr__(self, name, default)


RECIPES: dict[str, dict[str, Any]] = {
    recipe: {name: field.default for name, field in inspect.signature(getattr(Spec, recipe)).parameters.items()}
    for recipe in ("train", "val")
}
"""By recipe its fields, in their order, with their defaults: requests and options are made of these."""


def _two_numbers(name: str, value: object) -> tuple[float, float]:
    """Two floats. Raises ValueError for anything else, and for integers that no float can hold."""
    numbers = list(value) if isinstance(value, list | tuple) else []
    if len(numbers) != 2 or any(isinstance(number, bool) or not isinstance(number, Real) for number in numbers):
        raise ValueError(f"{name} must be two numbers, low and high, not {shown(value)}")
    try:
        return float(numbers[0]), float(numbers[1])
    except OverflowError:
        raise ValueError(f"{name} must be two numbers that a float can hold, not {shown(value)}") from None


def shown(value: object) -> str:
    """A value for a sentence, however long it is."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 40 else f"{text[:37]}..."


def shown_path(path: str | bytes | os.PathLike[str]) -> str:
    """A path for a sentence: on one line, and printable whatever bytes it has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
