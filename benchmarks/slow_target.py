"""One storage node of three is slow: how long batches take, without a deadline and with one.

    python -m benchmarks.slow_target [--seconds 1] [--batches 60]

An embedded server with an ETL, seen through three links (tests/support/link.py) as three nodes between which objects
are spread; one link delays what is asked of the ETL. One loader worker with four batches of 24 ahead, and a step of
50 ms.
"""

import argparse
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import torch

from aistore_data.bucket.listing import read_manifest
from aistore_data.bucket.store import AisStore
from aistore_data.client.placement import Placement
from aistore_data.client.sdk import connect
from aistore_data.dataset.breaker import Breakers
from aistore_data.dataset.remote import RemoteDataset
from aistore_data.dataset.split import Remote
from aistore_data.etls import lifecycle
from benchmarks.measure import in_own_session, reply
from benchmarks.results import Row, Table, begin, parser
from etl import Spec
from sources.batch import Counts
from sources.latency import Latencies
from tests.support.link import Fault, Gate, Link
from tests.support.place import Place, opened
from training.loader.loader import Feed, open_loader
from training.loader.order import TrainBatches

BATCH, STEP_S, NODES = 24, 0.05, 3
CASES = {
    "no slow node": (0.0, 2.0, True),
    "slow node, no deadline": (1.0, 600.0, False),
    "slow node, fixed deadline of 2 s": (1.0, 2.0, False),
    "slow node, fixed deadline of 0.3 s": (1.0, 0.3, False),
    "slow node, adaptive deadline": (1.0, 2.0, True),
}
"""Name: share of ``--seconds`` by which the node is late, deadline in seconds, whether it follows the typical node."""
FIGURES = (
    ("img_per_s", "Samples of three nodes, one of them slow", "images/s"),
    ("batch_p50_ms", "Time between batches, median", "ms"),
    ("batch_max_ms", "Time between batches, longest", "ms"),
    ("etl_p50_ms", "Answers of the ETL, median", "ms"),
    ("etl_p99_ms", "Answers of the ETL, p99", "ms"),
)


def measure(place: Place, late_s: float, deadline_s: float, adaptive: bool, batches: int) -> dict[str, float]:
    """Milliseconds between batches, and of the ETL's answers; shares of the samples."""
    found = connect(place.access)
    target = next(iter(found["tmap"].values()))
    gates = [Gate() for _ in range(NODES)]
    links = [Link(urlsplit(target["public_net"]["direct_url"]).netloc, gate) for gate in gates]
    gates[0].fault = Fault("delay", "etl_name=", seconds=late_s) if late_s else None
    nodes = {
        str(number): {"id_digest": 2**60 * number + 1, "public_net": {"direct_url": f"http://{link.host}"}}
        for number, link in enumerate(links)
    }
    placement = Placement({"tmap": nodes}, place.access.endpoint)
    manifest = read_manifest(AisStore("ais://faults", place.access), "train/")
    remote = Remote(
        place.access, "ais://faults", manifest, placement, Breakers(NODES), Spec.train(224), 0, direct=True,
        etl_names=("slow-train",), deadline_s=deadline_s, adaptive_deadline=adaptive,
    )  # fmt: skip
    order = TrainBatches(len(manifest), BATCH, seed=0, epochs=batches + 6)
    times, counts, latencies = [], Counts(), Latencies()
    with open_loader(RemoteDataset(remote), order, 1, 4, torch.device("cpu")) as loader:
        for number, batch in enumerate(Feed(loader)):
            if number >= 5:
                times.append(time.perf_counter())
                counts = Counts(*(a + b for a, b in zip(counts, batch.counts, strict=True)))
                latencies.add(Latencies.from_bytes(batch.latencies))
            if number == 5 + batches:
                break
            time.sleep(STEP_S)
    for link in links:
        link.close()
    gaps = sorted(1e3 * (after - before) for before, after in pairwise(times))
    return {
        "batch_p50_ms": statistics.median(gaps),
        "batch_max_ms": gaps[-1],
        "img_per_s": BATCH * batches / (times[-1] - times[0]),
        "etl_p50_ms": 1e3 * latencies.quantile("etl", 0.5),
        "etl_p99_ms": 1e3 * latencies.quantile("etl", 0.99),
        "made_here": counts.local / (counts.local + counts.etl),
    }


def main() -> int:
    """The command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=1.0)
    arguments.add_argument("--batches", type=int, default=60)
    arguments.add_argument(
        "--one", nargs=3, type=float, metavar=("LATE", "DEADLINE", "ADAPTIVE"), help=argparse.SUPPRESS
    )
    args = arguments.parse_args()
    if args.one:
        with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as place:
            lifecycle.ensure(
                place.client, "slow-train", "train", lifecycle.EtlSettings(num_workers=2), lambda line: None
            )
            reply(iter([measure(place, *args.one[:2], bool(args.one[2]), args.batches)]))
        return 0
    result = begin(args)
    rows = {}
    for name, (share, deadline_s, adaptive) in CASES.items():
        case = (share * args.seconds, deadline_s, int(adaptive))
        words = ("--batches", str(args.batches), "--one", *map(str, case))
        rows[name] = in_own_session("benchmarks.slow_target", *words)
    for figure, title, unit in FIGURES:
        made = [Row(name, [row[figure]], f"{100 * row['made_here']:.0f} % made here") for name, row in rows.items()]
        result.add(Table(figure, title, unit, made, next(iter(CASES)), "more" if unit == "images/s" else "less"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
