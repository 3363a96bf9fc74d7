"""Classify photos: the top five of each, with names and shares, and a contact sheet.

    python -m scripts.predict runs/first photos/ dog.jpg --sheet sheet.png
    python -m scripts.predict --model resnet50 --weights resnet50-11ad3fa6.pth photos/

RUN is a run directory, a checkpoint, or safetensors or ONNX that scripts.export wrote; with --model and --weights it is
left out, and the weights may be of any program that model.weights of train.py takes. Photos are files, and folders with
all below them. Samples are made as in a validation, so the answers are those that it counted. A file that is no image
gets a sentence, the others go on, and the exit code is 1.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from scripts.contact_sheet import Cell, require_sheet, write_sheet
from scripts.export.check import photos_below, read_photo
from scripts.export.format import Logits, of_module
from scripts.export.graphs import open_onnx
from sources.command_line import answer, command, positive, print_line
from sources.errors import ConfigError, UserError
from sources.text import visible
from training.config.train_options import TIMM, ModelConfig
from training.model.bundle import Inputs, Preprocessing, builder
from training.model.class_order import imagenet_classes
from training.model.trained import CHOICES, Trained, open_trained

_BATCH = 16
_IN_A_SHEET = 400
"""Photos at most."""


@dataclass(frozen=True)
class Answer:
    """One of the classes that a photo may have."""

    index: int
    name: str
    """The name of the class's folder; empty if it is not known."""
    word: str
    """The name of the class for a person."""
    share: float
    """0 to 1, by softmax."""

    @property
    def text(self) -> str:
        """The class in words, with its folder's name where that says something else."""
        return f"{self.word} ({self.name})" if self.name and self.name != self.word else self.word


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = command("scripts.predict", __doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, a checkpoint, or an export")
    parser.add_argument("photos", metavar="PHOTO", type=Path, nargs="*", help="a file, or a folder")
    parser.add_argument("--top", type=positive, default=5, help="classes for each photo (default: 5)")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet, a PNG or JPEG")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each photo")
    parser.add_argument("--replace", action="store_true", help="replace a sheet that is there")
    parser.add_argument(
        "--model", default="", metavar="NAME", help="instead of RUN: a model of torchvision, or timm/NAME"
    )
    parser.add_argument(
        "--weights",
        default="",
        help="of --model: a file, or the name of published weights; of RUN: best (default), last, ema or raw",
    )
    parser.add_argument("--classes", type=positive, default=1000, help="of --model: its outputs (default: 1000)")
    options = parser.parse_intermixed_args(arguments)
    try:
        return answer(lambda: _run(options), "stopped.", UserError.exit_code)
    except BrokenPipeError:  # as in ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UserError.exit_code


def _run(options: argparse.Namespace) -> int:
    given = [options.run, *options.photos] if options.model else options.photos
    photos, failed = _files(given)
    if options.sheet:
        require_sheet(options.sheet, options.replace)
    trained, logits = _open(options)
    print_line(f"{trained.path}: {trained.what}")
    if not trained.classes and trained.num_classes == len(imagenet_classes()):
        print_line("the file names no classes: its 1,000 outputs are taken for ImageNet's, in the order of WordNet ids")
    cells: list[Cell] = []
    for path, sample, answers in predict(trained, logits, photos, options.top):
        if sample is None:
            failed += 1
            continue
        if options.json:
            top = [{"index": a.index, "class": a.name, "name": a.word, "share": round(a.share, 6)} for a in answers]
            print(json.dumps({"photo": str(path), "top": top}))
        else:
            print(visible(str(path)))
            print("".join(f"  {100 * answer.share:5.1f} %  {visible(answer.text)}\n" for answer in answers), end="")
        if options.sheet and len(cells) < _IN_A_SHEET:
            cells.append(Cell(sample.numpy(), path.name, [(answer.word, answer.share) for answer in answers]))
    if options.sheet and cells:
        write_sheet(options.sheet, cells, trained.what)
        left = len(photos) - failed - len(cells)
        rest = f", the first ones; {left:,} more are not in it" if left > 0 else ""
        print_line(f"{options.sheet}: {len(cells)} photos{rest}")
    return 1 if failed else 0


def _open(options: argparse.Namespace) -> tuple[Trained, Logits]:
    if options.model:
        trained = open_others(options.model, options.weights, options.classes)
        return trained, of_module(trained, trained.bundle.module)
    if options.run.suffix == ".onnx" and options.run.is_file():
        return open_onnx(options.run)
    which = options.weights or "best"
    if which not in CHOICES:
        raise ConfigError(
            f"--weights {which}: of a run it is one of {', '.join(CHOICES)}; of a file, --model says of what."
        )
    try:
        trained = open_trained(options.run, which)
    except UserError as error:
        if not options.run.is_file():
            raise
        hint = f"Weights of another program need --model NAME --weights {options.run}."
        raise type(error)(f"{error} {hint}") from None
    return trained, of_module(trained, trained.bundle.module)


def _files(given: Sequence[Path]) -> tuple[list[Path], int]:
    """The photos of files and folders, and how many of these hold none. Raises ConfigError if there is none at all."""
    photos: list[Path] = []
    empty = 0
    for path in given:
        found = photos_below(path) if path.is_dir() else [path]
        if not found:
            print_line(f"error: {path} holds no photos.")
            empty += 1
        photos += found
    if not photos:
        raise ConfigError("no photos: name files, or folders that hold some.")
    return photos, empty


def predict(
    trained: Trained, logits: Logits, photos: Sequence[Path], top: int
) -> Iterator[tuple[Path, torch.Tensor | None, list[Answer]]]:
    """For each photo in order its sample uint8 [H, W, 3] and its ``top`` answers; None for a file that is no image.

    Of such a file it says what is wrong.
    """
    for begin in range(0, len(photos), _BATCH):
        part = photos[begin : begin + _BATCH]
        samples = [_read(path, trained) for path in part]
        good = [sample for sample in samples if sample is not None]
        shares = torch.empty(0, trained.num_classes)
        if good:
            with torch.inference_mode():
                shares = logits(torch.stack(good)).float().softmax(1)
        values, indices = shares.topk(min(top, trained.num_classes), dim=1)
        found = iter(zip(values.tolist(), indices.tolist(), strict=True))
        for path, sample in zip(part, samples, strict=True):
            if sample is None:
                yield path, None, []
                continue
            row = next(found)
            yield path, sample, [answer_of(trained, index, share) for share, index in zip(*row, strict=True)]


def _read(path: Path, trained: Trained) -> torch.Tensor | None:
    try:
        return read_photo(path, trained.spec)
    except UserError as error:
        print_line(f"error: {error}")
        return None


def answer_of(trained: Trained, index: int, share: float) -> Answer:
    """The class of an output, with torchvision's word for one of ImageNet's."""
    imagenets = imagenet_classes()
    if index < len(trained.classes):
        name = trained.classes[index]
        return Answer(index, name, dict(imagenets).get(name[:9], name), share)
    if not trained.classes and trained.num_classes == len(imagenets):
        return Answer(index, *imagenets[index], share)
    return Answer(index, "", f"output {index}", share)


def open_others(name: str, weights: str, num_classes: int) -> Trained:
    """A model with weights of another program, or published ones, and images made as these were evaluated.

    Raises ConfigError or UserError as a run does that begins with them.
    """
    if not weights:
        raise ConfigError(f"--model {name} needs --weights, a file or the name of published weights.")
    library = builder(name)
    library.require_model(name)
    images = _published_images(name, weights)
    config = ModelConfig(name=name, weights=weights, num_classes=num_classes)
    bundle = library.build(config, num_classes, Inputs(train_size=None, val=images))
    for note in bundle.notes:
        print_line(note)
    bundle.module.eval().requires_grad_(False)
    facts = bundle.weights.model_facts if bundle.weights else {}
    classes = tuple(filter(None, str(facts.get("classes", "")).split("/")))
    return Trained(Path(weights), bundle, name, num_classes, bundle.evaluated or images, classes)


def _published_images(name: str, weights: str) -> Preprocessing:
    """How the library evaluates these weights, or its newest ones where it does not know them."""
    if name.startswith(TIMM):
        from timm.models import get_pretrained_cfg

        from training.model.timm_models import making

        size = get_pretrained_cfg(name.removeprefix(TIMM)).input_size[-1]
        return Preprocessing(size, *making(name, size))
    import torchvision

    from training.model.torchvision_models import published

    theirs = torchvision.models.get_model_weights(name)
    named = next((one for one in theirs if one.name == weights), None)
    found = named or (published(name, Path(weights)) if Path(weights).is_file() else None)
    preset = (found or theirs["DEFAULT"]).transforms()
    return Preprocessing(preset.crop_size[0], preset.resize_size[0], preset.interpolation.value)


if __name__ == "__main__":
    sys.exit(main())
