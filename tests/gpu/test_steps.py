"""Steps on a device: its mixtures are the CPU's, fp16's scale is a part of the state, and compiling changes nothing."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from sources.errors import ConfigError
from tests.support.devices import BOTH, GPU_AND_LONG_CPU, device_of
from tests.unit.test_loop import EVERYTHING, batches, make_run
from tests.unit.test_mixing import images_and_labels
from training.config.schema import Config
from training.config.train_options import TrainConfig
from training.engine.loop import train_step
from training.engine.mixing import Mixture
from training.engine.numerics import check_compiler, set_numerics
from training.engine.objective import Objective, StepKey
from training.model.bundle import MEAN, STD, Bundle
from training.processes.collectives import broadcast_buffers, gather_on_main, on_any_rank, sum_over_ranks
from training.processes.rendezvous import BACKENDS
from training.processes.world import World
from training.report.metrics import DeviceSums
from training.run_dir import checkpoint
from training.state.run_state import Run, contents


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As ``deterministic=true`` has it."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    set_numerics(Config(deterministic=True, threads=1), torch.device("cpu"), World())
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
    torch.use_deterministic_algorithms(False)


def step(run: Run) -> float:
    """Take one; answers its loss."""
    sums = DeviceSums(run.device)
    train_step(run, batches(1, run.device), sums)
    return sums.take()[0].item() / 12


@pytest.mark.parametrize("device", BOTH)
@pytest.mark.parametrize("channels_last", [True, False], ids=["NHWC", "NCHW"])
@pytest.mark.parametrize(
    "kind",
    [{"mixup": 0.7}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.3}],
    ids=["mixup", "cutmix", "both and erasing"],
)
def test_mixtures_are_the_cpus(device: str, channels_last: bool, kind: dict[str, float]) -> None:
    """Within one unit in the last place, the targets and what was erased bit for bit."""
    config = TrainConfig(batch_size=512, channels_last=channels_last, **kind)  # type: ignore[arg-type]
    objective, key = Objective(config, Bundle(torch.nn.Identity(), MEAN, STD)), StepKey(5, 2, 1, range(512, 1024))
    images, labels = images_and_labels(512, 48, 40)
    expected, targets = objective.prepare(images, labels, key)
    found, on_device = objective.prepare(images.to(device_of(device)), labels.to(device_of(device)), key)
    assert found.device.type == device and found.stride() == expected.stride()
    np.testing.assert_array_max_ulp(found.cpu().numpy(), expected.numpy(), maxulp=1)
    assert torch.equal(found.cpu() == 0, expected == 0)
    assert isinstance(targets, Mixture) and isinstance(on_device, Mixture)
    for name, values in targets._asdict().items():
        assert torch.equal(getattr(on_device, name).cpu(), values), name


def of_scale(run: Run, scale: float) -> Run:
    """The same run with a loss scale of its own, whose growth comes after three sound steps."""
    run.state.scaler = torch.amp.GradScaler(run.device.type, init_scale=scale, growth_interval=3)
    return run


@pytest.mark.parametrize("device", BOTH)
@pytest.mark.usefixtures("deterministic")
def test_fp16_goes_on_from_a_checkpoint_bit_for_bit(device: str, tmp_path: Path) -> None:
    """The scale begins so high that steps are skipped until it has come down, and grows again: it is never the first."""
    where = device_of(device)
    whole, parts = of_scale(make_run(1, where, "fp16", 24), 2.0**24), of_scale(make_run(1, where, "fp16", 24), 2.0**24)
    scales, losses = [], []
    for number in range(24):
        losses.append(step(whole))
        if number in (3, 15):  # amid the skipped steps, and after them
            file = checkpoint.save(tmp_path, contents(parts))
            parts = make_run(1, where, "fp16", 24)  # with torch's own scale
            parts.state.load_state_dict(checkpoint.load(file))
        assert step(parts) == losses[-1]
        assert parts.state.scaler.state_dict() == whole.state.scaler.state_dict()
        scales.append(whole.state.scaler.get_scale())
    assert scales[0] == 2.0**23 and len(set(scales)) > 4, "no step was skipped"
    assert any(after > before for before, after in itertools.pairwise(scales)), "the scale has never grown"
    assert len(set(losses)) > 4, "nothing was learnt"
    for (name, value), other in zip(
        whole.state.model.state_dict().items(), parts.state.model.parameters(), strict=True
    ):
        assert torch.equal(value, other), name


@pytest.mark.parametrize("device", GPU_AND_LONG_CPU)
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_compiled_steps_are_the_eager_ones(device: str, options: dict[str, Any]) -> None:
    where = device_of(device)
    try:
        check_compiler(where)
    except ConfigError as error:
        pytest.skip(str(error))
    eager, compiled = make_run(1, where, **options), make_run(1, where, **options)
    compiled.train_model = torch.compile(compiled.train_model)
    for _ in range(3):
        assert step(compiled) == pytest.approx(step(eager), rel=1e-2)
    for a, b in zip(eager.state.model.parameters(), compiled.state.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("device", BOTH)
def test_one_rank_and_its_collectives(device: str) -> None:
    """By NCCL on a GPU: a run of one process takes no group, so this is the one test of it on one GPU."""
    where = device_of(device)
    if device == "cuda":
        torch.cuda.set_device(where)
    alone, run = make_run(1, where), make_run(1, where)
    dist.init_process_group(BACKENDS[device], store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert on_any_rank(True, False) == [True, False]
        assert sum_over_ranks(torch.arange(4.0, device=where)).tolist() == [0, 1, 2, 3]
        gathered = gather_on_main(torch.arange(3))
        assert gathered is not None and [part.tolist() for part in gathered] == [[0, 1, 2]]
        norm = torch.nn.BatchNorm2d(2, device=where)
        broadcast_buffers(norm)
        assert norm.running_var is not None and norm.running_var.tolist() == [1, 1]
        run.train_model = DistributedDataParallel(run.train_model, device_ids=[0] if device == "cuda" else None)
        for _ in range(3):
            assert step(run) == pytest.approx(step(alone), rel=1e-3)
        for a, b in zip(alone.state.model.parameters(), run.state.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    finally:
        dist.destroy_process_group()
