"""mode=evaluate beyond a validation: what is asked for is checked, answers are collected, and the figures are told."""

from pathlib import Path
from typing import Any

from training.engine.numerics import require_precision
from training.evaluate import report
from training.evaluate.examination import Examination
from training.evaluate.labels import read_labels
from training.loader.open_data import Data
from training.processes.collectives import run_on_rank0
from training.state.run_state import Run


class Evaluation:
    """The evaluation of all photos of ``data.val``. Raises ConfigError for options that do not fit the data."""

    def __init__(self, run: Run, data: Data) -> None:
        options, samples = run.config.eval, len(data.val)
        report.require_parquet(options.predictions)
        if options.compare_precision != "none":
            require_precision(options.compare_precision, run.device, "eval.compare_precision")
        self._run, self._data, self._accepted = run, data, None
        unnamed = [""] * (run.outputs - len(data.class_names))
        self._names = run.classes.names if run.classes else (*data.class_names, *unnamed)
        if options.labels:
            self._accepted = run_on_rank0(
                run.world, lambda: read_labels(Path(options.labels), samples, data.val_name, len(self._names))
            )
        self._examination = Examination(run)
        self.answer = self._examination.answer
        possible = run.classes.possible if run.classes else range(len(self._names))
        self.possible_names = [self._names[number] for number in possible]

    def tell(self) -> dict[str, Any] | None:
        """Say the figures, write the tables, and answer what summary.json has of them; None but on rank 0.

        All ranks call it. Raises UserError where a table cannot be written.
        """
        run = self._run
        outcomes = self._examination.outcomes(len(self._data.val))
        if outcomes is None:
            return None
        told = report.Report(outcomes, self._names, self._accepted)
        for line in report.lines(told, run.config):
            run.console.say(line)
        tables = {"per_class.csv": report.per_class_csv(told), "confusion.csv": report.confusion_csv(told)}
        if (kind := run.config.eval.predictions) != "none":
            tables[f"predictions.{kind}"] = report.predictions(told, kind, self._data.val_name)
        for name, content in tables.items():
            run.records.table(name, content)
        run.console.say(f"written to {run.config.run_dir}: {', '.join(tables)}, summary.json")
        return report.facts(told, run.config)
