"""TensorBoard's files: figures, pictures, and the options as hyperparameters."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

_RESULTS = ("val_epoch/acc1", "val_epoch/acc5", "val_epoch/loss")
"""The figures that the table of hyperparameters shows beside the options."""


class Board:
    """Made when it is first needed, since the import takes seconds. Every method but ``close`` raises OSError."""

    def __init__(self, folder: Path, options: Mapping[str, Any], purge_step: int) -> None:
        """``purge_step``: what a former attempt has written from this step on is replaced; 0 for a new run."""
        self._folder, self._options, self._purge_step = folder, options, purge_step
        self._writer: Any = None

    def scalars(self, kind: str, values: Mapping[str, float], step: int) -> None:
        """Figures under ``kind/``."""
        for name, value in values.items():
            self._opened().add_scalar(f"{kind}/{name}", value, step)

    def images(self, tag: str, images: torch.Tensor, step: int) -> None:
        """A grid of images float [n, 3, H, W] in [0, 1], on any device."""
        self._opened().add_image(tag, torchvision.utils.make_grid(images.cpu(), nrow=8), step)

    def picture(self, tag: str, picture: NDArray[np.uint8], step: int) -> None:
        """A picture uint8 [H, W, 3]."""
        self._opened().add_image(tag, picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Write what is held back."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Write what is held back, and the end. Raises OSError."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams

            threading.excepthook = _quiet_about_tensorboard
            self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_step)
            plain = {
                name: value if isinstance(value, str | bool | int | float) else str(value)
                for name, value in self._options.items()
            }
            # Of the same folder as the figures; add_hparams would make another one. The results are the figures' tags.
            for part in hparams(plain, dict.fromkeys(_RESULTS, 0.0))[:2]:  # type: ignore[no-untyped-call]
                self._writer.file_writer.add_summary(part)
        return self._writer


class NoBoard(Board):
    """A board that writes nothing, for ``log.tensorboard=false``."""

    def __init__(self) -> None:
        super().__init__(Path(), {}, 0)

    def scalars(self, kind: str, values: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def images(self, tag: str, images: torch.Tensor, step: int) -> None:
        """Nothing."""

    def picture(self, tag: str, picture: NDArray[np.uint8], step: int) -> None:
        """Nothing."""


def _quiet_about_tensorboard(raised: threading.ExceptHookArgs) -> None:
    """What TensorBoard's thread dies of, the next call to it raises again, and that becomes a sentence."""
    if type(raised.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
        threading.__excepthook__(raised)
