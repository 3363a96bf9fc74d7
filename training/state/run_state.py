"""A run in progress: what the loop works with."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from training.config.schema import Config
from training.engine.objective import Objective
from training.processes.preemption import StopFlag
from training.processes.world import World
from training.report.console import Console
from training.run_dir.records import NoRecords, Records
from training.state.consumed import Consumed
from training.state.train_state import TrainState


@dataclass
class Run:
    """``state`` is what training changes; ``train_model`` and ``eval_model`` are ways to call its model."""

    config: Config
    world: World
    device: torch.device
    state: TrainState
    train_model: nn.Module
    eval_model: nn.Module
    objective: Objective
    consumed: Consumed
    stop: StopFlag
    console: Console
    environment: dict[str, Any]
    records: Records = field(default_factory=NoRecords)
    saved: tuple[int, int] = (0, 0)
    """The position of the last checkpoint, or where this process began."""
    attempted: tuple[int, int] = (0, 0)
    """The position at which a checkpoint was last to be written."""

    def collect_counts(self) -> None:
        """Make the counts of what was consumed since the last time part of the run's progress; all ranks call it."""
        self.consumed.collect_counts(self.state.progress, self.records)

    def check_replaced(self) -> None:
        """Raise UserError on all ranks if more different samples than data.max_replaced were replaced."""
        self.consumed.check_replaced(self.state.progress, self.config)
