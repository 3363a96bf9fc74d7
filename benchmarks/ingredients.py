"""What the ingredients of a recipe cost in a training step: mixing, erasing, losses, averaged weights, and other sides.

    python -m benchmarks.ingredients [--model resnet50] [--size 224] [--batch 128] [--step-batch 16] [--repeats 3]

One process, interleaved rounds, on a GPU if there is one. Milliseconds are the CPU's with one thread, or a GPU's own.
``--batch`` images are prepared and ``--step-batch`` images make a training step, which takes a CPU seconds; compare a
share with your own step's. Sides are those of ``SIZES``, over as many epochs as they are for.
"""

import copy
import sys
from collections import defaultdict
from collections.abc import Callable

import torch
import torchvision
from torch import nn
from torchvision.transforms import v2

from benchmarks.loop import best_device, now
from benchmarks.results import Row, Table, begin, parser, rows
from training.config.data_options import DataConfig
from training.config.train_options import TrainConfig
from training.engine.mixing import Mixture
from training.engine.objective import Objective, StepKey
from training.model.bundle import MEAN, STD, Bundle
from training.model.torchvision_models import require_model
from training.state.averages import Averages

PLAIN = "normalising alone"
PREPARED = {
    PLAIN: {},
    "mixup": {"mixup": 0.2},
    "CutMix": {"cutmix": 1.0},
    "mixup or CutMix": {"mixup": 0.2, "cutmix": 1.0},
    "erasing of 0.1": {"random_erasing": 0.1},
    "erasing of 0.25": {"random_erasing": 0.25},
    "mixup or CutMix, erasing of 0.1": {"mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.1},
}
LOSSES = {"cross entropy": "ce", "cross entropy of mixtures": "ce", "binary cross entropy of mixtures": "bce"}
SIZES, EPOCHS = ["0:128", "6:160", "12:192"], 18
STEP = "training step"


class Watch:
    """Milliseconds of a function on a device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._clock = device, int(device.type == "cuda")

    def __call__(self, function: Callable[[], object], times: int = 1) -> float:
        """Of one call, from ``times`` of them."""
        begin = now(self._device)[self._clock]
        for _ in range(times):
            function()
        return 1e3 * (now(self._device)[self._clock] - begin) / times


def preparing(options: dict[str, float], images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """One batch after the other, each with draws of its own."""
    batch = len(images)
    objective = Objective(TrainConfig(batch_size=batch, **options), Bundle(nn.Identity(), MEAN, STD))  # type: ignore[arg-type]
    steps = iter(range(1 << 40))

    def prepare() -> None:
        step = next(steps)
        objective.prepare(images, labels, StepKey(0, 0, step, range(step * batch, (step + 1) * batch)))

    return prepare


def by_torchvision(
    transform: Callable[..., object], images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], object]:
    """The same by a transform of torchvision's, which makes dense targets too."""
    objective = Objective(TrainConfig(), Bundle(nn.Identity(), MEAN, STD))
    return lambda: transform(objective.inputs(images), labels)


def losing(name: str, labels: torch.Tensor) -> Callable[[], object]:
    """The loss of a batch with 1,000 classes, and its gradient."""
    objective = Objective(TrainConfig(loss=LOSSES[name], label_smoothing=0.1), Bundle(nn.Identity(), MEAN, STD))
    logits = torch.randn(len(labels), 1000, device=labels.device, requires_grad=True)
    shares = torch.full((len(labels),), 0.25, device=labels.device)
    targets = labels if name == "cross entropy" else Mixture(labels, labels.flip(0), shares)
    return lambda: objective.loss(logits, targets).backward()  # type: ignore[no-untyped-call]


def stepping(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """Forward, backward and SGD with momentum."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9, weight_decay=1e-4)

    def step() -> None:
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def schedule_ms(sides: list[tuple[int, int]], of_side: dict[int, float]) -> float:
    """Milliseconds of an image on the average of ``EPOCHS`` epochs."""
    ends = [*(epoch for epoch, _ in sides[1:]), EPOCHS]
    return sum((end - first) * of_side[side] for (first, side), end in zip(sides, ends, strict=True)) / EPOCHS


def main() -> int:
    """The command line."""
    options = parser(__doc__, model="resnet50", size=224, batch=128, step_batch=16, repeats=3).parse_args()
    result = begin(options)
    require_model(options.model)
    torch.set_num_threads(1)
    device = best_device()
    watch, generator = Watch(device), torch.Generator().manual_seed(0)
    shape = options.batch, options.size, options.size, 3
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    labels = torch.randint(0, 1000, (options.batch,), generator=generator).to(device)
    model = torchvision.models.get_model(options.model, weights=None).to(device, memory_format=torch.channels_last)
    averages = {every: Averages(copy.deepcopy(model), 0.999, every, 0) for every in (1, 32)}
    sides = DataConfig(source="synthetic", sizes=SIZES).sides()
    count = options.step_batch
    of_side = {
        side: torch.rand(count, 3, side, side, device=device).to(memory_format=torch.channels_last)
        for side in dict.fromkeys([*(side for _, side in sides), options.size])
    }
    steps = {side: stepping(model.train(), inputs, labels[:count]) for side, inputs in of_side.items()}
    for warm in steps.values():
        warm()  # the momentum is made, and the kernels are chosen
    preparations = {name: preparing(given, images, labels) for name, given in PREPARED.items()}
    for kind in (v2.MixUp, v2.CutMix):
        transform = kind(alpha=1.0, num_classes=1000)
        preparations[f"torchvision's v2.{kind.__name__}"] = by_torchvision(transform, images, labels)
    losses = {name: losing(name, labels) for name in LOSSES}
    prepared, lost, averaged, sized = (defaultdict[str, list[float]](list) for _ in range(4))
    for _ in range(options.repeats):
        for name, prepare in preparations.items():
            prepared[name].append(watch(prepare, 4) / options.batch)
        for name, loss in losses.items():
            lost[name].append(watch(loss, 20))
        averaged[STEP].append(watch(steps[options.size]))
        for every, kept in averages.items():
            averaged[f"train.ema_every={every}"].append(
                watch(lambda kept=kept: [kept.update(1, number) for number in range(32)]) / 32  # type: ignore[misc]
            )
        times = {side: watch(step) / count for side, step in steps.items()}
        for side, value in times.items():
            sized[f"{side} pixels"].append(value)
        sized[f"data.sizes={','.join(SIZES)} over {EPOCHS} epochs"].append(schedule_ms(sides, times))
    what = f"{options.batch} images of {options.size} pixels on {device}"
    result.add(Table("prepare", f"From bytes to inputs: {what}", "ms per image", rows(prepared), PLAIN))
    result.add(Table("loss", f"The loss of {options.batch} images and its gradient", "ms per batch", rows(lost)))
    of_step = [
        Row(name, values, f"{100 * sum(values) / sum(averaged[STEP]):.2f} % of the step")
        for name, values in averaged.items()
    ]
    result.add(Table("averages", f"{options.model}: a step of {count} images, and averages", "ms per step", of_step))
    largest = f"{max(side for _, side in sides)} pixels"
    title = f"{options.model}: a training step at other sides, {count} images"
    result.add(Table("sizes", title, "ms per image", rows(sized), largest))
    return 0


if __name__ == "__main__":
    sys.exit(main())
