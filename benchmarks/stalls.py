"""The longest wait for a sample while something is broken: this project's remote samples, and the SDK's own dataset.

    python -m benchmarks.stalls [--seconds 6]

An embedded server with an ETL, behind links that break for so many seconds (tests/support/link.py). Both read a sample
after the other in one process, the SDK's ``AISMapDataset`` with its defaults, until 20 have come after the link was
mended, or an error ends it. Deadline of ours: 1 s.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from aistore import Client
from aistore.pytorch import AISMapDataset

from aistore_data.bucket.listing import read_manifest
from aistore_data.bucket.store import AisStore
from aistore_data.client.http_reader import Access
from aistore_data.client.placement import Placement
from aistore_data.client.sdk import connect
from aistore_data.dataset.breaker import Breakers
from aistore_data.dataset.remote import RemoteDataset
from aistore_data.dataset.split import Remote
from aistore_data.etls import lifecycle
from benchmarks.results import Row, Table, begin, parser
from etl import Spec
from tests.support.faults import RAISED
from tests.support.link import Fault
from tests.support.place import Place, after, opened

ETL = "etl_name="
FAULTS = {
    "none": None,
    "the ETL's transform fails (500)": Fault("status", ETL, body=RAISED),
    "the ETL is late by 3 s": Fault("delay", ETL, seconds=3),
    "the ETL does not answer": Fault("hang", ETL, seconds=600),
    "answers cut short": Fault("cut", ETL),
    "empty answers with status 200": Fault("empty", ETL),
    "the target resets connections": Fault("reset"),
    "503 for everything": Fault("status", code=503),
}


def ours(place: Place, access: Access) -> Callable[[int], object]:
    """Reads sample ``i``."""
    manifest = read_manifest(AisStore("ais://faults", access), "train/")
    placement = Placement(connect(access), access.endpoint)
    breakers = Breakers(len(placement.hosts))
    dataset = RemoteDataset(
        Remote(
            access, "ais://faults", manifest, placement, breakers, Spec.train(32), 0, direct=True,
            etl_names=("stalls-train",), deadline_s=1.0,
        )
    )  # fmt: skip
    return lambda number: dataset.__getitems__([(0, number % len(manifest))])


def theirs(access: Access) -> Callable[[int], object]:
    """Reads sample ``i`` by the SDK."""
    client = Client(access.endpoint, token=access.token)
    bucket = client.bucket("faults")
    dataset = AISMapDataset(bucket, {bucket: "train/"}, "stalls-train")

    def read(number: int) -> object:
        _, content = dataset[number % len(dataset)]
        if not content:
            raise ValueError("an empty sample, without an error")
        return content

    return read


def longest(place: Place, read: Callable[[int], object], fault: Fault | None, seconds: float) -> tuple[float, str]:
    """(seconds of the longest wait, how it ended)."""
    place.quiet()
    for number in range(20):
        read(number)
    place.to_target.fault = fault
    mended: list[bool] = []
    after(seconds, lambda: (setattr(place.to_target, "fault", None), mended.append(True)))  # type: ignore[func-returns-value]
    worst, more, number = 0.0, 20, 20
    while more:
        begin, number = time.monotonic(), number + 1
        try:
            read(number)
        except Exception as error:
            worst = max(worst, time.monotonic() - begin)
            ended = f"ended by {type(error).__name__} after {time.monotonic() - begin:.0f} s"
            time.sleep(0 if mended else seconds)
            return worst, ended
        worst = max(worst, time.monotonic() - begin)
        more -= bool(mended)
    return worst, "goes on"


def main() -> int:
    """The command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=6)
    args = arguments.parse_args()
    result = begin(args)
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as place:
        lifecycle.ensure(place.client, "stalls-train", "train", lifecycle.EtlSettings(num_workers=1), print)
        access = Access(f"http://{place.links[0].host}", place.access.token)
        for name, fault in FAULTS.items():
            made = []
            for who, reader in (("imagenet-ais", ours(place, access)), ("SDK AISMapDataset", theirs(access))):
                worst, ended = longest(place, reader, fault, args.seconds)
                made.append(Row(who, [worst], ended))
            result.add(Table(name, f"Longest wait, broken for {args.seconds:g} s: {name}", "s", made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
