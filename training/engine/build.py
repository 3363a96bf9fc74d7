"""From configuration and data to what the loop works with."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from sources.errors import ConfigError
from sources.source import Source
from training.config.schema import Config
from training.config.train_options import TIMM
from training.engine.numerics import cpu_share
from training.engine.objective import Labelling, Objective, check_targets
from training.evaluate.classes import classes_of_weights, match
from training.evaluate.preprocessing import settle_images
from training.loader.open_data import Data
from training.model.bundle import Bundle, Inputs, Preprocessing, builder
from training.model.class_order import joined, order_warning
from training.model.image_sizes import check_sides
from training.optim.freeze import freeze
from training.optim.optimizers import require_optimizer
from training.processes.preemption import StopFlag
from training.processes.world import World
from training.report.console import Console
from training.state.averages import note_on_averages
from training.state.consumed import Consumed
from training.state.environment import describe_environment
from training.state.run_state import Run
from training.state.train_state import TrainState


def micro_batch_size(config: Config, world: World) -> int:
    """Images of a process in one pass. Raises ConfigError where the global batch cannot be split evenly."""
    parts = world.size * config.train.accumulate
    if config.train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} cannot be split evenly over {world.size} processes x "
            f"train.accumulate={config.train.accumulate}: choose a multiple of {parts}."
        )
    size = config.train.batch_size // parts
    if config.mode == "train" and config.train.mixes and size % 2:
        raise ConfigError(
            f"train.mixup and train.cutmix mix samples two by two, and of train.batch_size={config.train.batch_size} "
            f"each of {world.size} processes x train.accumulate={config.train.accumulate} has {size}, so one "
            f"sample has no partner: choose a multiple of {2 * parts}."
        )
    return size


def settle(config: Config) -> list[str]:
    """Fill in what the model decides where the options say nothing, and answer sentences about it.

    Raises ConfigError for a model or an optimiser that timm lacks, before any data are read, and in an evaluation for
    weights that cannot be read.
    """
    require_optimizer(config.optim.name)
    if config.mode == "evaluate":
        return settle_images(config)
    if not config.model.name.startswith(TIMM):
        return []
    from training.model.timm_models import making

    taken = config.data.settle(*making(config.model.name, config.data.val_image_size or 224))
    return [f"taken over from {config.model.name}: {', '.join(taken)}"] if taken else []


def worker_count(config: Config, world: World, source: Source) -> int:
    """Loader processes: one for each CPU where they make samples, a few where they only receive them."""
    share = cpu_share(config.data.workers, world)
    return share if source.made_here or config.data.workers != "auto" else max(1, share // 4)


def build_bundle(config: Config, world: World, data: Data, console: Console) -> Bundle:
    """The model on the CPU, with what belongs to it; says what one should know of it."""
    num_classes, parts = config.model.num_classes or data.num_classes, world.size * config.train.accumulate
    if config.mode == "evaluate":
        num_classes = classes_of_weights(config.model, config.eval.classes, data.class_names) or num_classes
    if num_classes < data.num_classes:
        raise ConfigError(
            f"model.num_classes={num_classes}, but the data have {data.num_classes} classes: give as many or more, or "
            "leave it out."
        )
    if config.mode == "train":
        check_targets(config.train, num_classes)
    sides = [side for _, side in config.data.sides()] if config.mode == "train" else []
    # A schedule's sides are checked below; that of the validation is what the model is built for.
    train_size = config.data.val_side if sides else config.data.image_size
    inputs = Inputs(
        train_size=train_size if config.mode == "train" else None,
        val=Preprocessing(config.data.val_side, *config.data.making),
        passes_of_one=parts if config.train.batch_size == parts else 0,
    )
    bundle = builder(config.model.name).build(config.model, num_classes, inputs)
    if sides:
        check_sides(config.model.name, bundle.module, sides)
    outputs = bundle.outputs or num_classes
    bundle = replace(bundle, outputs=outputs)
    if config.mode == "evaluate":
        classes = match(config.eval.classes, data.class_names, bundle.weights, outputs)
        bundle = replace(bundle, classes=classes)
    source = f"model.weights={config.model.weights}"
    labelled = bool(config.model.weights) and not bundle.new_head
    if bundle.classes:
        told: str | None = bundle.classes.sentence
    else:
        told = order_warning(source, bundle.weights, outputs, data.class_names) if labelled else None
    for note in filter(None, (*bundle.notes, told)):
        console.say(note)
    return bundle


def _on_balance(config: Config, labels: NDArray[np.int64]) -> str:
    """What is done about classes of different sizes, of which those without samples do not count."""
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    sizes = f"{len(counts):,} classes of {counts.min():,} to {counts.max():,} training samples"
    mean = len(labels) / len(counts)
    if config.data.balance == "classes":
        return f"data.balance=classes: of {sizes}, an epoch has {mean:,.0f} each, to one"
    largest, smallest = mean / counts.min(), mean / counts.max()
    return f"train.class_weights=balanced: of {sizes}, the loss of a sample counts {largest:.3g} to {smallest:.3g}"


def assemble(config: Config, world: World, device: torch.device, stop: StopFlag, data: Data) -> Run:
    """The model on the device, and everything that steps it."""
    steps_per_epoch = len(data.train) // config.train.batch_size
    training = config.mode == "train"
    if training and steps_per_epoch == 0:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} is more than the {len(data.train)} training samples: "
            "choose a smaller one."
        )
    torch.manual_seed(config.seed)
    console = Console(enabled=world.is_main)
    bundle = build_bundle(config, world, data, console)
    model = bundle.module.to(device)
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if training and (frozen := freeze(model, config.train.freeze)):
        console.say(frozen)
    train_model: Any = model
    if world.size > 1 and training:
        train_model = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    state = TrainState.begin(config, model, device, steps_per_epoch)
    if training and (note := note_on_averages(config, steps_per_epoch)):
        console.say(note)

    balanced = config.train.class_weights == "balanced" and training
    labelling = Labelling.of(data.train_labels if balanced else None, data.num_classes, data.sets, device)
    if training and data.train_labels is not None and (balanced or config.data.balance == "classes"):
        console.say(_on_balance(config, data.train_labels))

    def callable_(module: Any) -> Any:
        return torch.compile(module) if config.train.compile else module

    return Run(
        config=config,
        world=world,
        device=device,
        state=state,
        train_model=callable_(train_model),
        eval_model=callable_(model),
        ema_model=callable_(state.averages.model) if state.averages and config.eval.ema == "auto" else None,
        objective=Objective(config.train, bundle, labelling),
        outputs=bundle.outputs,
        classes=bundle.classes,
        consumed=Consumed(config.data.fingerprint),
        stop=stop,
        cache_report=data.cache_report,
        console=console,
        environment=describe_environment(config, device, world)
        | {
            "data": data.description,
            "model": {"classes": joined(data.class_names), "outputs": bundle.outputs, **bundle.facts},
        },
    )
