"""The devices that a test runs on: the CPU, and a GPU where there is one, which `make gpu-check` looks for."""

import pytest
import torch

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and torch sees none here")

GPU = pytest.param("cuda", marks=NEEDS_GPU)
BOTH = ["cpu", GPU]
GPU_AND_LONG_CPU = [pytest.param("cpu", marks=pytest.mark.long), GPU]
"""Where other tests show the same on a CPU already."""


def device_of(name: str) -> torch.device:
    """The CPU, or the first GPU."""
    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)
