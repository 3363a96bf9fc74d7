"""Jobs on Kubernetes."""

from training.config import Config


def submit(config: Config, dry_run: bool) -> None:
    """Render, check and queue the job of a resolved configuration. Raises UserError."""
    raise NotImplementedError
