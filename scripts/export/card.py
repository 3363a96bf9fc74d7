"""The card: what a model is, in a page of Markdown beside the file."""

import shlex

from scripts.export.check import Comparison
from scripts.export.example import code
from scripts.export.format import Format
from scripts.export.graphs import OPSET
from sources.text import visible
from training.config.train_options import TIMM
from training.model.class_order import imagenet_classes
from training.model.provenance import changed_options
from training.model.trained import RECORD, Trained

_LISTED = 20
"""Class names that a card lists."""


def card(trained: Trained, name: str, form: Format, uint8: bool, comparison: Comparison) -> str:
    """The page for the file ``name``."""
    sections = {
        "What it is": _what(trained, form, comparison),
        "What it was trained on": _data(trained),
        "Figures": _figures(trained),
        "Images": _images(trained, form, uint8),
        "Load it": f"```python\n{code(trained, name, form, uint8)}```",
        "Train it again": _repeat(trained),
        "Licence": _licence(trained),
        "Limits": _limits(trained, comparison),
    }
    title = f"# {trained.name}, {trained.num_classes:,} classes\n"
    return title + "".join(f"\n## {heading}\n\n{text.strip()}\n" for heading, text in sections.items())


def _what(trained: Trained, form: Format, comparison: Comparison) -> str:
    library = "timm" if trained.name.startswith(TIMM) else "torchvision"
    source, averaged = trained.provenance, ""
    if source.weights == "ema":
        averaged = " They are the averaged weights (EMA) of the run."
    run = f" of the run `{visible(source.run, '')}`" if source.run else ""
    number = f" (id `{source.run_id}`)" if source.run_id else ""
    file = f" They come from `{visible(source.file, '')}`{run}{number}." if source.file else ""
    plain = trained.name.removeprefix(TIMM)
    return (
        f"A classifier of images: the architecture `{plain}` of {library}, as {form.title}. The weights are of "
        f"{source.position}.{averaged}{file}\n\n"
        f"The exported file was run beside the model that it was made of: {comparison}.\n\n"
        f"What this page says lies as JSON under the name `{RECORD}` {_where(form)}."
    )


def _where(form: Format) -> str:
    """Say where the record lies."""
    if form.is_folder:
        return "in the metadata of `model.safetensors`"
    return f"in the file of the same name with `{form.beside}` at its end" if form.beside else "in the file itself"


def _data(trained: Trained) -> str:
    source, lines = trained.provenance, []
    for split, text in source.data_sha256.items():
        lines.append(f"- {'Training' if split == 'train' else 'Validation'} data: hash `{text}`.")
    known = len(trained.classes)
    lines.append(f"- Classes: {trained.num_classes:,}. {_class_list(trained)}")
    if 0 < known < trained.num_classes:
        lines.append(f"- The last {trained.num_classes - known:,} outputs had no class in the data.")
    if not source.data_sha256:
        lines.insert(0, "- The data are not known.")
    return "\n".join(lines) + (
        "\n\nThe hash is over the labels and sizes of the files in their order. A run on the same data has the same "
        "hash in its environment.json, wherever the data are stored."
        if source.data_sha256
        else ""
    )


def _class_list(trained: Trained) -> str:
    if not trained.classes:
        return "Their names are not known."
    words = dict(imagenet_classes())
    listed = [
        f"`{visible(name, '')}`" + (f" ({words[name]})" if name in words else "") for name in trained.classes[:_LISTED]
    ]
    names = ", ".join(listed)
    if list(trained.classes) == list(words):
        return f"They are ImageNet's, in the order of their WordNet ids: {names}, …"
    return f"In the order of the outputs: {names}{', …' if len(trained.classes) > _LISTED else '.'}"


def _figures(trained: Trained) -> str:
    source = trained.provenance
    if source.acc1 is None or not source.validated_epoch:
        return "These weights were not validated, so no accuracy is known."
    rows = [("acc@1", source.acc1, "%"), ("acc@5", source.acc5, "%"), ("loss", source.loss, "")]
    table = "".join(
        f"| {name} | {value:.{4 if name == 'loss' else 2}f}{f' {unit}' if unit else ''} | {source.val_samples:,} |\n"
        for name, value, unit in rows
        if value is not None
    )
    table = f"| on the validation split | | photos |\n|---|---|---|\n{table}"
    if source.figures_are_of_these_weights:
        return table
    return (
        f"{table}\nThe figures are those after epoch {source.validated_epoch}. These weights were trained on since, "
        "and were not validated."
    )


def _images(trained: Trained, form: Format, uint8: bool) -> str:
    images, side = trained.images, trained.images.image_size
    mean, std = ([round(value, 6) for value in values] for values in (trained.bundle.mean, trained.bundle.std))
    lines = [
        "1. Read the photo as RGB, without turning it by EXIF.",
        f"2. Resize the short side to {images.resize} pixels, {images.interpolation}, with antialiasing.",
        f"3. Take the central {side} x {side} pixels.",
    ]
    if uint8:
        lines.append(
            f"4. Give the pixels as they are: uint8 [n, {side}, {side}, 3], with any n. The model in the file "
            f"normalises them by mean {mean} and std {std}."
        )
    else:
        lines.append(f"4. Divide by 255, subtract the mean {mean}, and divide by the std {std}.")
        lines.append(f"5. Give them as float32 [n, 3, {side}, {side}], with any n.")
    lines.append(f"\nThe answer is logits, float32 [n, {trained.num_classes}]. Softmax makes shares of them.")
    if form.suffix == ".onnx":
        lines.append(f"The ONNX graph is of opset {OPSET}.")
    return "\n".join(lines)


def _repeat(trained: Trained) -> str:
    source = trained.provenance
    if not source.config:
        return "It is not known how it was trained."
    words = ["python train.py data.root=DATA", *(_quoted(word) for word in changed_options(source.config))]
    versions = ", ".join(f"{name} {source.versions[name]}" for name in _VERSIONS if source.versions.get(name))
    made = f"\n\nIt was trained with {versions}." if versions else ""
    commit = f" The trainer was imagenet-ais at commit `{source.commit}`." if source.commit else ""
    command = " \\\n    ".join(words)
    return (
        f"```\n{command}\n```\n\nDATA is a folder with the data of the hash above; from a bucket, give data=aistore "
        f"and its options instead. The same weights come out on the same hardware, software, processes and threads."
        f"{made}{commit}"
    )


_VERSIONS = ("python", "torch", "torchvision", "timm", "numpy", "pillow")


def _quoted(word: str) -> str:
    return shlex.quote(visible(word, ""))


def _licence(trained: Trained) -> str:
    weights = (
        "The licence of these weights is unknown: ask whoever trained them before you use or pass on them."
        if trained.licence == "unknown"
        else f"These weights are under this licence: {visible(trained.licence, '')}."
    )
    return (
        f"{weights} The code that trained and exported them is under the Apache 2.0 licence, which says nothing about "
        "the weights, nor about the photos that they were trained on."
    )


def _limits(trained: Trained, comparison: Comparison) -> str:
    source = trained.provenance
    lines = [
        f"- It knows {trained.num_classes:,} classes, and gives each photo one of them, whatever is on it.",
        "- Shares are not probabilities of being right: nobody has measured their calibration.",
        "- It was measured on photos like those that it was trained on. On others, expect less.",
        f"- The exported file was compared with the model on {comparison.photos:,} photos, on a CPU. Other programs, "
        "devices and precisions round in other ways.",
    ]
    if source.finished is False:
        lines.append(f"- The run was not finished: {source.position}. Its last weights may be better.")
    if source.figures_are_of_these_weights and source.file == "best.pt":
        lines.append(
            "- The checkpoint was chosen because it was the best on the validation split, so its accuracy there is "
            "somewhat too high."
        )
    return "\n".join(lines)
