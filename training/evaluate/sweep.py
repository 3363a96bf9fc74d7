"""One table of all evaluations of a sweep; importing this does not import torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.report.output import put
from training.run_dir.files import read_object

_HEADER = ("model", "weights", "preprocessing", "acc@1", "95 % interval", "acc@5", "ECE", "img/s")


def tell(run_dirs: Sequence[str]) -> None:
    """Rank 0 prints the table of a sweep's evaluations."""
    if table := sweep_table(run_dirs):
        from training.processes.world import read_world  # here, so that --help need not wait for torch

        if read_world().is_main:
            put(f"\n{table}")


def sweep_table(run_dirs: Sequence[str]) -> str:
    """A line for each evaluation of a sweep, by what its directory holds; "" if there are fewer than two.

    One that failed has left no summary, and its line says so.
    """
    if len(run_dirs) < 2:
        return ""
    rows = [_HEADER, *(_row(run_dir) for run_dir in run_dirs)]
    widths = [max(len(row[place]) for row in rows if len(row) == len(_HEADER)) for place in range(len(_HEADER))]
    numbers = {"acc@1", "acc@5", "ECE", "img/s"}
    return "\n".join(
        "  ".join(
            text.rjust(width) if title in numbers else text.ljust(width)
            for text, width, title in zip(row, widths, _HEADER, strict=False)
        ).rstrip()
        for row in rows
    )


def _row(run_dir: str) -> tuple[str, ...]:
    summary = read_object(Path(run_dir) / "summary.json")
    found: dict[str, Any] = summary.get("evaluation") or {}
    if not found:
        return (f"{run_dir} has no figures: its job failed",)
    made, (low, high) = found["preprocessing"], found["acc1_interval"]
    return (
        found["model"],
        found["weights"],
        f"{made['image_size']} of {made['resize']}, {made['interpolation']}",
        f"{found['acc1']:.2f}",
        f"{low:.2f} to {high:.2f}",
        f"{found['acc5']:.2f}",
        f"{found['ece']:.4f}",
        f"{summary['img_per_s']:,.0f}",
    )
