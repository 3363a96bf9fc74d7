"""The sample: from image bytes to pixels, the same everywhere (see ``etl.sample``)."""

from etl.sample import CorruptSample, decode, transform
from etl.spec import VERSION, Key, Spec

__all__ = ["VERSION", "CorruptSample", "Key", "Spec", "decode", "transform"]
