"""What the commands share that put a data set somewhere: options, lines beside the result, and exit codes."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from sources.disk import cause, shown
from sources.errors import UserError
from sources.text import visible

STOPPED = 85
"""Exit code: stopped on request, and the same command goes on."""


def print_line(text: str) -> None:
    """Print a line to stderr, beside the result."""
    print(visible(text), file=sys.stderr, flush=True)


def command(name: str, documentation: str | None, **more: Any) -> argparse.ArgumentParser:
    """The parser of ``python -m name``, whose --help shows a module's documentation as it is written."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        prog=f"python -m {name}", description=documentation, formatter_class=formatter, **more
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The option of commands that work in several processes."""
    default = max(4, len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=positive, default=default, help="processes (default %(default)s)")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of commands that bring a data set to a folder or a cluster."""
    parser.add_argument("--endpoint", default="", help="of the cluster; default: AIS_ENDPOINT")
    add_workers(parser)
    parser.add_argument("--replace", action="store_true", help="replace what is there with another content")


def exit_code(work: Callable[[], None]) -> int:
    """That of a command that can be started again, with a sentence for whatever a user or a machine can do to it."""

    def done() -> int:
        work()
        return 0

    try:
        return answer(done, "stopped. The same command goes on.", STOPPED)
    except MemoryError:
        print("error: there is too little memory: use fewer --workers. The same command goes on.", file=sys.stderr)
        return UserError.exit_code
    except OSError as error:
        where = f"{shown(error.filename)}: " if isinstance(error.filename, str) else ""
        print(f"error: {where}{cause(error)}. The same command goes on once that is mended.", file=sys.stderr)
        return UserError.exit_code


def answer(work: Callable[[], int], stopped: str, code: int) -> int:
    """The exit code that ``work`` answers, with a sentence for mistakes of the user.

    Where ctrl-C ends it, the sentence is ``stopped`` and the exit code ``code``.
    """
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return code


def positive(text: str) -> int:
    """A number from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number
