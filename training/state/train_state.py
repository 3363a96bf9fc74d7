"""All that training changes, which is what a checkpoint holds: the model, what steps it, and how far the run has come.

A further member, such as averaged weights, is a field here, and a line in ``begin``, ``update``, ``state_dict`` and
``load_state_dict``.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from training.config.schema import Config
from training.config.train_options import OptimConfig
from training.optim.gradients import clip_gradients
from training.optim.optimizers import build_optimizer
from training.optim.schedule import build_schedule
from training.state.averages import Averages
from training.state.checkpoint_contents import FORMAT, check_fits
from training.state.progress import Progress


@dataclass
class TrainState:
    """The state between two steps. ``model`` owns the weights, and its names are those of the checkpoint."""

    options: OptimConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    steps_per_epoch: int
    peak: float
    """The peak learning rate, of the last layer if they differ."""
    averages: Averages | None = None
    progress: Progress = field(default_factory=Progress)
    sound: bool = True
    """Whether the members belong together, so that they may be saved; False in the midst of a step."""

    @classmethod
    def begin(cls, config: Config, model: nn.Module, device: torch.device, steps_per_epoch: int) -> "TrainState":
        """The state before the first step of a model that is on the device."""
        optimizer = build_optimizer(model, config.optim, config.train.batch_size)
        schedule = build_schedule(optimizer, config.optim, config.train.epochs, max(1, steps_per_epoch))
        scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        averages = None
        if config.mode == "train" and config.train.ema_decay:
            averages = Averages(model, config.train.ema_decay, config.train.ema_every, config.optim.warmup_epochs)
        peak = config.optim.peak(config.train.batch_size)
        return cls(config.optim, model, optimizer, schedule, scaler, steps_per_epoch, peak, averages)

    @property
    def step(self) -> int:
        """Optimiser steps taken since the beginning of the run."""
        return self.progress.epoch * self.steps_per_epoch + self.progress.batches_done

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, batches done), which names a checkpoint."""
        return self.progress.epoch, self.progress.batches_done

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self.lr_at(max(0, self.step - 1))

    def lr_at(self, step: int) -> float:
        """The learning rate of any step of the run."""
        return self.peak * float(self.schedule.lr_lambdas[0](step))

    def update(self) -> torch.Tensor:
        """Take the step that the gradients ask for, and drop them. Whoever calls it counts the step, and says so.

        It answers the norm that the gradients had before they were clipped, float32 [] on the device.
        """
        self.sound = False
        norm = clip_gradients(self.model, self.optimizer, self.scaler, self.options.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averages:
            self.averages.update(*self.position)
        return norm

    def step_is_done(self) -> None:
        """All that belongs to a step has been done."""
        self.progress.batches_done += 1
        self.sound = True

    def state_dict(self) -> dict[str, Any]:
        """The entries of a checkpoint, as plain values and tensors.

        Every rank calls it and rank 0 alone writes what it answers, so a member whose parts lie on several ranks may
        gather them here. The exception is a save after an error, which rank 0 does alone.
        """
        return {
            "model": self.model.state_dict(),
            **({"ema": self.averages.model.state_dict()} if self.averages else {}),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "steps_per_epoch": self.steps_per_epoch,
            "format": FORMAT,
            **dataclasses.asdict(self.progress),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint, on every rank; learning rate, momentum and decay are those configured now.

        ``state`` is as ``checkpoint.load`` answers it. Where an epoch has another number of steps by now, one that was
        begun is begun again. Raises ValueError, and has changed nothing, if it is not of this model and optimiser.
        """
        check_fits(self.model, self.optimizer, state, self.options.name)
        self.progress = Progress.of(state)
        if state["steps_per_epoch"] not in (None, self.steps_per_epoch) and self.progress.batches_done:
            self.progress = self.progress.at_epoch(self.progress.epoch)
        self.model.load_state_dict(state["model"])
        if self.averages:  # a checkpoint from before they were asked for has none
            self.averages.model.load_state_dict(state.get("ema", state["model"]))
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        groups = self.optimizer.param_groups
        settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for values in self.optimizer.state.values():
            if "mu_product" in values:  # torch puts it on the device, where NAdam would wait for it in each step
                values["mu_product"] = values["mu_product"].cpu()
        # The schedule is a function of the step, so the position is all that is taken over.
        step, schedule = self.step, self.schedule
        schedule.load_state_dict(schedule.state_dict() | {"last_epoch": step, "_step_count": step + 1})
        for group, own, rate, factor in zip(
            self.optimizer.param_groups, settings, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group.update(own | {"lr": rate * factor(step)})
