"""The options of loggers beside a run's own files. None of them changes the result."""

from dataclasses import dataclass

from training.config.options import free, require


@dataclass
class LogConfig:
    """The options of loggers beside the run's own files; a logger that fails never stops the run."""

    tensorboard: bool = free(
        True, "write the figures, the first training batch and a few validation photos with the answers for TensorBoard"
    )
    wandb: str = free(
        "off",
        "off|offline (files for wandb sync)|online: send the figures to Weights & Biases, whose package is needed",
        choices=("off", "offline", "online"),
    )
    mlflow: str = free("", "address of an MLflow server that gets the figures, or a folder; empty: none")
    report: bool = free(True, "write report.html, a page that opens offline, at the end of the run")

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        require(
            self.mlflow.strip() == self.mlflow, f"log.mlflow={self.mlflow!r} begins or ends with a space: leave it out."
        )
