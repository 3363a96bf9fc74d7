"""All benchmarks of the README, one after the other: ``make bench`` and ``make bench-quick``.

    python -m benchmarks [--quick] [--to FOLDER] [NAME …]

Tables go to the console; figures to FOLDER/NAME.json, plots to FOLDER/NAME.png, all tables to FOLDER/README.md.
--quick takes fewer images and rounds of those that start few processes, to see that they run: its figures are too rough
to quote, and go to build/bench-quick by default.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Benchmark:
    """``python -m benchmarks.NAME`` and its arguments."""

    name: str
    arguments: str
    quick: str = ""
    """Arguments of ``--quick``, which leaves it out where they are empty."""


BENCHMARKS = (
    Benchmark("decode", "--repeats 2 --val-repeats 1", "--repeats 1 --images 20"),
    Benchmark("augment", "--repeats 5", "--repeats 1 --images 20"),
    Benchmark("cache", "--repeats 3", "--repeats 1 --images 100"),
    Benchmark("loader", "--repeats 3 --images 500"),
    Benchmark("bucket", "--repeats 1 --images 1000"),
    Benchmark("storage", "--repeats 2"),
    Benchmark("receive", "--repeats 3", "--repeats 1 --images 2048"),
    Benchmark("etl_server", "--repeats 2 --seconds 1 --memory", "--repeats 1 --seconds 0.1"),
    Benchmark("loop", "--repeats 4", "--repeats 1 --size 64"),
    Benchmark("manifest", "--repeats 5"),
    Benchmark("growth", "--repeats 1 --images 1000"),
    Benchmark("repeat", "--repeats 3 --model resnet18"),
    Benchmark("ingredients", "--repeats 3", "--repeats 1 --model resnet18 --batch 8 --step-batch 2"),
)


def main() -> int:
    """The exit code: 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *(b.name for b in BENCHMARKS)], metavar="NAME")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--to", type=Path, help="folder for figures and plots")
    options = parser.parse_args()
    folder = options.to or PROJECT / ("build/bench-quick" if options.quick else "benchmarks/results")
    chosen = [benchmark for benchmark in BENCHMARKS if not options.names or benchmark.name in options.names]
    if options.quick:
        if options.names and (slow := [benchmark.name for benchmark in chosen if not benchmark.quick]):
            parser.error(f"--quick leaves these out, since they take long: {', '.join(slow)}")
        chosen = [benchmark for benchmark in chosen if benchmark.quick]
    took, failed = {}, []
    for benchmark in chosen:
        words = (benchmark.quick if options.quick else benchmark.arguments).split()
        print(f"\n== python -m benchmarks.{benchmark.name} {' '.join(words)}", flush=True)
        start_s = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{benchmark.name}", *words]
        done = subprocess.run([*command, "--json", str(folder / f"{benchmark.name}.json")], cwd=PROJECT, check=False)
        took[benchmark.name] = time.monotonic() - start_s
        failed += [benchmark.name] if done.returncode else []
    for module in ("plots", "report"):
        subprocess.run([sys.executable, "-m", f"benchmarks.{module}", str(folder)], cwd=PROJECT, check=True)
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in took.items())
    print(f"\n{sum(took.values()) / 60:.1f} minutes (seconds: {parts}); figures and plots in {folder}")
    if failed:
        print(f"error: failed, see above: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
