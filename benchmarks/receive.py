"""CPU time per image on the training node when the samples come ready-made: from the socket to a batch in the trainer.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.receive [--repeats 5] [--images 16384]

FOLDER holds imagenet-sample.tar. ``benchmarks.static_server`` sends ready samples of 224 px, and its CPU time is not
counted. Beside each other: ImageFolder and DataLoader with torchvision's default transforms and two workers, which is
what making samples on the training node costs; ours with one worker, from answers in chunks (as AIStore's targets give
them), of known length, and after a redirect; and aistore.pytorch.AISMapDataset with an ETL behind a DataLoader with
one worker, from answers in chunks. Batches of 256; --images of ours, and a 16th of the others.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.loader import BASELINE, imagefolder
from benchmarks.measure import compare, cpu_and_wall, photo_folder, reply
from benchmarks.results import Row, Table, alone, begin, parser
from benchmarks.static_server import SAMPLES, WAYS, sample

BATCH = 256
"""As ``train.batch_size``."""
PREFETCH = 4
"""Batches that lie ready at most: of ours, and of ImageFolder's two workers together."""
NAMES = 1024
SDK = "SDK AISMapDataset, chunked"
OURS = {f"imagenet-ais, {way}": way for way in WAYS}
"""The server's way to answer."""
KINDS = (BASELINE, *OURS, SDK)


def batches(kind: str, root: Path, ports: list[int]) -> Iterator[Any]:
    """Endless batches, of ours ``Batch``, of the SDK's (indices, images)."""
    import torch

    torch.set_num_threads(1)
    if kind == BASELINE:
        yield from imagefolder(root, 2, 100_000, BATCH)
    elif kind == SDK:
        yield from _of_the_sdk(f"http://127.0.0.1:{ports[0]}")
    else:
        yield from _ours(f"http://127.0.0.1:{ports[WAYS.index(OURS[kind])]}")


def _ours(endpoint: str) -> Iterator[Any]:
    import torch

    from training.loader.loader import BatchIterator, open_loader
    from training.loader.order import TrainBatches

    order = TrainBatches(NAMES, BATCH, seed=0, epochs=1000)
    with open_loader(ready_samples(endpoint), order, 1, PREFETCH, torch.device("cpu")) as loader:
        yield from BatchIterator(loader)


def ready_samples(*endpoints: str) -> Any:
    """The static servers' samples as data.transform=etl has them: ``NAMES`` of one class, each at one server."""
    import numpy as np

    from aistore_data.client.access import Access
    from aistore_data.client.placement import Placement, splitmix64
    from aistore_data.dataset.breaker import Breakers
    from aistore_data.dataset.policy import Remote
    from aistore_data.dataset.remote import RemoteDataset
    from etl import Spec
    from sources.manifest import Manifest
    from sources.shared_memory import share

    names = [(f"{number:06}.jpg".encode(), 0, 100_000) for number in range(NAMES)]
    nodes = enumerate(endpoints) if len(endpoints) > 1 else ()
    targets = {
        url: {"public_net": {"direct_url": url}, "id_digest": str(int(splitmix64(np.array([number], np.uint64))[0]))}
        for number, url in nodes
    }
    remote = Remote(
        Access(endpoints[0]),
        "ais://bench",
        share(Manifest.build(names, ("class",))),
        Placement({"tmap": targets}, endpoints[0]),
        Breakers(len(endpoints)),
        Spec.train(),
        0,
        direct=True,
        etl_name="imagenet-train",
        audit_every=0,  # these pixels are of no photo
        tags=True,
    )
    return RemoteDataset(remote)


def _of_the_sdk(endpoint: str) -> Iterator[Any]:
    import numpy as np
    import torch
    from aistore import Client
    from aistore.pytorch import AISMapDataset

    class Samples(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            names = [f"{number:06}.jpg" for number in range(NAMES)]
            group = Client(endpoint).bucket("bench").objects(obj_names=names)
            self.source = AISMapDataset([group], etl_name="imagenet-train")

        def __len__(self) -> int:
            return len(self.source)

        def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
            _, content = self.source[index]
            return index, torch.from_numpy(np.frombuffer(content, np.uint8).reshape(224, 224, 3).copy())

    loader = torch.utils.data.DataLoader(
        Samples(), BATCH, shuffle=True, num_workers=1, multiprocessing_context="fork", persistent_workers=True
    )
    while True:
        yield from loader


def check(kind: str, batch: Any) -> None:
    """Raises AssertionError unless the first image is what the server sent."""
    if kind == BASELINE:
        return
    index, image = (batch.indices[0], batch.images[0]) if kind in OURS else (batch[0][0], batch[1][0])
    assert image.numpy().tobytes() == sample(int(index) % SAMPLES), f"{kind}: other bytes have arrived"


def checked(kind: str, found: Iterator[Any]) -> Iterator[Any]:
    """The same batches, of which the first has been looked at."""
    first = next(found)
    check(kind, first)
    return chain([first], found)


@contextmanager
def static_server() -> Iterator[list[str]]:
    """The server's ports."""
    command = [sys.executable, "-m", "benchmarks.static_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as server:
        assert server.stdout
        try:
            yield server.stdout.readline().split()
        finally:
            server.kill()


def main() -> int:
    """The command line."""
    args = parser(__doc__, repeats=5, images=16384).parse_args()
    if args.one:
        kind, root, ports = args.one[0], Path(args.one[1]), list(map(int, args.one[2:]))
        count = args.images // BATCH // (16 if kind in (BASELINE, SDK) else 1)
        count = max(2, count // 2 * 2)  # as many of each of the two workers, which are at work at the same time
        reply(cpu_and_wall(checked(kind, batches(kind, root, ports)), count, BATCH, PREFETCH))
        return 0
    result = begin(args)
    with photo_folder() as root, static_server() as open_ports:
        figures = compare(KINDS, args.repeats, alone(args, root, *open_ports), {SDK: "aistore"})
    speeds = [Row(row.name, [1e3 / ms for ms in row.values], failed=row.failed) for row in figures["wall_ms"]]
    title = "Ready samples from the socket to a batch in the trainer"
    result.add(Table("cpu", title, "CPU ms per image on the training node", figures["cpu_ms"], BASELINE))
    result.add(Table("speed", f"{title}, the server on the same CPUs", "images/s", speeds, BASELINE, "more"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
