"""Runs with faults at random, one after the other: ``python -m tests.faults.soak [--minutes 20] [--seed N] [--cache]``.

Each run meets one to three faults of ``tests.support.faults`` at random moments, and must end as the run without any.
The seed is printed and repeats the choice of faults. With --cache the pods keep decoded photos.
"""

import argparse
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from tests.conftest import ForkedTrain, Result, Zygote
from tests.support.faults import FAULTS, assert_the_same, longest_wait
from tests.support.place import Place, after, opened

_REQUESTS = 500
"""Of a run, about."""


def one_run(
    place: Place, train: ForkedTrain, whole: Result, words: list[str], draw: random.Random
) -> tuple[list[str], float]:
    """A run with faults; their names and the longest wait for data. Raises AssertionError if it does not end as it should."""
    names = draw.sample(sorted(FAULTS), draw.randint(1, 3))
    place.quiet()
    for name, moment in zip(names, sorted(draw.sample(range(20, _REQUESTS), len(names))), strict=True):
        place.to_target.at[moment] = partial(after, 0, partial(FAULTS[name], place))
    result = train(*place.words, *words, variables=place.variables)
    place.quiet()
    assert_the_same(result, whole)
    return names, longest_wait(result)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--cache", action="store_true")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 24))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    draw, zygote, met, worst = random.Random(args.seed), Zygote(), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as place:
        train = ForkedTrain(zygote, Path(folder) / "cwd")
        whole = train(*place.words, "run_dir=whole", variables=place.variables)
        cache = ["data.cache=decoded", "data.cache_gb=0.05", f"data.cache_dir={folder}/cache"] if args.cache else []
        end, number = time.monotonic() + 60 * args.minutes, 0
        while time.monotonic() < end:
            number += 1
            names, wait = one_run(place, train, whole, [*cache, f"run_dir=run-{number}"], draw)
            met.update(names)
            worst = max(worst, wait)
            print(f"run {number}: the same, longest wait {wait:.1f} s; {'; '.join(names)}", flush=True)
    print(f"{number} runs, {sum(met.values())} faults of {len(met)} kinds, all equal; longest wait {worst:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
