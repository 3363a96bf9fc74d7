"""The embedded AIS: enough of AIStore's HTTP API for its SDK, in a child process, with ETLs as real processes."""

from aistore_data.embedded.errors import EmbeddedError
from aistore_data.embedded.process import EmbeddedAIS

__all__ = ["EmbeddedAIS", "EmbeddedError"]
