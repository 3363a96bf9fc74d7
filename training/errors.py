"""Errors that are sentences for the user. Each names the thing, what was wrong with it, and what to do."""


class UserError(Exception):
    """Something that the user can mend; shown without a traceback. Takes one string, so that it survives pickling."""

    exit_code = 1


class ConfigError(UserError):
    """A wrong command line or configuration."""

    exit_code = 2


class DataError(UserError):
    """A sample, a folder or a bucket that cannot be read."""


def sentence(error: Exception) -> str:
    """The error's own words, without the traceback that DataLoader wraps around an exception of a worker."""
    text = str(error)
    marker = f"{type(error).__name__}: "
    return text.rsplit(marker, 1)[-1].strip() if "Traceback (most recent call last)" in text else text
