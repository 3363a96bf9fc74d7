"""Optimisers, their groups, the learning rate against torch's own schedulers, and the norm of gradients."""

import dataclasses
from typing import Any

import pytest
import torch
import torchvision
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, StepLR

from sources.errors import ConfigError
from training.config.options import options_of
from training.config.train_options import OPTIMIZER_DEFAULTS, OptimConfig
from training.model.image_sizes import without_memory
from training.optim.gradients import clip_gradients
from training.optim.groups import without_decay
from training.optim.optimizers import OPTIMIZERS, build_optimizer, require_optimizer
from training.optim.schedule import build_schedule, learning_rate_factor

CHOICES = {item.name: item.choices for item in options_of(OptimConfig)}


def sgd(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def test_every_optimizer_that_is_offered_can_be_built() -> None:
    assert list(OPTIMIZER_DEFAULTS) == list(OPTIMIZERS)
    for name in (*OPTIMIZERS, "timm/lion"):
        built = build_optimizer(torch.nn.Linear(2, 2), OptimConfig(name=name))
        assert type(built).__name__.lower() == {"nadamw": "nadam"}.get(name, name.removeprefix("timm/"))
    assert build_optimizer(torch.nn.Linear(2, 2), OptimConfig(name="nadamw")).defaults["decoupled_weight_decay"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm/adamx", "has no optimiser adamx: did you mean timm/adam"),
        ("timm/lookahead_adam", "has no optimiser lookahead_adam"),
        ("timm/adahessian", "it needs second derivatives"),
        ("timm/kron", "a run that is killed and goes on would not end with the same weights"),
        ("timm/fusedadam", "it is of APEX or bitsandbytes"),
    ],
)
def test_an_optimizer_that_cannot_be_had_is_a_sentence(name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        require_optimizer(name)


@pytest.mark.parametrize("schedule", CHOICES["schedule"])
def test_every_schedule_begins_at_the_peak(schedule: str) -> None:
    assert learning_rate_factor(0, OptimConfig(schedule=schedule), 9, 7) == 1


def test_step_is_torchs_step_lr() -> None:
    options = OptimConfig(lr=0.4, step_epochs=2, step_gamma=0.1)
    reference = StepLR(sgd(0.4), step_size=2, gamma=0.1)
    for epoch in range(7):
        for step in range(5):
            factor = learning_rate_factor(5 * epoch + step, options, 7, 5)
            assert 0.4 * factor == pytest.approx(reference.get_last_lr()[0])
        reference.optimizer.step()
        reference.step()


@pytest.mark.parametrize("min_lr", [0.0, 0.1])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_falling_schedule_is_torchs_own_by_step(schedule: str, min_lr: float) -> None:
    optimizer = sgd(0.4)
    references: dict[str, LRScheduler] = {
        "cosine": CosineAnnealingLR(optimizer, T_max=20, eta_min=min_lr),
        "linear": LinearLR(sgd(0.4), start_factor=1, end_factor=min_lr / 0.4, total_iters=20),
    }
    options, reference = OptimConfig(lr=0.4, schedule=schedule, min_lr=min_lr), references[schedule]
    for step in range(21):
        factor = learning_rate_factor(step, options, 4, 5)
        assert 0.4 * factor == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        reference.optimizer.step()
        reference.step()
    assert 0.4 * learning_rate_factor(99, options, 4, 5) == pytest.approx(min_lr, abs=1e-12)


@pytest.mark.parametrize("schedule", CHOICES["schedule"])
@pytest.mark.parametrize("start", [0.0, 0.2])
def test_warmup_rises_linearly_to_the_peak(schedule: str, start: float) -> None:
    options = OptimConfig(lr=0.8, schedule=schedule, warmup_epochs=2, warmup_start=start)
    rates = [0.8 * learning_rate_factor(step, options, 90, 10) for step in range(21)]
    assert rates == pytest.approx([start + (0.8 - start) * (step + 1) / 21 for step in range(21)])


def test_a_learning_rate_of_zero_is_one() -> None:
    options = OptimConfig(lr=0.0, schedule="cosine", warmup_epochs=1)
    options.check()
    assert all(0 <= learning_rate_factor(step, options, 3, 4) <= 1 for step in range(13))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_b_32", {"class_token", "encoder.pos_embedding"}),
        (
            "swin_t",
            {
                f"features.{stage}.{block}.attn.relative_position_bias_table"
                for stage, blocks in ((1, 2), (3, 2), (5, 6), (7, 2))
                for block in range(blocks)
            },
        ),
        ("timm/vit_tiny_patch16_224", {"cls_token", "pos_embed"}),
        ("resnet18", set()),
    ],
)
def test_embeddings_go_without_decay_as_norms_do(name: str, expected: set[str]) -> None:
    import timm

    plain = name.removeprefix("timm/")
    make = timm.create_model if plain != name else torchvision.models.get_model
    model = without_memory(lambda: make(plain))
    shapes = {key: parameter.ndim for key, parameter in model.named_parameters()}
    found = without_decay(model)
    assert {key for key in found if shapes[key] > 1} == expected
    assert {key for key, dimensions in shapes.items() if dimensions == 1} <= found
    kernels, vectors = build_optimizer(model, OptimConfig(decay_norms_and_biases=False)).param_groups
    assert (kernels["weight_decay"], vectors["weight_decay"]) == (1e-4, 0.0)
    assert len(vectors["params"]) == len(found) and len(kernels["params"]) == len(shapes) - len(found)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "resnet18"])
def test_layer_decay_is_timms_own(name: str) -> None:
    import timm
    from timm.optim import create_optimizer_v2

    model = without_memory(lambda: timm.create_model(name))
    options = OptimConfig(name="adamw", lr=0.2, layer_decay=0.5, weight_decay=0.3, decay_norms_and_biases=False)
    ours = build_optimizer(model, options)
    theirs = create_optimizer_v2(model, "adamw", lr=0.2, layer_decay=0.5, weight_decay=0.3)
    for group, reference in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in reference["params"]]
        assert group["weight_decay"] == reference["weight_decay"]
        assert group["lr"] == 0.2 * reference["lr_scale"]  # as timm's schedulers set it


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet18", 8),
        ("vit_b_32", 12),
        ("convnext_tiny", 18 + 3),
        ("swin_t", 12 + 3),
        ("efficientnet_b0", 16 + 1),
        ("mobilenet_v2", 18),
        ("mobilenet_v3_small", 12),
    ],
)
def test_layer_decay_grades_the_blocks_of_torchvisions_models(name: str, blocks: int) -> None:
    model = without_memory(lambda: torchvision.models.get_model(name))
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    groups = build_optimizer(model, OptimConfig(lr=1.0, layer_decay=0.5)).param_groups
    rates = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
    assert sorted(set(rates.values()), reverse=True) == [0.5**depth for depth in range(blocks + 2)]  # head and stem
    first, last = next(iter(names.values())), list(names.values())[-1]
    assert (rates[last], rates["features.0.0.weight" if "features.0.0.weight" in rates else first]) == (
        1.0,
        0.5 ** (blocks + 1),
    )
    assert len(rates) == len(names)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "squeezenet1_1"])
def test_layer_decay_of_a_model_without_blocks_is_a_sentence(name: str) -> None:
    model = without_memory(lambda: torchvision.models.get_model(name))
    with pytest.raises(ConfigError, match=r"optim.layer_decay: this model has no blocks"):
        build_optimizer(model, OptimConfig(layer_decay=0.5))


def test_the_rate_of_a_recipe_is_for_its_batch() -> None:
    options = OptimConfig(lr=0.5, reference_batch=1024, warmup_epochs=1, warmup_start=0.01, schedule="cosine")
    optimizer = build_optimizer(torch.nn.Linear(2, 2), options, 256)
    schedule = build_schedule(optimizer, options, 2, 3)
    whole = OptimConfig(lr=0.5, warmup_epochs=1, warmup_start=0.01, schedule="cosine")
    for step in range(6):
        assert optimizer.param_groups[0]["lr"] == 0.125 * learning_rate_factor(step, whole, 2, 3)
        optimizer.step()
        schedule.step()
    assert build_optimizer(torch.nn.Linear(2, 2), OptimConfig(lr=0.5), 256).param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_can_go_without_decay(name: str) -> None:
    model = torchvision.models.resnet18(num_classes=3)
    for decay, expected in ((True, {1e-4}), (False, {0.0})):
        optimizer = build_optimizer(model, OptimConfig(name=name, decay_norms_and_biases=decay))
        kernels, vectors = sorted(optimizer.param_groups, key=lambda group: -group["params"][0].ndim)
        assert kernels["weight_decay"] == 1e-4 and {vectors["weight_decay"]} == expected
        assert all(p.ndim > 1 for p in kernels["params"]) and all(p.ndim == 1 for p in vectors["params"])
        assert len(kernels["params"]) + len(vectors["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"name": "sgd", "lr": 0.3, "momentum": 0.8, "nesterov": True}, {"lr": 0.3, "momentum": 0.8, "nesterov": True}),
        ({"name": "sgd"}, {"momentum": 0.9, "nesterov": False}),
        ({"name": "adamw"}, {"betas": (0.9, 0.999), "eps": 1e-8}),
        ({"name": "nadamw", "betas": [0.8, 0.9]}, {"betas": (0.8, 0.9), "eps": 1e-8}),
        ({"name": "lamb"}, {"betas": (0.9, 0.999), "eps": 1e-6}),
        ({"name": "muon", "nesterov": True}, {"momentum": 0.95, "betas": (0.9, 0.95), "nesterov": True}),
        (
            {"name": "rmsprop", "eps": 0.0316, "alpha": 0.9},
            {"eps": 0.0316, "alpha": 0.9, "momentum": 0.9, "weight_decay": 1e-4},
        ),
        ({"name": "timm/lion", "betas": [0.5, 0.6], "lr": 0.3}, {"betas": (0.5, 0.6), "lr": 0.3}),
        (
            {"name": "adamw", "lr": 0.3, "betas": [0.5, 0.75], "eps": 1e-3},
            {"lr": 0.3, "betas": (0.5, 0.75), "eps": 1e-3},
        ),
    ],
)
def test_the_optimizer_has_its_options(options: dict[str, Any], settings: dict[str, Any]) -> None:
    for group in build_optimizer(torch.nn.Linear(2, 2), OptimConfig(**options)).param_groups:
        now = {name: group[name] for name in settings}
        assert {name: tuple(value) if isinstance(value, list) else value for name, value in now.items()} == settings


def test_adamw_is_torchs_own() -> None:
    ours, theirs = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    theirs.load_state_dict(ours.state_dict())
    options = OptimConfig(name="adamw", lr=0.1, betas=[0.8, 0.9], weight_decay=0.3)
    optimizers = (
        build_optimizer(ours, options),
        torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.8, 0.9), weight_decay=0.3),
    )
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


def test_the_schedule_sets_the_optimizers_rate() -> None:
    options = OptimConfig(lr=0.5, step_epochs=1, nesterov=True)
    optimizer = build_optimizer(torch.nn.Linear(2, 2), options)
    schedule = build_schedule(optimizer, dataclasses.replace(options), 90, 2)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05])
    assert optimizer.param_groups[1]["nesterov"] is True


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.0, [3.0, 4.0]), (1.0, [0.6, 0.8]), (9.0, [3.0, 4.0])])
def test_gradients_are_scaled_down_together(clip_norm: float, expected: list[float]) -> None:
    model = torch.nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    for parameter, gradient in zip(model.parameters(), (3.0, 4.0), strict=True):
        parameter.grad = torch.tensor([gradient])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norm = clip_gradients(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), clip_norm)
    assert norm.item() == pytest.approx(5.0)  # before clipping
    assert [p.grad.item() for p in model.parameters() if p.grad is not None] == pytest.approx(expected, abs=1e-5)


def test_scaled_gradients_are_unscaled_before_they_are_clipped() -> None:
    """As fp16 has them; the step that follows does not unscale them again."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    model, optimizer = torch.nn.ParameterList([parameter]), torch.optim.SGD([parameter], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(4 * parameter.sum()).backward()  # type: ignore[no-untyped-call]
    clip_gradients(model, optimizer, scaler, 2.0)
    scaler.step(optimizer)
    assert parameter.item() == pytest.approx(-2.0, abs=1e-5)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_reach_no_weight(clip_norm: float, bad: float) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    model(torch.ones(2, 3, 3, 3)).sum().backward()
    model[2].bias.grad[0] = bad
    assert not clip_gradients(model, optimizer, scaler, clip_norm).isfinite()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    optimizer.zero_grad()
    model(torch.ones(2, 3, 3, 3)).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    assert clip_gradients(model, optimizer, scaler, 0.0).isfinite()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True) if p.grad is not None)
