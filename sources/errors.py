"""Errors that are sentences for the user. Each names the thing, what was wrong with it, and what to do."""

from collections.abc import Iterator

from sources.text import visible


class UserError(Exception):
    """Something that the user can mend; shown without a traceback. Takes one string, so that it survives pickling."""

    exit_code = 1

    def __str__(self) -> str:
        """The sentence, in which names from outside do nothing to a terminal."""
        return visible(super().__str__())


class ConfigError(UserError):
    """A wrong command line or configuration."""

    exit_code = 2


class DataError(UserError):
    """A sample, a folder or a bucket that cannot be read."""


class UnreachableError(DataError):
    """A cluster that was waited for in vain: what the run has done can be saved, and it can go on later."""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised for."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def sentence(error: Exception) -> str:
    """The error's own words, without the traceback that DataLoader wraps around an exception of a worker."""
    text = str(error)
    marker = f"{type(error).__name__}: "
    return text.rsplit(marker, 1)[-1].strip() if "Traceback (most recent call last)" in text else text


class ClusterError(UserError):
    """A cluster, a bucket or an ETL that cannot be used."""


class ObjectError(Exception):
    """An answer other than success to a request for an object: HTTP status and the server's own message."""

    def __init__(self, status: int, message: str, out_of_step: bool = False) -> None:
        super().__init__(status, message, out_of_step)
        self.status, self.message, self.out_of_step = status, message, out_of_step
        self.corrupt_sample = status == 500 and "CorruptSample: " in message
        """Whether the ETL says that the object is no image."""

    def __str__(self) -> str:
        return f"{self.message} (status {self.status})"


def out_of_step(message: str) -> ObjectError:
    """The error for an answer that is not, or may not be, that to the request: its connection is used no more."""
    return ObjectError(200, message, out_of_step=True)
