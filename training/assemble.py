"""From configuration and data to what the loop works with."""

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from aistore_data.errors import ConfigError
from training.config import Config
from training.console import Console
from training.data import Data
from training.distributed import World
from training.environment import describe_environment
from training.model import build_model
from training.numerics import cpu_share
from training.optimizer import build_optimizer, build_schedule
from training.preemption import StopFlag
from training.state import Run
from training.stream import Stream


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


def assemble(config: Config, world: World, device: torch.device, stop: StopFlag, data: Data) -> Run:
    """The model on the device, and everything that steps it."""
    steps_per_epoch = len(data.train) // config.train.batch_size
    training = config.mode == "train"
    if training and steps_per_epoch == 0:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} is more than the {len(data.train)} training samples."
        )
    torch.manual_seed(config.seed)
    train_size = config.data.image_size if training else None
    model = build_model(config.model, _num_classes(config, data), train_size, config.data.val_image_size).to(device)
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, config.train)
    train_model: Any = model
    if world.size > 1 and training:
        train_model = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    return Run(
        config=config,
        world=world,
        device=device,
        model=model,
        train_model=torch.compile(train_model) if config.train.compile else train_model,  # type: ignore[arg-type]
        eval_model=torch.compile(model) if config.train.compile else model,  # type: ignore[arg-type]
        optimizer=optimizer,
        schedule=build_schedule(optimizer, config.train, max(1, steps_per_epoch)),
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        steps_per_epoch=steps_per_epoch,
        stop=stop,
        console=Console(enabled=world.is_main),
        stream=Stream(config.data.fingerprint),
        environment=describe_environment(device, world) | {"data": data.description},
    )
