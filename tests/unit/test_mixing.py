"""Mixing and erasing: the same for any number of processes, and torchvision's for the same draw."""

import hashlib
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2

from etl import Spec
from sources.batch import Counts, Filled, Keys
from sources.errors import ConfigError
from sources.randomness import ERASING, stream
from sources.source import Source, Specs
from training.config.schema import Config
from training.config.train_options import TrainConfig
from training.engine import erasing, mixing
from training.engine.build import micro_batch_size
from training.engine.mixing import SHARE_BITS, Mix, Mixture
from training.engine.objective import Objective, StepKey
from training.loader.loader import BatchIterator, open_loader
from training.loader.order import TrainBatches
from training.loader.workers import start_worker_server
from training.model.bundle import MEAN, STD, Bundle
from training.processes.world import World

SEED, SIDE, STEPS = 3, 6, 2
WHOLE = 1 << SHARE_BITS


class Made(Source):
    """Samples that their key tells."""

    def __init__(self, length: int) -> None:
        self.specs, self.made_here, self.length = Specs(Spec.train(SIDE)), True, length

    def __len__(self) -> int:
        return self.length

    def locate(self, index: int) -> str:
        return str(index)

    def fill(self, keys: Keys, rows: NDArray[np.uint8]) -> Filled:
        for row, (epoch, index) in zip(rows, keys, strict=True):
            row[:] = np.random.default_rng([epoch, index]).integers(0, 256, row.shape, np.uint8)
        return Filled(np.array([index % 7 for _, index in keys]), Counts(local=len(keys)))


def options(batch: int, **others: Any) -> TrainConfig:
    given = {"mixup": 0.2, "cutmix": 1.0, "mix_prob": 0.9, "random_erasing": 0.3}
    return TrainConfig(batch_size=batch, **{**given, **others})


def mixed(config: TrainConfig, world: int, accumulate: int, start: tuple[int, int] = (0, 0), workers: int = 0) -> Any:
    """(place in the run of a sample, its image, its labels and shares) of all steps of two epochs, from ``start`` on."""
    length, batch = STEPS * config.batch_size + 5, config.batch_size
    objective, source = Objective(config, Bundle(torch.nn.Identity(), MEAN, STD)), Made(length)
    found = []
    for rank in range(world):
        where = {"rank": rank, "world_size": world, "accumulate": accumulate, "start": start}
        batches = TrainBatches(length, batch, SEED, 2, **where)  # type: ignore[arg-type]
        with open_loader(source, batches, workers, 2, torch.device("cpu"), accumulate) as loader:
            feed = BatchIterator(loader)
            for number in range(len(batches)):
                epoch, step = divmod(start[0] * STEPS + start[1] + number // accumulate, STEPS)
                made = next(feed)
                key = StepKey(SEED, epoch, step, made.positions)
                inputs, targets = objective.prepare(made.images, made.labels, key)
                if isinstance(targets, torch.Tensor):
                    targets = Mixture(targets, targets, torch.ones(len(targets)))
                shares = torch.stack([targets.shares, 1 - targets.shares], 1).tolist()
                pairs = torch.stack(targets[:2], 1).tolist()
                rows = zip(made.positions, inputs, pairs, shares, strict=True)
                # The partner of a sample that is not mixed counts nothing, so it is not compared.
                found += [
                    ((epoch, place), image, dict(zip(*both, strict=True)) if both[1][1] else both[0][0])
                    for place, image, *both in rows
                ]
    return sorted(found, key=lambda row: row[0])


def digest(rows: Any) -> str:
    whole = hashlib.sha256()
    for place, image, target in rows:
        whole.update(repr((place, target)).encode() + image.contiguous().numpy().tobytes())
    return whole.hexdigest()


PLANS = (
    Mix(first=0, last=128, share=10059776, box=(101, 0, 123, 140)),
    Mix(first=128, last=256, share=13422397, box=(22, 8, 100, 86)),
    Mix(first=256, last=384, share=13778164, box=(90, 130, 124, 62)),
    Mix(first=384, last=512, share=16777216, box=None),
)
BOXES = [(4, (17, 12, 144, 64)), (12, (35, 73, 138, 52)), (14, (87, 21, 55, 158))]
WHOLES: dict[int, str] = {}
SPLITS = [(world, accumulate) for world in (1, 2, 4) for accumulate in (1, 2, 4)]


@pytest.mark.parametrize(
    ("batch", "world", "accumulate"),
    [
        pytest.param(batch, *split, marks=() if (batch, *split) in ((320, 2, 4), (24, 4, 1)) else pytest.mark.long)
        for batch, split in itertools.product((1024, 512, 320, 96, 24), SPLITS)
        if batch // math.prod(split) % 2 == 0
    ],
)
def test_mixtures_do_not_know_the_processes(batch: int, world: int, accumulate: int) -> None:
    config = options(batch)
    whole = WHOLES.get(batch) or WHOLES.setdefault(batch, digest(mixed(config, 1, 1)))
    assert digest(mixed(config, world, accumulate)) == whole


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.long)])
def test_mixtures_do_not_know_when_a_run_was_killed_nor_its_workers(workers: int) -> None:
    config = options(96)
    whole = mixed(config, 1, 1)
    assert digest(mixed(config, 2, 2, start=(0, 1))) == digest(whole[96:])
    assert digest(mixed(config, 1, 4, start=(1, 1))) == digest(whole[-96:])
    start_worker_server()
    assert digest(mixed(config, 1, 2, workers=workers)) == digest(whole)
    assert digest(mixed(options(96, mix_switch=0.4), 1, 1)) != digest(whole)


def test_a_sample_without_a_partner_is_refused_with_a_sentence() -> None:
    config = Config(train=TrainConfig(batch_size=12, accumulate=2, cutmix=1.0))
    assert micro_batch_size(config, World()) == 6
    with pytest.raises(ConfigError, match=r"train.batch_size=12 each of 2 processes x train.accumulate=2 has 3.* 8\."):
        micro_batch_size(config, World(0, 2))
    config.mode = "evaluate"
    assert micro_batch_size(config, World(0, 2)) == 3


def test_what_is_drawn_never_changes() -> None:
    found = mixing.plan(options(256), 7, 5, 3, range(0, 512), 224, 192)
    assert found == PLANS
    boxes = erasing.plan(0.3, 7, 5, 3, range(0, 16), 224, 192)
    assert boxes == BOXES


def test_a_share_of_the_batches_is_mixed_and_of_those_a_share_by_cutmix() -> None:
    config = options(2, mix_prob=0.75, mix_switch=0.25)
    found = [mixing.plan(config, 0, epoch, step, range(2), 32, 32) for epoch in range(40) for step in range(50)]
    chosen = [mix for mixes in found for mix in mixes]
    assert len(chosen) == pytest.approx(1500, abs=80)
    assert sum(mix.box is not None for mix in chosen) == pytest.approx(375, abs=70)
    assert not any(
        mix.box for step in range(50) for mix in mixing.plan(options(2, cutmix=0.0), 0, 0, step, range(2), 8, 8)
    )
    assert all(mix.box for step in range(50) for mix in mixing.plan(options(2, mixup=0.0), 0, 0, step, range(2), 8, 8))


def images_and_labels(count: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 7, (count,), generator=generator)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_mixture_is_torchvisions_for_the_same_share_and_box(kind: str, channels_last: bool) -> None:
    """Mixup's images and targets bit for bit; CutMix's targets within a rounding, as its share is one of 24 bits."""
    config = TrainConfig(batch_size=640, channels_last=channels_last, **{kind: 0.7})  # type: ignore[arg-type]
    objective = Objective(config, Bundle(torch.nn.Identity(), MEAN, STD))
    images, labels = images_and_labels(640, 20, 17)
    before = images.clone()
    inputs, targets = objective.prepare(images, labels, StepKey(5, 2, 1, range(640, 1280)))
    assert isinstance(targets, Mixture) and torch.equal(images, before)
    whole, dense = objective.inputs(images), torch.zeros(640, 7)
    dense += torch.nn.functional.one_hot(targets.labels, 7) * targets.shares[:, None]
    dense += torch.nn.functional.one_hot(targets.partners, 7) * (1 - targets.shares[:, None])
    for mix in mixing.plan(config, 5, 2, 1, range(640), 20, 17):
        for row in range(mix.first, mix.last, 2):
            pair, of_pair = whole[row : row + 2], labels[row : row + 2]
            if mix.box:
                top, left, height, width = mix.box
                area = 1.0 - height * width / (20 * 17)
                other, params = (
                    v2.CutMix(num_classes=7),
                    {"box": (left, top, left + width, top + height), "lam_adjusted": area},
                )
            else:
                other, params = v2.MixUp(num_classes=7), {"lam": mix.share / WHOLE}
            params |= {"labels": of_pair, "batch_size": 2}
            assert torch.equal(other.transform(pair, params), inputs[row : row + 2])
            expected = other.transform(of_pair, params)
            if mix.box:
                torch.testing.assert_close(dense[row : row + 2], expected, rtol=0, atol=6e-8)
            else:
                assert torch.equal(dense[row : row + 2], expected)


def test_a_box_is_torchvisions_for_the_same_share_and_centre() -> None:
    draw = np.random.default_rng(0)
    for _ in range(3000):
        height, width = draw.choice([(224, 224), (160, 160), (97, 61), (1, 8), (33, 224)])
        height, width = int(height), int(width)
        share = int(draw.choice([0, 1, WHOLE // 2, WHOLE - 1, WHOLE, draw.integers(WHOLE)]))
        column, row = (int(word) for word in draw.integers(0, 1 << 63, 2, np.int64))
        column, row = 2 * column, 2 * row
        x, y = (column >> 32) * width >> 32, (row >> 32) * height >> 32
        half = 0.5 * math.sqrt(1.0 - share / WHOLE)
        left, top = max(x - int(half * width), 0), max(y - int(half * height), 0)
        right, bottom = min(x + int(half * width), width), min(y + int(half * height), height)
        assert mixing.cut_box(share, column, row, height, width) == (top, left, bottom - top, right - left)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0])
def test_shares_have_the_distribution_beta(alpha: float) -> None:
    """Kolmogorov and Smirnov's distance of two samples: below this for 999 of 1,000 pairs of equal distributions."""
    count = 5000
    words = stream(11, 3, (0, 0, 0)).random_raw(64 * count).reshape(count, 64).tolist()
    ours = np.sort([mixing.beta(alpha, row) for row in words])
    torch.manual_seed(0)
    given = torch.distributions.Beta(torch.tensor(alpha, dtype=torch.float64), torch.tensor(alpha, dtype=torch.float64))
    theirs = np.sort(np.rint(given.sample((4 * count,)).numpy() * WHOLE))
    grid = np.concatenate([ours, theirs])
    distance = np.abs(
        np.searchsorted(ours, grid, "right") / len(ours) - np.searchsorted(theirs, grid, "right") / len(theirs)
    ).max()
    assert distance < 1.95 * math.sqrt(1 / len(ours) + 1 / len(theirs))
    assert ours.min() >= 0 and ours.max() <= WHOLE


def test_a_word_that_no_try_takes_gives_halves() -> None:
    assert mixing.beta(0.5, [(1 << 64) - 1] * 64) == WHOLE // 2
    assert mixing.beta(0.01, [0, 1 << 63] * 32) == 0 and mixing.beta(0.01, [1 << 63, 0] * 32) == WHOLE


class Scripted:
    """torch's uniform numbers, as the words of an erasing have them: of each attempt two, and of the last one two more."""

    def __init__(self, words: list[int]) -> None:
        self.attempts = iter([[word >> 32 for word in words[begin : begin + 4]] for begin in range(1, 41, 4)])
        self.left: list[int] = []

    def uniform_(self, _: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
        self.left = self.left if len(self.left) == 3 else next(self.attempts)
        low, high = float(low), float(high)
        return torch.tensor([low + (high - low) * self.left.pop(0) / 2**32], dtype=torch.float64)

    def randint(self, low: int, high: int, size: tuple[int]) -> torch.Tensor:
        return torch.tensor([self.left.pop(0) * high >> 32])


def test_an_erased_box_is_torchvisions_for_the_same_uniform_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    erase, sides = v2.RandomErasing(1.0), ((224, 224), (160, 160), (32, 48), (24, 300))
    words = stream(5, ERASING, (0, 1, 2)).random_raw(44 * 1500).reshape(-1, 44).tolist()
    missed = 0
    for number, row in enumerate(words):
        height, width = sides[number % len(sides)]
        found = erasing.erased_box(row, height, width)
        scripted = Scripted(row)
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "uniform_", lambda *given, s=scripted: s.uniform_(*given))
            patched.setattr(torch, "randint", scripted.randint)
            params = erase.make_params([torch.empty(3, height, width)])
        expected = None if params["v"] is None else (params["i"], params["j"], params["h"], params["w"])
        assert found == expected
        missed += found is None
    assert 0 < missed < len(words) // 4


def test_a_share_of_the_samples_is_erased_after_normalising_and_the_rest_untouched() -> None:
    config = TrainConfig(batch_size=400, random_erasing=0.25)
    objective = Objective(config, Bundle(torch.nn.Identity(), MEAN, STD))
    images, labels = images_and_labels(400, 24, 24)
    inputs, targets = objective.prepare(images, labels, StepKey(0, 0, 0, range(400)))
    boxes = dict(erasing.plan(0.25, 0, 0, 0, range(400), 24, 24))
    assert targets is labels and len(boxes) == pytest.approx(100, abs=35)
    for row, image in enumerate(objective.inputs(images)):
        if row in boxes:
            top, left, height, width = boxes[row]
            assert image[:, top : top + height, left : left + width].abs().min() > 0
            image[:, top : top + height, left : left + width] = 0
        assert torch.equal(inputs[row], image)
    part = erasing.plan(0.25, 0, 0, 0, range(100, 150), 24, 24)
    assert part == [(row - 100, box) for row, box in boxes.items() if 100 <= row < 150]
