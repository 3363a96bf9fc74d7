"""What one GPU shows in minutes: ``make gpu-check``.

    python -m benchmarks.gpu [--minutes 7] [--out build/gpu-check] [--parts PART …] [--quick]

Its parts, in the order of their worth, each in a process of its own: the tests of tests/gpu; the speed of ResNet-50 and
of ViT-S/16 in bf16, eager and compiled, from each kind of data, with the time that steps wait for data and what limits;
how many samples a second come from JPEGs without a model, by our loader, nvJPEG and DALI. A part that fails is named
with its words, and the others run; a part for which no time is left is named. Nothing is downloaded: torch with CUDA
and what `make setup` installs are enough. The photos are those of IMAGENET_TRAINER_DATA/imagenet-sample.tar, or made.

DIR of --out gets gpu-check.json, gpu-check.txt and what each part printed. The exit code is 1 where anything failed.
--quick measures small models, with few images, on a GPU or without one: it shows that all of this runs.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tarfile import TarError

from benchmarks.gpu.parts import Part, Settings, run_part
from benchmarks.gpu.photos import photos
from benchmarks.gpu.report import Report
from benchmarks.receive import static_server
from sources.cpus import cpu_count

MODELS = "resnet50", "timm/vit_small_patch16_224"
QUICK_MODELS = "shufflenet_v2_x0_5", "timm/vit_tiny_patch16_224"
CHECKS, SPEEDS, DECODERS = (f"benchmarks.gpu.{name}" for name in ("checks", "speeds", "decoders"))
PHOTOS = 1000
"""As many as IMAGENET_TRAINER_DATA has, or are made."""
PROJECT = Path(__file__).resolve().parents[2]


def parts_of(quick: bool) -> list[Part]:
    """All of them, in the order of their worth; the quick ones compile nothing, and may take long on a busy machine."""
    least, most = (0, 10) if quick else (1, 1)
    found = [Part("tests", (CHECKS,), 20 * least, 180 * most)]
    for model in QUICK_MODELS if quick else MODELS:
        for mode, least_s in (("eager", 25), *([] if quick else [("compiled", 50)])):
            found.append(Part(f"{model}, {mode}", (SPEEDS, model, mode), least_s * least, 180 * most))
    ways = {"our loader": "loader", "nvJPEG": "nvjpeg", "DALI": "dali"}
    return found + [Part(name, (DECODERS, way), 12 * least, 60 * most) for name, way in ways.items()]


def device_name() -> str:
    """The GPU that torch sees; "" where it sees none."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@contextmanager
def prepared(quick: bool, batch: int) -> Iterator[Settings]:
    """Photos, and servers of ready samples: one sends what one core can."""
    servers = 1 if quick else max(1, min(4, cpu_count() // 4))
    with ExitStack() as stack:
        root, about = stack.enter_context(photos(8 if quick else PHOTOS, made=quick))
        ports = [stack.enter_context(static_server())[0] for _ in range(servers)]
        yield Settings(
            photos=str(root),
            about_photos=about,
            endpoints=tuple(f"http://127.0.0.1:{port}" for port in ports),
            batch=2 if quick else batch,
            steps=1 if quick else 20,
            seconds=0 if quick else 4,
            workers=1 if quick else "auto",
            precision="fp32" if quick else "bf16",
        )


def chosen(found: Sequence[Part], names: Sequence[str]) -> list[Part]:
    """Those of the given names, or whose names begin so; all without names. Raises ValueError for one that is none."""
    for name in names:
        if not any(part.name.startswith(name) for part in found):
            raise ValueError(f"--parts: there is no {name}, but {', '.join(repr(part.name) for part in found)}")
    return [part for part in found if not names or part.name.startswith(tuple(names))]


def main(words: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.0, help="for all parts together (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=PROJECT / "build" / "gpu-check", metavar="DIR")
    parser.add_argument("--parts", nargs="+", default=[], metavar="PART", help="these alone, by how their names begin")
    parser.add_argument("--batch", type=int, default=256, help="images of a step (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs, on a GPU or without one")
    given = sys.argv[1:] if words is None else list(words)
    options = parser.parse_args(given)
    if not options.minutes > 0:
        parser.error(f"--minutes={options.minutes:g}: give a positive number")
    if not 1 <= options.batch <= PHOTOS:
        parser.error(f"--batch={options.batch}: give a number from 1 to {PHOTOS}, which is how many photos there are")
    try:
        parts = chosen(parts_of(options.quick), options.parts)
    except ValueError as error:
        parser.error(str(error))
    deadline = time.monotonic() + 60 * options.minutes
    device = device_name()
    if not device and not options.quick:
        parser.error("torch sees no GPU here: python -m benchmarks.gpu --quick shows on a CPU that the check runs")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        report = Report(options.out, device or "CPU", shlex.join(["python", "-m", "benchmarks.gpu", *given]))
    except OSError as error:
        parser.error(f"--out={options.out} cannot be written to: {error.strerror}")
    with ExitStack() as stack:
        try:
            settings = stack.enter_context(prepared(options.quick, options.batch))
        except (OSError, TarError) as error:
            where = os.environ.get("IMAGENET_TRAINER_DATA", "")
            parser.error(f"the photos of IMAGENET_TRAINER_DATA={where} cannot be read: {error}")
        for part in parts:
            report.say(f"\n== {part.name}")
            report.add(*run_part(part, settings, deadline, options.out))
    return report.end(options.minutes)


if __name__ == "__main__":
    sys.exit(main())
