"""What the embedded server answers instead of a result, and why it does not start."""

from sources.errors import ConfigError

PROXY_ID, TARGET_ID = "proxy-00", "target-01"


class ApiError(Exception):
    """An HTTP error as AIS words it: ``tcode`` (AIS's type of error, may be empty) and a message."""

    def __init__(self, status: int, message: str, tcode: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.tcode = tcode


class EmbeddedError(ConfigError):
    """The embedded server cannot start: one sentence for the user."""


def bucket_not_found(bucket: str) -> ApiError:
    """Return AIStore's answer for a bucket that does not exist."""
    return ApiError(404, f'bucket "ais://{bucket}" does not exist', "ErrBckNotFound")


def etl_not_found(name: str) -> ApiError:
    """404 of an ETL in calls on the ETL itself; the SDK looks for the words ``etl job``."""
    return ApiError(404, f"etl job {name} does not exist", "ErrETLNotFound")
