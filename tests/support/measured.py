"""Ways to do the same, for tests of benchmarks.measure: ``python -m tests.support.measured KIND``."""

import sys
from collections.abc import Iterator
from itertools import count
from multiprocessing import get_context
from time import sleep

from benchmarks.measure import reply


def main() -> None:
    """Answer 1, 2, 3, … ms; print what is no answer; the way "peer" lacks a package."""
    if sys.argv[1] == "peer":
        raise ModuleNotFoundError("No module named 'ffcv'")
    worker = get_context("spawn").Process(target=sleep, args=(60,), daemon=True)
    worker.start()

    def figures() -> Iterator[dict[str, float]]:
        for number in count(1):
            print("a peer may print")
            yield {"ms": float(number), "worker": float(worker.pid or 0)}

    reply(figures())


if __name__ == "__main__":
    main()
