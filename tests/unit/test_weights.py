"""Weights as other programs write them: loaded under the model's names, safely, or refused with a sentence."""

import argparse
import functools
import io
import json
import pathlib
import pickle
import random
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from sources.errors import ConfigError, UserError
from tests.support.models import build_model
from training.config.schema import Config
from training.config.train_options import ModelConfig
from training.engine.build import build_bundle
from training.loader.open_data import Data
from training.model.bundle import Preprocessing, preprocessing_note
from training.model.torchvision_models import (
    evaluated,
    open_weights,
    transforms_input,
    weights_notes,
)
from training.model.weights import read_weights, under_own_names
from training.model.weights_file import read_safetensors
from training.processes.world import World
from training.report.console import Console

CLASSES = 3


@pytest.fixture(scope="module")
def source() -> torch.nn.Module:
    torch.manual_seed(5)
    model = torchvision.models.resnet18(num_classes=CLASSES)
    for buffer in model.buffers():
        buffer.add_(1)
    return model


class Holder:
    """Whatever a program keeps beside its weights."""

    def __init__(self) -> None:
        self.path = pathlib.Path("/x")
        self.items = [1]


class Shell:
    """What an attacker keeps beside the weights."""

    def __reduce__(self) -> Any:
        return pathlib.Path.touch, (pathlib.Path(MARK),)


MARK = ""


def with_prefix(state: dict[str, Any], *prefixes: str) -> dict[str, Any]:
    return OrderedDict(("".join(prefixes) + name, value) for name, value in state.items())


def as_safetensors(state: dict[str, torch.Tensor]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, value in state.items():
        content = value.contiguous().numpy().tobytes()
        dtype = {torch.float32: "F32", torch.int64: "I64", torch.float16: "F16"}[value.dtype]
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def contents(model: torch.nn.Module) -> dict[str, Any]:
    """What programs store, by the program's name."""
    plain = model.state_dict()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9).state_dict()
    args = argparse.Namespace(model="resnet18", output_dir=pathlib.Path("."), betas=(0.9, 0.99))
    average = torch.optim.swa_utils.AveragedModel(model)
    reference = {"model": plain, "optimizer": optimizer, "epoch": 3, "args": args}
    timm = {"epoch": 3, "arch": "resnet18", "state_dict": plain, "optimizer": optimizer, "args": args, "metric": 51.0}
    lightning = {"epoch": 3, "state_dict": with_prefix(plain, "model."), "lr_schedulers": []}
    anything = {"a": Holder(), "b": defaultdict(list, x=[1]), "c": functools.partial(print, 1), "d": {1, 2}, "e": b"ab"}
    old = OrderedDict((name, value) for name, value in plain.items() if not name.endswith("num_batches_tracked"))
    return {
        "plain": plain,
        "data parallel": with_prefix(plain, "module."),
        "compiled": with_prefix(plain, "_orig_mod."),
        "compiled in data parallel": with_prefix(plain, "module.", "_orig_mod."),
        "data parallel in compiled": with_prefix(plain, "_orig_mod.", "module."),
        "deep": with_prefix(plain, "module.module._orig_mod.module."),
        "FSDP": with_prefix(plain, "_fsdp_wrapped_module.model."),
        "a compiled layer": {name.replace("layer1.", "layer1._orig_mod."): value for name, value in plain.items()},
        "torchvision's reference": reference,
        "torchvision's reference with an average": reference
        | {"model": {k: v * 0 for k, v in plain.items()}, "model_ema": average.state_dict()},
        "timm": timm,
        "timm with an average": timm | {"state_dict": {k: v * 0 for k, v in plain.items()}, "state_dict_ema": plain},
        "pytorch/examples": {"state_dict": with_prefix(plain, "module."), "best_acc1": torch.tensor(51.0)},
        "Lightning": lightning | {"hyper_parameters": {"lr": 0.1}},
        "Lightning with anything": lightning | {"hyper_parameters": anything, "callbacks": {Holder: Holder()}},
        "Lightning with a loss": {
            "state_dict": with_prefix(plain, "net.") | {"loss.weight": torch.ones(3)},
            "hyper_parameters": {"x": Holder()},
        },
        "an average": average.state_dict(),
        "before 0.4.1": old,
        "before 0.4.1, data parallel": with_prefix(old, "module."),
        "PyTorch's tutorial": {"epoch": 1, "model_state_dict": plain, "optimizer_state_dict": optimizer, "loss": 0.1},
        "under another name": {"backbone": plain, "step": 3},
        "a shared dictionary of parameters": OrderedDict((k, torch.nn.Parameter(v, False)) for k, v in plain.items()),
        "in half precision": {k: v.half() if v.is_floating_point() else v for k, v in plain.items()},
    }


NAMES = list(contents(torchvision.models.resnet18(num_classes=CLASSES)))


def expect_equal(model: torch.nn.Module, source: torch.nn.Module, name: str) -> None:
    state = model.state_dict()
    for key, value in source.state_dict().items():
        if "0.4.1" in name and key.endswith("num_batches_tracked"):
            continue
        expected = value.half().float() if "half" in name and value.is_floating_point() else value
        assert torch.equal(state[key], expected), key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_weights_of_other_programs_load(
    name: str, form: str, source: torch.nn.Module, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(contents(source)[name], path, _use_new_zipfile_serialization=form == "zip")
    model = build_model(ModelConfig("resnet18", str(path)), CLASSES, 64, 64)
    expect_equal(model, source, name)
    assert [str(warning.message) for warning in recwarn if "pickle" in str(warning.message)] == []


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_safetensors_load(suffix: str, source: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(as_safetensors(with_prefix(source.state_dict(), "module.")))
    expect_equal(build_model(ModelConfig("resnet18", str(path)), CLASSES, 64, 64), source, "")


def test_what_was_chosen_is_said(source: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"

    def notes(name: str) -> str:
        torch.save(contents(source)[name], path)
        given = open_weights(ModelConfig("resnet18", str(path)))
        assert given is not None
        return " ".join(weights_notes("resnet18", given, source, CLASSES))

    assert "taken is state_dict_ema, the average of the weights" in notes("timm with an average")
    assert "taken is model_ema, the average" in notes("torchvision's reference with an average")
    assert "1 tensors beside the model were left: loss.weight" in notes("Lightning with a loss")
    assert notes("plain") == notes("Lightning") == notes("timm") == notes("an average") == ""


def test_no_code_of_a_file_is_run(source: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setattr(f"{__name__}.MARK", str(mark))
    path = tmp_path / "w.pth"
    for form in (True, False):
        torch.save({"state_dict": source.state_dict(), "args": Shell()}, path, _use_new_zipfile_serialization=form)
        expect_equal(build_model(ModelConfig("resnet18", str(path)), CLASSES, 64, 64), source, "")
        torch.save(Shell(), path, _use_new_zipfile_serialization=form)
        with pytest.raises(ConfigError, match="holds a whole object of"):
            build_model(ModelConfig("resnet18", str(path)), CLASSES, 64, 64)
    path.write_bytes(pickle.dumps(Shell()))
    with pytest.raises(ConfigError, match="is cut off, damaged, or no file of weights"):
        read_weights(path)
    for name in ("os.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "torch.load", "builtins.getattr"):
        module, _, function = name.rpartition(".")
        code = f"\x80\x02c{module}\n{function}\n(S'touch {mark}'\ntR.".encode("latin-1")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", code)
            archive.writestr("archive/version", "3\n")
        path.write_bytes(buffer.getvalue())
        with pytest.raises(ConfigError, match=f"holds a whole object of .*{function}"):
            read_weights(path)
    assert not mark.exists()


def cases_of_files(model: torch.nn.Module) -> dict[str, tuple[Any, str]]:
    """(content to write or to save, words of the sentence)."""
    whole = io.BytesIO()
    torch.save(model.state_dict(), whole)
    legacy = io.BytesIO()
    torch.save(model.state_dict(), legacy, _use_new_zipfile_serialization=False)
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("weights.pth", whole.getvalue()[:100])
    tensors = as_safetensors(model.state_dict())
    return {
        "empty": (b"", "is an empty file"),
        "text": (b"these are no weights at all", "is a text file"),
        "HTML": (b"<!DOCTYPE html>\n<html><body>403</body></html>", "is a page of a web site"),
        "HTML after spaces": (b"\n\n  <HTML><head>", "is a page of a web site"),
        "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "run git lfs pull"),
        "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is a file of HDF5"),
        "gzip": (b"\x1f\x8b\x08" + bytes(50), "is compressed: unpack it first"),
        "zip of something else": (archive.getvalue(), "is a zip archive, but none that torch.save wrote"),
        "TorchScript": (script.getvalue(), "is a program of TorchScript"),
        "cut off": (whole.getvalue()[:-1000], "is cut off, damaged, or no file of weights"),
        "cut off early": (whole.getvalue()[:2000], "is cut off, damaged, or no file of weights"),
        "cut off, legacy": (legacy.getvalue()[:-1000], "is cut off, damaged, or no file of weights"),
        "noise": (random.Random(0).randbytes(4000), "is cut off, damaged, or no file of weights"),
        "zeros": (bytes(4000), "is cut off, damaged, or no file of weights"),
        "safetensors, cut off": (tensors[:-7], "data_offsets"),
        "safetensors, cut off in its header": (tensors[:200], "a header of"),
        "whole module": (model, "holds a whole object of torchvision.models.resnet.ResNet, not its state dict"),
        "whole module in a dict": ({"model": model, "epoch": 3}, "holds a whole object of torchvision.models.resnet"),
        "a list": ([1, 2], "holds a list and no state dict"),
        "a tensor": (torch.ones(3), "holds a Tensor and no state dict"),
        "no tensors": ({"epoch": 3, "lr": 0.1}, "holds no state dict, a dict of tensors; it holds epoch, lr"),
        "nothing": ({}, "it holds nothing"),
    }


FILES = list(cases_of_files(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_of_weights_is_told(name: str, source: torch.nn.Module, tmp_path: Path) -> None:
    content, words = cases_of_files(source)[name]
    path = tmp_path / "w.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ConfigError) as raised:
        build_model(ModelConfig("resnet18", str(path)), CLASSES, 64, 64)
    expect_sentence(str(raised.value), path)
    assert words in str(raised.value)


def expect_sentence(message: str, path: Path) -> None:
    assert str(path) in message and len(message) < 1500
    assert message.isprintable() and "weights_only" not in message and "Traceback" not in message


def test_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder: give the file of weights in it"):
        open_weights(ModelConfig("resnet18", str(tmp_path)))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "F99"},
        {"dtype": 3},
        {"shape": [-1]},
        {"shape": "x"},
        {"shape": [1 << 62, 4]},
        {"shape": [True]},
        {"data_offsets": [0]},
        {"data_offsets": [8, 0]},
        {"data_offsets": [0, 1 << 60]},
        {"data_offsets": [-4, 4]},
        {"data_offsets": None},
    ],
    ids=str,
)
def test_a_bad_header_of_safetensors_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change}
    text = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ValueError):
        read_safetensors(path)
    with pytest.raises(ConfigError, match="is cut off, damaged, or no file"):
        read_weights(path)


def test_a_flipped_bit_of_a_tensor_is_found(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(5000.0)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is cut off, damaged.*record 'data/0' is not what was written"):
        read_weights(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "with args"])
@pytest.mark.parametrize("number", [3, pytest.param(400, marks=pytest.mark.long)])
def test_a_mutated_file_loads_or_is_a_sentence(form: str, number: int, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    buffer = io.BytesIO()
    content: Any = {"state_dict": model.state_dict(), "args": argparse.Namespace(a=1)} if form == "with args" else None
    torch.save(content or model.state_dict(), buffer, _use_new_zipfile_serialization=form != "legacy")
    good = as_safetensors(model.state_dict()) if form == "safetensors" else buffer.getvalue()
    path = tmp_path / "w.pth"
    for _ in range(number):
        bad = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 8))):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        path.write_bytes(bytes(bad[: rng.choice((len(bad), rng.randrange(len(bad))))]))
        try:
            weights = read_weights(path)
        except ConfigError as error:
            expect_sentence(str(error), path)
        else:
            assert all(isinstance(value, torch.Tensor) for value in weights.tensors.values())


def test_what_does_not_fit_is_listed_by_kind(tmp_path: Path, source: torch.nn.Module) -> None:
    path = tmp_path / "w.pth"
    state = source.state_dict()
    state["conv1.weight"] = torch.ones(64, 3, 3, 3)
    state["head.weight"] = torch.ones(1)
    del state["layer1.0.conv1.weight"]
    torch.save(state, path)
    with pytest.raises(UserError) as raised:
        build_model(ModelConfig("resnet18", str(path)), CLASSES, 64, 64)
    assert "conv1.weight has shape [64, 3, 3, 3], not [64, 3, 7, 7]" in str(raised.value)
    assert "layer1.0.conv1.weight is missing" in str(raised.value) and "head.weight is unknown" in str(raised.value)
    torch.save(torchvision.models.resnet50(num_classes=CLASSES).state_dict(), path)
    with pytest.raises(UserError, match=r"and \d+ more like this") as raised:
        build_model(ModelConfig("resnet18", str(path)), CLASSES, 64, 64)
    assert len(str(raised.value)) < 1500


def test_densenets_published_names_load(tmp_path: Path) -> None:
    model = torchvision.models.densenet121(num_classes=1000)
    old = OrderedDict()
    for name, value in model.state_dict().items():
        if "num_batches_tracked" not in name:
            parts = name.split(".")
            parts = [f"{p[:-1]}.{p[-1]}" if p[:-1] in ("norm", "conv") and "denselayer" in name else p for p in parts]
            old[".".join(parts)] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    path = tmp_path / "densenet121-a639ec97.pth"
    torch.save(old, path, _use_new_zipfile_serialization=False)
    loaded = build_model(ModelConfig("densenet121", str(path)), 1000, None, 64)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())


@pytest.fixture(scope="module")
def published_googlenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(TORCH_HOME, the file in it) with made-up weights under the name of torchvision's own."""
    torch.manual_seed(3)
    home = tmp_path_factory.mktemp("torch")
    path = home / "hub" / "checkpoints" / "googlenet-1378be20.pth"
    path.parent.mkdir(parents=True)
    torch.save(torchvision.models.googlenet(init_weights=False, transform_input=True).state_dict(), path)
    return home, path


@pytest.mark.parametrize("train_size", [None, 96])
def test_googlenet_has_equal_logits_by_name_and_by_path(
    train_size: int | None, published_googlenet: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, path = published_googlenet
    monkeypatch.setenv("TORCH_HOME", str(home))
    other = tmp_path / "renamed.pth"
    other.write_bytes(path.read_bytes())
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        expected = build_model(ModelConfig("googlenet", "IMAGENET1K_V1"), 1000, train_size, 96).eval()(images)
        for file in (path, other):
            assert torch.equal(
                build_model(ModelConfig("googlenet", str(file)), 1000, train_size, 96).eval()(images), expected
            )


@pytest.mark.long
def test_inception_has_equal_logits_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "inception_v3_google-0cc3c7bd.pth"
    path.parent.mkdir(parents=True)
    torch.save(torchvision.models.inception_v3(init_weights=False).state_dict(), path)
    images = torch.randn(2, 3, 299, 299)
    models = [
        build_model(ModelConfig("inception_v3", weights), 1000, None, 299) for weights in ("IMAGENET1K_V1", str(path))
    ]
    with torch.inference_mode():
        assert torch.equal(models[0].eval()(images), models[1].eval()(images))
    assert models[0].state_dict().keys() == models[1].state_dict().keys()


def test_how_inputs_are_read_is_recorded_or_decided_and_said(
    published_googlenet: tuple[Path, Path], tmp_path: Path
) -> None:
    _, path = published_googlenet
    state = torch.load(path)
    file = tmp_path / "w.pth"

    def decided(content: Any, num_classes: int = 1000) -> tuple[bool, str]:
        torch.save(content, file)
        given = read_weights(file)
        model = torchvision.models.googlenet(init_weights=False)
        return transforms_input("googlenet", given, num_classes), weights_notes("googlenet", given, model, num_classes)[
            -1
        ]

    ours = {key: {} for key in ("optimizer", "schedule", "epoch", "batches_done", "best_acc1", "environment")}
    ours |= {"model": state, "config": {"model": {"weights": ""}}}
    assert decided(state)[0] and "transform_input=True" in decided(state)[1]
    assert not decided({"state_dict": state})[0] and "transform_input=False" in decided({"state_dict": state})[1]
    assert not decided(ours)[0] and "as in the run that made them" in decided(ours)[1]
    assert decided(ours | {"config": {"model": {"weights": "IMAGENET1K_V1"}}})[0]
    assert decided(ours | {"environment": {"model": {"transform_input": True}}})[0]
    without = {name: value for name, value in state.items() if not name.startswith("aux")}
    assert "has no auxiliary classifiers" in decided(without)[1]
    model = build_model(ModelConfig("googlenet", str(file)), 1000, 96, 96).train()
    assert len(model(torch.randn(2, 3, 96, 96))) == 3


def test_preprocessing_is_noted_for_a_known_file_too(tmp_path: Path) -> None:
    path = tmp_path / "resnet50-11ad3fa6.pth"
    path.write_bytes(b"x")
    ours = Preprocessing(224, 256, "bilinear")
    note = preprocessing_note(*evaluated(ModelConfig("resnet50", str(path)), None), ours)
    assert note is not None and "IMAGENET1K_V2 with data.val_image_size=224 data.val_resize=232" in note
    other = tmp_path / "mine.pth"
    other.write_bytes(b"x")
    assert preprocessing_note(*evaluated(ModelConfig("resnet50", str(other)), None), ours) is None


def test_names_under_a_prefix_are_found() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    value = torch.ones(2)
    inside, beside = under_own_names({"a.b.0.weight": value, "a.b.0.bias": value, "a.c": value}, model)
    assert list(inside) == ["0.weight", "0.bias"] and beside == ["a.c"]
    assert under_own_names({"x": value}, model) == ({"x": value}, [])


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What is said of weights beside data with the folders ``folders``."""

    def call(config: Config, *folders: str) -> list[str]:
        lines: list[str] = []
        console = Console(enabled=True)
        monkeypatch.setattr(console, "say", lines.append)
        empty: Any = []
        build_bundle(config, World(0, 1, 0, 1), Data(empty, empty, len(folders), {}, folders), console)
        return lines

    return call


def test_a_checkpoint_of_ours_tells_its_classes_and_sizes(
    said: Callable[..., list[str]], tmp_path: Path, source: torch.nn.Module
) -> None:
    path = tmp_path / "last.pt"
    data = {"val_image_size": 64, "val_resize": 64, "interpolation": "bicubic"}
    state: dict[str, Any] = {key: {} for key in ("optimizer", "schedule", "epoch", "batches_done", "best_acc1")}
    state |= {"model": source.state_dict(), "config": {"model": {"weights": ""}, "data": data}}
    torch.save(state | {"environment": {"model": {"classes": "ant/bee/cat"}}}, path)
    config = Config(model=ModelConfig("resnet18", str(path)))
    config.data.image_size = config.data.val_image_size = 64
    lines = said(config, "ant", "cat", "dog")
    assert len(lines) == 2 and "data.val_resize=64 data.interpolation=bicubic; this run uses 64, 256" in lines[0]
    assert "folder 1 is 'cat', class 1 of the weights is 'bee'; folder 2 is 'dog'" in lines[1]
    assert len(said(config, "ant", "bee", "cat")) == 1
