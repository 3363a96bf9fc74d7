"""The sections about evaluations: accuracy by class, what is confused, and the photos that are most surely wrong."""

from collections.abc import Iterator, Sequence
from typing import Any

from training.report import html
from training.report.html import text
from training.report.page.answers import MOST_CLASSES, Answers, Wrong
from training.report.page.plots import Plots
from training.report.page.subject import Subject


def sections(subjects: Sequence[Subject], plots: Plots | None) -> Iterator[str]:
    """Yield the sections of the runs that have the tables of an evaluation."""
    for number, subject in enumerate(subjects):
        answers = subject.answers
        if not answers.classes:
            continue
        yield f"<h2>Answers{f' of {text(subject.name)}' if len(subjects) > 1 else ''}</h2>"
        yield from _figures(subject.record.summary.get("evaluation"))
        yield from _classes(answers, plots, f"classes-{number}")
        if answers.pairs:
            yield "<h3>Which classes are confused</h3>"
            heads = ("class", "taken for", "photos", "percent of the class")
            yield html.table(heads, answers.pairs, numbers=2, label="Pairs that are confused most often")
        yield from _wrong(answers)


def _figures(evaluation: Any) -> Iterator[str]:
    if not isinstance(evaluation, dict) or not {"acc1", "acc1_interval", "images", "ece"} <= evaluation.keys():
        return
    low, high = evaluation["acc1_interval"]
    yield (
        f"<p>acc@1 {evaluation['acc1']:.2f} % of {evaluation['images']:,} photos, with a 95 % interval from "
        f"{low:.2f} to {high:.2f} %. Calibration error {evaluation['ece']:.4f}.</p>"
    )


def _classes(answers: Answers, plots: Plots | None, key: str) -> Iterator[str]:
    shown = answers.classes[:MOST_CLASSES]
    lowest = ", ".join(f"{row.name} {row.acc1:.1f} %" for row in shown[:5])
    yield f'<section class="chart"><h3>Accuracy of each class</h3><p>Lowest: {text(lowest)}.</p>'
    if plots:
        yield f'<div class="plot" id="{plots.draw_classes(key, shown)}"></div>'
    left = len(answers.classes) - len(shown)
    more = f" per_class.csv lists the other {left:,}." if left else ""
    rows = [
        (row.name, f"{row.images:,}", f"{row.acc1:.2f}", f"{row.low:.2f} to {row.high:.2f}", row.acc5) for row in shown
    ]
    yield f"<details><summary>{len(shown):,} classes, the lowest accuracy first</summary>"
    heads = ("class", "photos", "acc@1", "95 % interval", "acc@5")
    yield html.table(heads, rows, numbers=4, label="Accuracy of each class")
    yield f"{more}</details></section>"


def _wrong(answers: Answers) -> Iterator[str]:
    yield "<h3>Wrong answers with the highest probability</h3>"
    if not answers.has_predictions:
        yield '<p class="soft">eval.predictions=csv makes the evaluation write what this needs.</p>'
    elif not answers.wrong:
        yield "<p>No answer is wrong.</p>"
    else:
        yield f'<div class="photos">{"".join(map(_photo, answers.wrong))}</div>'


def _photo(wrong: Wrong) -> str:
    """With the photo where it is here, and by its name alone else."""
    words = f"{wrong.label}, taken for {wrong.answer} with {100 * wrong.probability:.1f} %"
    image = f'<img src="{wrong.picture}" alt="{text(wrong.name)}: {text(words)}">' if wrong.picture else ""
    return f"<figure>{image}<figcaption>{text(wrong.name)}<br>{text(words)}</figcaption></figure>"
