"""From pixels to what a model sees, on whatever device they are."""

from functools import lru_cache

import torch

RGB = tuple[float, float, float]

MEAN: RGB = (0.485, 0.456, 0.406)
STD: RGB = (0.229, 0.224, 0.225)
"""Of ImageNet's RGB values in [0, 1]."""


def normalise(images: torch.Tensor, mean: RGB, std: RGB, channels_last: bool) -> torch.Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W], (x / 255 - mean) / std, on the images' device."""
    means, stds = _of_a_row(mean, std, images.device, images.shape[2])
    # By whole rows: over an axis of three channels a CPU takes four times as long.
    scaled = images.float().flatten(2).sub_(means).div_(stds).reshape(images.shape)
    nchw = scaled.permute(0, 3, 1, 2)  # NHWC memory seen as NCHW is exactly torch.channels_last
    return nchw if channels_last else nchw.contiguous()


@lru_cache
def _of_a_row(mean: RGB, std: RGB, device: torch.device, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """255 times ``mean`` and ``std`` for each value of a row of ``width`` pixels, float32 [3 * width]."""
    means, stds = (torch.tensor(values, device=device).mul(255).repeat(width) for values in (mean, std))
    return means, stds


def denormalise(images: torch.Tensor, mean: RGB, std: RGB) -> torch.Tensor:
    """float [n, 3, H, W] as the model sees it, to [0, 1] for a person."""
    means, stds = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (images * stds + means).clamp(0, 1)
