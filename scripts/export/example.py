"""The Python on a card: how an exported file is loaded and classifies a photo."""

from dataclasses import dataclass

from scripts.export.format import Format
from scripts.export.graphs import INPUT
from scripts.export.tensors import torchvision_arguments
from training.model.trained import RECORD, Trained


@dataclass(frozen=True)
class _Part:
    """What differs between the formats. NAME stands for the file, BUILD for torchvision's call that makes the model."""

    imports: tuple[str, ...]
    load: tuple[str, ...]
    names: str
    """An expression for the names of the classes."""
    logits: str = "model.eval()(images)"


_PARTS = {
    ".pth": _Part(
        ("import json", "from pathlib import Path", "", "import torch", "import torchvision"),
        (
            "model = BUILD",
            "model.load_state_dict(torch.load(NAME, weights_only=True))",
            'record = json.loads(Path(NAME + ".json").read_text(encoding="utf-8"))',
        ),
        'record["classes"]',
    ),
    ".safetensors": _Part(
        (
            *("from pathlib import Path", "", "import torch"),
            "from training.model.trained import open_trained  # in a checkout of imagenet-ais",
        ),
        ("trained = open_trained(Path(NAME))", "model = trained.bundle.module"),
        "trained.classes",
    ),
    ".pt": _Part(
        ("import json", "", "import torch"),
        (
            f'extra = {{"{RECORD}.json": ""}}',
            "model = torch.jit.load(NAME, _extra_files=extra)",
            f'record = json.loads(extra["{RECORD}.json"])',
        ),
        'record["classes"]',
    ),
    ".onnx": _Part(
        ("import json", "", "import onnxruntime", "import torch"),
        (
            'session = onnxruntime.InferenceSession(NAME, providers=["CPUExecutionProvider"])',
            f'record = json.loads(session.get_modelmeta().custom_metadata_map["{RECORD}"])',
        ),
        'record["classes"]',
        f'torch.from_numpy(session.run(None, {{"{INPUT}": images.numpy()}})[0])',
    ),
    "-timm": _Part(
        ("import timm", "import torch"),
        ('model = timm.create_model("local-dir:" + NAME, pretrained=True)',),
        'model.pretrained_cfg.get("label_names")',
    ),
}
"""The examples by the suffix of their format."""


def code(trained: Trained, name: str, form: Format, uint8: bool) -> str:
    """Python that classifies ``photo.jpg`` with the exported file ``name``, both in the working directory."""
    part = _PARTS[form.suffix]
    lines = [
        *part.imports,
        "from PIL import Image",
        "from torchvision import transforms",
        "",
        *part.load,
        "",
        *_prepare(trained, uint8),
        "with torch.inference_mode():",
        f"    logits = {part.logits}",
        "share, number = logits.softmax(1)[0].max(0)",
        f"names = {part.names}",
        'print(names[number] if names and number < len(names) else f"output {number}", f"{share:.1%}")',
    ]
    build = _torchvisions_call(trained) if form.suffix == ".pth" else ""
    return "".join(f"{line.replace('BUILD', build).replace('NAME', repr(name))}\n" for line in lines)


def _torchvisions_call(trained: Trained) -> str:
    arguments = ", ".join(f"{key}={value!r}" for key, value in torchvision_arguments(trained).items())
    return f"torchvision.models.{trained.name}({arguments})"


def _prepare(trained: Trained, uint8: bool) -> list[str]:
    images, mean, std = trained.images, trained.bundle.mean, trained.bundle.std
    floats = ["transforms.ToTensor()", f"transforms.Normalize({mean}, {std})"]
    steps = [
        f"transforms.Resize({images.resize}, transforms.InterpolationMode.{images.interpolation.upper()})",
        f"transforms.CenterCrop({images.image_size})",
        *(["transforms.PILToTensor()"] if uint8 else floats),
    ]
    turned = ".permute(0, 2, 3, 1).contiguous()" if uint8 else ""
    return [
        "prepare = transforms.Compose([",
        *(f"    {step}," for step in steps),
        "])",
        f'images = prepare(Image.open("photo.jpg").convert("RGB"))[None]{turned}',
    ]
