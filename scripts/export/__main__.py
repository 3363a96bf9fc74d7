"""Export a trained model to a file for other programs, check it on photos, and write a card beside it.

    python -m scripts.export runs/first --format onnx
    python -m scripts.export runs/first --format timm --out /models/first --licence CC-BY-4.0

RUN is a run directory, a checkpoint in one, or safetensors that this command wrote. The formats are torchvision (a
state dict for torchvision.models), safetensors, onnx, torchscript and timm (a folder for timm's local-dir:). The
exported file is run beside the model on photos before it gets its name: where their logits differ by more than
rounding, nothing is written, and the exit code is 1.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from scripts.export.card import card
from scripts.export.check import BOUND, Comparison, choose_photos, compare, read_photo
from scripts.export.format import Format
from scripts.export.graphs import ONNX, TORCHSCRIPT
from scripts.export.place import staging
from scripts.export.tensors import SAFETENSORS, TORCHVISION
from scripts.export.timm_folder import TIMM_FOLDER
from sources.command_line import answer, command, positive, print_line
from sources.errors import ConfigError, UserError
from sources.text import shell_word, visible
from training.model.trained import CHOICES, Trained, open_trained

FORMATS = {
    "torchvision": TORCHVISION,
    "safetensors": SAFETENSORS,
    "onnx": ONNX,
    "torchscript": TORCHSCRIPT,
    "timm": TIMM_FOLDER,
}
"""The formats by their word on the command line. Another one also needs its part of scripts/export/example.py."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = command("scripts.export", __doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory, a checkpoint, or exported safetensors")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--out", type=Path, help="the file, or the folder of timm; default: the run's name, here")
    parser.add_argument(
        "--weights",
        default="best",
        choices=CHOICES,
        help="best.pt (default) or last.pt, of either the weights that validated better; or of best.pt the averaged "
        "(ema) or the other ones (raw)",
    )
    parser.add_argument("--licence", default="", help="of the weights; unknown unless you say it")
    parser.add_argument("--uint8", action="store_true", help="onnx, torchscript: the file takes pixels and normalises")
    parser.add_argument("--photos", type=Path, help="folder for the check; default: the run's validation split")
    parser.add_argument("--count", type=positive, default=64, help="photos of the check (default: 64)")
    parser.add_argument(
        "--bound",
        type=float,
        default=BOUND,
        help="largest difference of logits, as a share of the largest logit (default: %(default)g)",
    )
    parser.add_argument("--check", action="store_true", help="write nothing: check the file that is at --out already")
    parser.add_argument("--replace", action="store_true", help="replace an export that is there")
    options = parser.parse_args(arguments)
    return answer(lambda: _run(options), "stopped: nothing was written.", UserError.exit_code)


def _run(options: argparse.Namespace) -> int:
    form: Format = FORMATS[options.format]
    if options.uint8 and not form.is_graph:
        raise ConfigError(f"--uint8 is for onnx and torchscript: {options.format} holds weights, and no normalisation.")
    trained = open_trained(options.run, options.weights)
    if options.licence:
        trained = dataclasses.replace(trained, licence=options.licence)
    print(f"{visible(str(trained.path))}: {visible(trained.what)}")
    target = target_of(options.out, trained, form)
    images, source = _photos(options, trained)
    if options.check:
        comparison = compare(trained, form.load(trained, target, options.uint8), images, source, options.bound)
        if not comparison.holds:
            raise UserError(f"{target} is not what the model is: {comparison}.")
    else:
        comparison = export(trained, form, target, options.uint8, images, source, options.bound, options.replace)
    print(f"{visible(str(target))}: {comparison}")
    page = target / "README.md" if form.is_folder else Path(f"{target}.md")
    print(
        f"{visible(str(page))} shows how to load it; python -m scripts.predict {shell_word(str(target))} PHOTO tries it"
    )
    return 0


def target_of(out: Path | None, trained: Trained, form: Format) -> Path:
    """Return the file to write: ``--out``, or a file in that folder, or the run's name in the working directory."""
    base = trained.provenance.run or trained.path.parent.name or trained.name
    name = f"{base.replace('/', '-')}{form.suffix}"
    if out is None:
        return Path(name)
    if form.is_folder:
        return out
    if out.is_dir():
        return out / name
    if out.suffix != form.suffix:
        raise ConfigError(f"--out {out} does not end in {form.suffix}, as {form.title} does: name it so.")
    return out


def export(
    trained: Trained,
    form: Format,
    target: Path,
    uint8: bool,
    images: torch.Tensor,
    source: str,
    bound: float = BOUND,
    replace: bool = False,
) -> Comparison:
    """Write, check and describe an export. Raises UserError, and leaves nothing, where it is not what the model is."""
    beside = [suffix for suffix in (form.beside, "" if form.is_folder else ".md") if suffix]
    with staging(target, beside, replace) as path:
        form.write(trained, path, uint8)
        comparison = compare(trained, form.load(trained, path, uint8), images, source, bound)
        if not comparison.holds:
            raise UserError(
                f"{target} was not written: its {comparison}. Is that a bug of an exporter? Try another --format."
            )
        page = path / "README.md" if form.is_folder else path.with_name(f"{path.name}.md")
        page.write_text(card(trained, target.name, form, uint8, comparison), encoding="utf-8")
    return comparison


def _photos(options: argparse.Namespace, trained: Trained) -> tuple[torch.Tensor, str]:
    """Samples uint8 [n, H, W, 3], and whose they are in words. What is no image is said and left out."""
    chosen, source = choose_photos(options.run, options.photos, options.count)
    samples = []
    for path in chosen:
        try:
            samples.append(read_photo(path, trained.spec))
        except UserError as error:
            print_line(f"left out: {error}")
    if not samples:
        raise UserError(f"none of the {len(chosen):,} photos of the check can be read: name others by --photos FOLDER.")
    return torch.stack(samples), source


if __name__ == "__main__":
    sys.exit(main())
