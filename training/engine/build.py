"""From configuration and data to what the loop works with."""

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from sources.errors import ConfigError
from training.config.schema import Config
from training.engine.numerics import cpu_share
from training.loader.open_data import Data
from training.model.class_order import joined, order_warning
from training.model.image_sizes import check_batch_of_one
from training.model.torchvision_models import build_model, open_weights, own_preprocessing_note, weights_notes
from training.optim.optimizers import build_optimizer, build_schedule
from training.processes.distributed import World
from training.processes.preemption import StopFlag
from training.report.console import Console
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
    return config.train.batch_size // parts


def worker_count(config: Config, world: World) -> int:
    """Loader processes: one for each CPU where they make samples, a few where they only receive them."""
    share = cpu_share(config.data.workers, world)
    receive_only = config.data.source == "aistore" and config.data.transform == "etl"
    return max(1, share // 4) if receive_only and config.data.workers == "auto" else share


def _num_classes(config: Config, data: Data) -> int:
    wanted = config.model.num_classes
    if wanted is not None and wanted < data.num_classes:
        raise ConfigError(f"model.num_classes={wanted}, but the data have {data.num_classes} classes.")
    return wanted or data.num_classes


def _model(config: Config, world: World, data: Data, console: Console) -> Any:
    """The model on the CPU; says what one should know of the weights that it begins with."""
    training, num_classes = config.mode == "train", _num_classes(config, data)
    size, val_size = config.data.image_size if training else None, config.data.val_image_size
    given = open_weights(config.model)
    parts = world.size * config.train.accumulate
    if size and config.train.batch_size == parts:
        check_batch_of_one(config.model.name, num_classes, size, val_size, parts)
    model = build_model(config.model, num_classes, size, val_size, given)
    if config.model.weights:
        source = f"model.weights={config.model.weights}"
        notes = weights_notes(config.model.name, given, model, num_classes) if given else []
        if given:
            notes.append(
                own_preprocessing_note(given, val_size, config.data.val_resize, config.data.interpolation) or ""
            )
        notes.append(order_warning(source, given, num_classes, data.class_names) or "")
        for note in filter(None, notes):
            console.say(note)
    return model


def _model_facts(model: Any, data: Data) -> dict[str, Any]:
    """What a checkpoint must tell of its model, for who uses its weights: the classes, and how it reads its inputs."""
    facts: dict[str, Any] = {"classes": joined(data.class_names)}
    if hasattr(model, "transform_input"):
        facts["transform_input"] = model.transform_input
    return facts


def assemble(config: Config, world: World, device: torch.device, stop: StopFlag, data: Data) -> Run:
    """The model on the device, and everything that steps it."""
    steps_per_epoch = len(data.train) // config.train.batch_size
    training = config.mode == "train"
    if training and steps_per_epoch == 0:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} is more than the {len(data.train)} training samples."
        )
    torch.manual_seed(config.seed)
    console = Console(enabled=world.is_main)
    model = _model(config, world, data, console).to(device)
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, config.train)
    train_model: Any = model
    if world.size > 1 and training:
        train_model = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    state = TrainState(
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, config.train, max(1, steps_per_epoch)),
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        steps_per_epoch=steps_per_epoch,
    )
    return Run(
        config=config,
        world=world,
        device=device,
        state=state,
        train_model=torch.compile(train_model) if config.train.compile else train_model,  # type: ignore[arg-type]
        eval_model=torch.compile(model) if config.train.compile else model,  # type: ignore[arg-type]
        consumed=Consumed(config.data.fingerprint),
        stop=stop,
        console=console,
        environment=describe_environment(device, world)
        | {"data": data.description, "model": _model_facts(model, data)},
    )
