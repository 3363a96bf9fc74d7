"""The policies and their operations: equal to torchvision's on PIL images, to timm's within a level, and to themselves.

torchvision's magnitudes come from ``torch.linspace``, whose bits depend on the processor: bins at which its kernels
without AVX2 give others are left out on such machines.
"""

import importlib
import itertools
import math
import platform
import re
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import NormalDist
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import AutoAugment, InterpolationMode, RandAugment, TrivialAugmentWide, functional
from torchvision.transforms import autoaugment as tv

from etl.operations import BILINEAR, NEAREST, Operation, apply, blend
from etl.policies import _NAMES, _NAMES_OF_TIMM, jitter_operations, level_of_timm, plan, words_needed
from etl.policy_tables import (
    DEGREES_10,
    DEGREES_31,
    DEGREES_135,
    ENHANCE_10,
    ENHANCE_31,
    POLICIES_OF_AUTOAUGMENT,
    SHEAR_10,
    SHEAR_31,
    WIDE,
)
from etl.sample import random_words, transform
from etl.spec import Key, Spec
from etl.strengths import _SCALES, sine_and_cosine, three_augment, timm_operation, torchvision_operation

VECTORS = Path(__file__).parent / "vectors"
SIZE = 96
MOVING, SIGNED, BINNED = _NAMES[1:6], _NAMES[1:10], _NAMES[1:12]
MAY_NEGATE = {"rotate", "color", "contrast", "brightness", "sharpness", *MOVING}
"""Operations for which timm draws a sign."""

INTERPOLATIONS = {NEAREST: InterpolationMode.NEAREST, BILINEAR: InterpolationMode.BILINEAR}
THEIRS = {
    "ta_wide": lambda size: TrivialAugmentWide()._augmentation_space(31),
    "ra": lambda size: RandAugment()._augmentation_space(31, (size, size)),
    "aa": lambda size: AutoAugment()._augmentation_space(10, (size, size)),
}
TV_NAMES = {name.lower(): name for name in THEIRS["aa"](SIZE)} | {
    f"{name}_{axis}": f"{name.title()}{axis.upper()}" for name in ("shear", "translate") for axis in "xy"
} | {"identity": "Identity", "autocontrast": "AutoContrast"}  # fmt: skip


@cache
def crops() -> tuple[Image.Image, ...]:
    """Noise, a gradient with flat parts, one colour, and blobs."""
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    ramp = np.minimum(np.arange(SIZE) * 3, 200)[:, None, None] + np.array([0, 20, 40]) + np.zeros((1, SIZE, 1), int)
    flat = np.full((SIZE, SIZE, 3), (90, 140, 200), np.uint8)
    blobs = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return *map(Image.fromarray, (noise, ramp.astype(np.uint8), flat)), blobs


def done(image: Image.Image, *operations: Operation | None) -> np.ndarray:
    """What the operations make of an image, by NumPy and Pillow."""
    out = np.array(image)
    apply(out, [operation for operation in operations if operation is not None], None)
    return out


def magnitude(policy: str, name: str, k: int, size: int) -> float:
    values, _ = THEIRS[policy](size)[TV_NAMES[name]]
    return float(values[k]) if values.ndim else 0.0


def theirs(policy: str, name: str, k: int, sign: int, bits: int, image: Image.Image) -> np.ndarray:
    strength = magnitude(policy, name, k, image.width) * (sign if name in SIGNED else 1)
    return np.asarray(tv._apply_op(image, TV_NAMES[name], strength, INTERPOLATIONS[bits], None))


def is_comparable(policy: str, name: str, k: int) -> bool:
    """Whether torch has the table's magnitude for this bin on this processor; always with AVX2."""
    if torch.backends.cpu.get_cpu_capability().startswith("AVX") or name not in SIGNED:
        return True
    scale, there = _SCALES[policy], magnitude(policy, name, k, SIZE)
    if name.startswith("translate"):
        return int(there) == scale.translate(k, SIZE)
    table = scale.shear if name.startswith("shear") else scale.degrees if name == "rotate" else scale.enhance
    return there == float(table[k])


def cases(policy: str) -> Iterator[tuple[str, int, int]]:
    """Every operation, bin and sign."""
    names = (*_NAMES[1:], "invert") if policy == "aa" else _NAMES
    for name in names:
        bins = range(_SCALES[policy].last + 1) if name in BINNED else (0,)
        for k in filter(partial(is_comparable, policy, name), bins):
            for sign in (1, -1) if name in SIGNED else (1,):
                yield name, k, sign


def assert_equal(policy: str, name: str, k: int, sign: int, images: Sequence[Image.Image]) -> None:
    """NEAREST has torchvision's bytes; BILINEAR is a level off at most, but for rims of a rotated image."""
    for image in images:
        ours = torchvision_operation(policy, name, k, sign, image.width, NEAREST)
        assert np.array_equal(done(image, ours), theirs(policy, name, k, sign, NEAREST, image)), (name, k, sign)
        if name in MOVING:
            ours = torchvision_operation(policy, name, k, sign, image.width, BILINEAR)
            made, expected = done(image, ours), theirs(policy, name, k, sign, BILINEAR, image)
            off = (np.abs(made.astype(int) - expected) > 1).any(axis=2)
            assert off.sum() <= (2 if name == "rotate" else 0), (name, k, sign)
            assert not (made[off].any(axis=1) & expected[off].any(axis=1)).any(), "no rim: neither is fill"


@pytest.mark.parametrize("policy", THEIRS)
def test_operations_equal_torchvisions(policy: str) -> None:
    for number, case in enumerate(cases(policy)):
        assert_equal(policy, *case, crops()[number % 4 : number % 4 + 1])


@pytest.mark.parametrize("policy", THEIRS)
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, 31))])
def test_operations_equal_torchvisions_on_crops_of_photos(policy: str, part: int, photos: list[Path]) -> None:
    # All operations, bins and signs; ten crops a part, but for the first, which has one for a fifth of them.
    numbers = range(10 * part - 9, 10 * part + 1) if part else [0]
    images = [Image.fromarray(transform(photos[n].read_bytes(), Spec.train(), Key(0, 0, n))) for n in numbers]
    for case in list(cases(policy))[:: 1 if part else 5]:
        assert_equal(policy, *case, images)


@pytest.mark.parametrize("size", [1, 2, 65, 131])
def test_geometry_equals_torchvisions_at_other_sizes(size: int) -> None:
    image = crops()[0].resize((size, size), Image.Resampling.BICUBIC)
    for policy in THEIRS:
        for name, k, sign in [case for case in cases(policy) if case[0] in MOVING][::4]:
            assert_equal(policy, name, k, sign, [image])


def test_bilinear_is_exact_in_integers() -> None:
    # Pillow's doubles hold every intermediate value, so that no fused multiply-add can change one.
    image = crops()[0]
    pixels = np.asarray(image).astype(np.int64)
    y, x = np.mgrid[:SIZE, :SIZE]
    for policy, name, k, sign in [("ta_wide", "rotate", 7, 1), ("ra", "shear_x", 13, -1), ("aa", "shear_y", 9, 1)]:
        operation = torchvision_operation(policy, name, k, sign, SIZE, BILINEAR)
        assert operation is not None
        a0, a1, a2, a3, a4, a5 = operation[1][0]
        across, down = a2 + a0 * x + a1 * y, a5 + a3 * x + a4 * y
        inside = (across >= 0) & (across < SIZE << 20) & (down >= 0) & (down < SIZE << 20)
        u, v = across - (1 << 19), down - (1 << 19)
        left, right = (np.clip((u >> 20) + step, 0, SIZE - 1) for step in (0, 1))
        top, bottom = (np.clip((v >> 20) + step, 0, SIZE - 1) for step in (0, 1))
        wx, wy = (u & (1 << 20) - 1)[..., None], (v & (1 << 20) - 1)[..., None]
        upper = (pixels[top, left] << 20) + (pixels[top, right] - pixels[top, left]) * wx
        lower = (pixels[bottom, left] << 20) + (pixels[bottom, right] - pixels[bottom, left]) * wx
        mean = ((upper << 20) + (lower - upper) * wy) >> 40
        assert np.array_equal(done(image, operation), np.where(inside[..., None], mean, 0))


def fused(degenerate: np.ndarray, pixels: np.ndarray, alpha: np.float32) -> np.ndarray:
    """A blend with one rounding, as a processor with fused multiply-add does it: float64 holds it exactly."""
    exact = (pixels.astype(np.float64) - degenerate) * np.float64(alpha) + degenerate
    return np.clip(exact.astype(np.float32), 0, 255).astype(np.uint8)


def test_blends_are_pillows_and_need_no_fused_multiply_add() -> None:
    base, pixels = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    strengths = [(policy, k, sign) for policy in THEIRS for k in range(_SCALES[policy].last + 1) for sign in (1, -1)]
    changed = 0
    for policy, k, sign in strengths[::7]:
        name, (alpha,) = torchvision_operation(policy, "color", k, sign, SIZE, NEAREST) or ("", ())
        ours = blend(base, pixels, alpha)
        assert np.array_equal(ours, np.asarray(Image.blend(*map(Image.fromarray, (base, pixels)), float(alpha)))), name
        changed += int((ours != fused(base, pixels, alpha)).sum())
    if platform.machine() == "x86_64":
        assert changed > 0, "the emulation of a fused multiply-add sees what it would change in torchvision's blends"
    for jitter in (0.3, 0.4, 1.0):  # factors of 15 fractional bits
        for seed in range(20):
            for name, arguments in jitter_operations(random_words(Key(seed, 0, 0), 65)[61:], jitter):
                if name != "table":
                    assert np.array_equal(blend(base, pixels, *arguments), fused(base, pixels, *arguments))


def test_smoothing_has_room_for_any_rounding() -> None:
    # Pillow sums nine products of float32 and adds a half: a sum is at least 1/26 from where the result changes.
    image = crops()[0]
    pixels = np.asarray(image).astype(int)
    total = sum(pixels[y : y + SIZE - 2, x : x + SIZE - 2] for y in range(3) for x in range(3))
    total = total + 4 * pixels[1:-1, 1:-1]
    smooth = np.asarray(image.filter(ImageFilter.SMOOTH))
    assert np.array_equal(smooth[1:-1, 1:-1], (2 * total + 13) // 26)
    assert np.array_equal(smooth[0], pixels[0]) and np.array_equal(smooth[:, -1], pixels[:, -1])


def scripted(policy: str, words: Sequence[int]) -> Any:
    """Patches torchvision's draws: they are what our words say, in its order."""
    pick = {at: (words[at] >> 32) * 14 >> 32 for at in (41, 43)}
    if policy == "aa":
        probabilities = torch.tensor([(words[at] >> 32) / 2**32 for at in (42, 44)], dtype=torch.float64)
        signs = torch.tensor([1 - (words[at] >> 63) for at in (43, 45)])  # 0 is negative
        drawn = (words[41] >> 32) * 25 >> 32, probabilities, signs
        return patch.object(AutoAugment, "get_params", return_value=drawn)
    if policy == "ta_wide":
        name, k = _NAMES[pick[41]], (words[42] >> 32) * 31 >> 32
        answers = [pick[41], *([k] if name in BINNED else []), *([words[43] >> 63] if name in SIGNED else [])]
    else:
        answers = []
        for at in (41, 43):
            answers += [pick[at], *([words[at + 1] >> 63] if _NAMES[pick[at]] in SIGNED else [])]
    return patch("torch.randint", lambda *_, **__: torch.tensor([answers.pop(0)]))


@pytest.mark.parametrize("policy", THEIRS)
def test_whole_policies_equal_torchvisions(policy: str) -> None:
    pipeline = {"ta_wide": TrivialAugmentWide, "ra": RandAugment, "aa": AutoAugment}[policy]()
    for index in range(150):
        words, image = random_words(Key(3, 1, index), 46), crops()[index % 4]
        with scripted(policy, words):
            expected = np.asarray(pipeline(image))
        assert np.array_equal(done(image, *plan(words, SIZE, policy, 2, 9, "nearest", 0.0)), expected), index


def test_committed_tables_are_torchvisions() -> None:
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("torch.linspace rounds as in the tables on processors with AVX2 alone")
    for table, last in [(WIDE, 0.99), (DEGREES_135, 135), (SHEAR_31, 0.3), (ENHANCE_31, 0.9), (DEGREES_31, 30)]:
        assert np.array_equal(table, torch.linspace(0.0, last, 31).numpy())
    for table, last in [(SHEAR_10, 0.3), (ENHANCE_10, 0.9), (DEGREES_10, 30)]:
        assert np.array_equal(table, torch.linspace(0.0, last, 10).numpy())
    theirs = AutoAugment()._get_policies(tv.AutoAugmentPolicy.IMAGENET)
    ours = [[(TV_NAMES[name], tenths / 10, k) for name, tenths, k in pair] for pair in POLICIES_OF_AUTOAUGMENT]
    assert ours == [[(name, p, k or 0) for name, p, k in pair] for pair in theirs]


def test_sines_and_cosines_are_right_to_the_last_bit() -> None:
    for numerator, denominator in [(0, 1), (9, 2), (30, 1), (45, 1), (90, 1), (135, 1), (27 * 4096 + 5, 4096)]:
        sine, cosine = sine_and_cosine(numerator, denominator)
        angle = math.radians(numerator / denominator)
        assert abs(sine / 2**48 - math.sin(angle)) < 2**-48 and abs(cosine / 2**48 - math.cos(angle)) < 2**-48
    assert sine_and_cosine(90, 1) == (1 << 48, 0) and sine_and_cosine(30, 1)[0] == 1 << 47


def timm() -> Any:
    return importlib.import_module("timm.data.auto_augment")


def timm_names() -> list[str]:
    pairs = (name.removesuffix("Increasing").removesuffix("Rel") for name in timm()._RAND_INCREASING_TRANSFORMS)
    return ["solarize_add" if n == "SolarizeAdd" else re.sub("([XY])$", r"_\1", n).lower() for n in pairs]


def timm_pipeline(bits: int) -> Any:
    how = {NEAREST: Image.Resampling.NEAREST, BILINEAR: Image.Resampling.BILINEAR}[bits]
    return timm().rand_augment_transform(
        "rand-m9-mstd0.5-inc1", {"img_mean": (124, 116, 104), "translate_const": 100, "interpolation": how}
    )


@pytest.mark.parametrize("bits", [NEAREST, BILINEAR], ids=["nearest", "bilinear"])
def test_operations_are_within_a_level_of_timms(bits: int) -> None:
    assert list(_NAMES_OF_TIMM) == timm_names()
    pipeline = timm_pipeline(bits)
    for number, (name, operation) in enumerate(zip(_NAMES_OF_TIMM, pipeline.ops, strict=True)):
        for level in sorted({level_of_timm(part, 9) for part in range(0, 256, 23)} | {9 * 4096, 10 * 4096}):
            if name == "posterize" and level == 10 * 4096:
                continue  # no bits: timm raises under Pillow 13
            for sign in (1, -1):
                image = crops()[number % 4]
                with (
                    patch("random.random", side_effect=[0.0, sign < 0]),
                    patch("random.gauss", return_value=level / 4096),
                ):
                    expected = np.asarray(operation(image)).astype(int)
                made = done(image, timm_operation(name, level, sign, SIZE, bits))
                assert np.abs(made - expected).max() <= (bits == BILINEAR), (name, level, sign)


def test_whole_policy_is_within_a_level_of_timms() -> None:
    pipeline, crashes = timm_pipeline(BILINEAR), 0
    for index in range(150):
        words, image = random_words(Key(5, 0, index), 49), crops()[index % 4]
        names = [(words[at + 1] >> 32) * 15 >> 32 for at in (41, 45)]
        levels = [level_of_timm(words[at + 2] >> 56, 9) for at in (41, 45)]
        draws, gaussians = [], []
        for at, name, level in zip((41, 45), names, levels, strict=True):
            applied = not words[at] >> 63
            draws += [0.25 if applied else 0.75]
            if applied:
                gaussians.append(level / 4096)
                negated = [words[at + 3] >> 63] if _NAMES_OF_TIMM[name] in MAY_NEGATE else []
                draws += negated
                crashes += _NAMES_OF_TIMM[name] == "posterize" and level == 10 * 4096
        chosen = [pipeline.ops[name] for name in names]
        with (
            patch("random.random", side_effect=draws),
            patch("random.gauss", side_effect=gaussians),
            patch("numpy.random.choice", return_value=chosen),
        ):
            expected = np.asarray(pipeline(image)).astype(int)
        made = done(image, *plan(words, SIZE, "ra_timm", 2, 9, "bilinear", 0.0))
        # A second operation may widen the level that the first one left.
        assert (np.abs(made - expected) > 1).mean() < 0.01, index
    assert crashes == 0


def test_levels_of_timm() -> None:
    for mean in (0, 6, 7, 9, 10):
        levels = np.array([level_of_timm(part, mean) for part in range(256)]) / 4096
        exact = np.clip([NormalDist(mean, 0.5).inv_cdf((part + 0.5) / 256) for part in range(256)], 0, 10)
        assert np.abs(levels - exact).max() < 2**-12


def test_timm_keeps_a_bit() -> None:
    assert set(np.frombuffer(timm_operation("posterize", 10 * 4096, 1, SIZE, NEAREST)[1][0], np.uint8)) == {0, 128}


def test_three_augment_and_jitter_are_pillows() -> None:
    image = crops()[3]
    assert np.array_equal(done(image, three_augment(0, 0)), np.asarray(image.convert("L").convert("RGB")))
    assert np.array_equal(done(image, three_augment(1, 0)), np.asarray(ImageOps.solarize(image)))
    for k in range(64):
        for image in crops()[::3]:
            expected = image.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * k / 63))
            assert np.array_equal(done(image, three_augment(2, k)), np.asarray(expected)), k
    for index in range(60):
        words, image = random_words(Key(0, 7, index), 65), crops()[index % 4]
        factors = [2**15 - 9830 + ((word >> 32) * 19661 >> 32) for word in words[62:65]]
        adjust = [functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation]
        expected = image
        for place in list(itertools.permutations(range(3)))[(words[61] >> 32) * 6 >> 32]:
            expected = adjust[place](expected, factors[place] / 2**15)
        assert np.array_equal(done(image, *plan(words, SIZE, "", 2, 9, "nearest", 0.3)), np.asarray(expected))


def chi_square(counts: Sequence[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def test_draws_are_uniform() -> None:
    # Of 0.1 % of all seeds a sum is above the limit; these are fixed.
    drawn = [random_words(Key(11, 0, index), 44)[41:] for index in range(6000)]
    for at, n, limit in [(0, 14, 34.5), (1, 31, 59.7), (0, 25, 51.2), (0, 15, 36.1), (2, 2, 10.8), (1, 256, 330.5)]:
        picks = [(words[at] >> 32) * n >> 32 for words in drawn]
        assert chi_square(np.bincount(picks, minlength=n).tolist()) < limit, (at, n)
    levels = np.array([level_of_timm(words[1] >> 56, 9) for words in drawn]) / 4096
    assert abs(levels[levels < 10].mean() - 8.97) < 0.03 and levels.max() == 10 and levels.min() > 7


def test_more_words_begin_with_the_same_ones() -> None:
    for augment, layers, jitter, count in [
        *[("", 2, 0.0, 41), ("ta_wide", 2, 0.0, 44), ("ra", 10, 0.0, 61), ("aa", 2, 0.0, 46)],
        *[("3a", 2, 0.0, 43), ("ra_timm", 2, 0.0, 49), ("3a", 2, 0.3, 65)],
    ]:
        assert words_needed(augment, layers, jitter) == count
        words = random_words(Key(1, 2, 3), count)
        assert len(words) == count and words[:41] == random_words(Key(1, 2, 3))
        plan(words, 8, augment, layers, 9, "nearest", jitter)


def test_a_policy_changes_the_crop_and_nothing_before_it() -> None:
    data = (VECTORS / "rgb444.jpg").read_bytes()
    for index in range(20):
        key, spec = Key(2, 0, index), Spec.train(48, augment="ra", augment_ops=3, augment_interpolation="bilinear")
        plain = transform(data, Spec.train(48), key)
        operations = plan(random_words(key, 47), 48, "ra", 3, 9, "bilinear", 0.0)
        assert np.array_equal(transform(data, spec, key), done(Image.fromarray(plain), *operations))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"augment": "trivial"}, "augment must be one of none, ta_wide, ra, aa, 3a, ra_timm, not 'trivial'"),
        ({"augment": ["ra"]}, "augment must be one of"),
        ({"augment": "ra", "augment_magnitude": 31}, "augment_magnitude must be a whole number from 0 to 30, not 31"),
        (
            {"augment": "ra_timm", "augment_magnitude": 11},
            "augment_magnitude=11 is too much: ra_timm has magnitudes from",
        ),
        ({"augment": "ra", "augment_ops": 0}, "augment_ops must be a whole number from 1 to 10, not 0"),
        ({"augment_ops": True}, "augment_ops must be a whole number"),
        ({"augment_interpolation": "bicubic"}, "augment_interpolation must be nearest or bilinear, not 'bicubic'"),
        ({"jitter": -0.1}, "jitter must be a number from 0 to 1, not -0.1"),
        ({"jitter": math.nan}, "jitter must be a number from 0 to 1, not nan"),
        ({"jitter": "0.3"}, "jitter must be a number"),
    ],
)
def test_policies_that_make_no_sense_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Spec.train(**fields)


def test_validation_has_no_policy() -> None:
    with pytest.raises(ValueError, match="a validation sample has none"):
        Spec("val", 224, resize=256, augment="ra")


def test_what_a_policy_does_not_read_is_its_default() -> None:
    given: dict[str, Any] = {"augment_ops": 3, "augment_magnitude": 20, "augment_interpolation": "bilinear"}
    assert Spec.train(augment="none", **given) == Spec.train()
    assert Spec.train(augment="3a", **given) == Spec.train(augment="3a")
    assert Spec.train(augment="ta_wide", **given) == Spec.train(augment="ta_wide", augment_interpolation="bilinear")
    assert Spec.train(augment="ra", **given).augment_ops == 3
