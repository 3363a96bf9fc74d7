"""Compare two runs, and find where they first differ.

    python -m scripts.compare_runs RUN OTHER

Compares what two run directories recorded: the samples that the models saw (fingerprints in metrics.jsonl, codes in
stream.bin), the figures, the final weights, and what decides them (configuration, data, code, versions). Nothing is
trained or read from the data sets. The exit code is 0 for the same run, 1 for different ones, 2 if it cannot tell.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sources.errors import ConfigError
from sources.text import visible
from training.config.files import load_file
from training.loader.order import epoch_order
from training.run_dir.files import is_run_directory, read_lines
from training.state import compatibility

_FIGURES = ("loss", "acc1", "acc5")


class Record:
    """What a run directory holds. Raises ConfigError for anything else."""

    def __init__(self, path: Path) -> None:
        if not is_run_directory(path):
            raise ConfigError(f"{path} is not the directory of a run: it has no config.yaml of ours.")
        try:
            config = load_file(path / "config.yaml")
            rows = read_lines(path / "metrics.jsonl")
            summary = path / "summary.json"
            self.path = path
            self.config: dict[str, Any] = {k: value for k, value in config.items() if k not in ("defaults", "hydra")}
            self.environment: dict[str, Any] = json.loads((path / "environment.json").read_text())
            self.lines = {(row["kind"], row["epoch"], row["step"]): row for row in rows}  # the last one of each
            self.codes = np.fromfile(path / "stream.bin", "<u2")  # uint16 [samples]
            self.summary: dict[str, Any] | None = json.loads(summary.read_text()) if summary.exists() else None
            data = self.environment["data"].get("train", {})
            self.samples = int(data.get("samples", self.config["data"]["train_samples"]))  # of the training data
            self.epoch_length = self.samples - self.samples % int(self.config["train"]["batch_size"])
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"{path} cannot be compared: {error}. Was the run stopped before its first step?"
            ) from None

    def fingerprints(self, kind: str) -> dict[int, str]:
        """Return the fingerprints by epoch, where there are any."""
        lines = {epoch: line for (of, epoch, _), line in self.lines.items() if of == kind}
        return {epoch: line["fingerprint"] for epoch, line in lines.items() if "fingerprint" in line}

    def codes_of(self, epoch: int) -> np.ndarray:
        """Codes uint16 of an epoch's samples in order; 0 where they are not known."""
        return self.codes[epoch * self.epoch_length :][: self.epoch_length]


def part_in_samples(a: Record, b: Record) -> str | None:
    """The first training or validation sample that is not the same, in words."""
    for kind in ("train_epoch", "val_epoch"):
        theirs = b.fingerprints(kind)
        parted = [epoch for epoch, value in sorted(a.fingerprints(kind).items()) if theirs.get(epoch, value) != value]
        if parted and kind == "val_epoch":
            return f"validation of epoch {parted[0] + 1} saw other samples"
        if parted:
            return _first_sample(a, b, parted[0])
    return None


def _first_sample(a: Record, b: Record, epoch: int) -> str:
    length = min(len(a.codes_of(epoch)), len(b.codes_of(epoch)))
    one, other = a.codes_of(epoch)[:length], b.codes_of(epoch)[:length]
    differing = np.flatnonzero((one != other) & (one != 0) & (other != 0))
    if not len(differing):
        return f"epoch {epoch + 1}: {a.epoch_length} samples here, {b.epoch_length} there, equal as far as both go"
    position = int(differing[0])
    seen = [int(epoch_order(r.samples, r.config["seed"], epoch)[position]) for r in (a, b)]
    what = f"its pixels or label (index {seen[0]})" if seen[0] == seen[1] else f"index {seen[0]} here, {seen[1]} there"
    step = position // a.config["train"]["batch_size"] + 1
    return f"epoch {epoch + 1}, sample {position + 1} of {a.epoch_length} (step {step}): {what}"


def part_in_figures(a: Record, b: Record) -> str | None:
    """The first figure that both logged and that is not the same, in words."""
    common = sorted((step, epoch, kind) for kind, epoch, step in a.lines.keys() & b.lines.keys())
    for step, epoch, kind in common:
        for name in _FIGURES:
            one, other = (r.lines[kind, epoch, step][name] for r in (a, b))
            if one != other:
                return f"epoch {epoch + 1}, step {step}: {name} of the {kind} is {one} here, {other} there"
    return None


def part_in_weights(a: Record, b: Record) -> str | None:
    """Whether the final weights differ, in words."""
    if a.summary is None or b.summary is None:
        return None
    one, other = (f"{s['state_sha256'][:12]}… after {s['epochs']} epochs" for s in (a.summary, b.summary))
    if a.summary["state_sha256"] != b.summary["state_sha256"]:
        return f"{one} here, {other} there"
    averaged = [str(summary.get("ema_sha256", "none"))[:12] for summary in (a.summary, b.summary)]
    return None if averaged[0] == averaged[1] else "averaged weights {}… here, {}… there".format(*averaged)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.compare_runs", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="the directory of a run")
    parser.add_argument("other", type=Path, help="the directory of another run")
    options = parser.parse_args(arguments)
    try:
        a, b = Record(options.run), Record(options.other)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    parts = {"samples": part_in_samples(a, b), "figures": part_in_figures(a, b), "weights": part_in_weights(a, b)}
    found = {name: text for name, text in parts.items() if text}
    compared = len(a.lines.keys() & b.lines.keys())
    if not found and not compared:
        print("error: the runs have no step or epoch in common yet.", file=sys.stderr)
        return ConfigError.exit_code
    unfinished = [str(r.path) for r in (a, b) if r.summary is None]
    if found:
        print("different runs: first part of")
        for name, text in found.items():
            print(f"  {name:8} {visible(text)}")
    else:
        fingerprints = len(a.fingerprints("train_epoch").items() & b.fingerprints("train_epoch").items())
        print(
            f"the same run{' so far' if unfinished else ''}: {fingerprints} epochs of samples and {compared} lines of "
            f"figures{'' if unfinished else ' and the weights'} are equal"
        )
    for path in unfinished:
        print(f"  {visible(path)} has not finished")
    before, now = ({"config": r.config, "environment": r.environment} for r in (a, b))
    for change in compatibility.changes_of_result(before, now) + compatibility.changes_of_rounding(before, now):
        print(f"  {visible(str(change))}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
