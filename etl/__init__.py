"""The sample: from image bytes to pixels, the same everywhere (see ``etl.sample``)."""

from etl.sample import VERSION, CorruptSample, Key, Spec, decode, transform

__all__ = ["VERSION", "CorruptSample", "Key", "Spec", "decode", "transform"]
