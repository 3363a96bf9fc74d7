"""CPU time per image on the training node: an ETL's ready pixels, the folder, and the SDK's own dataset.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.bucket [--workers 1] [--repeats 3] [--images 400]

FOLDER holds imagenet-sample.tar. One embedded server with the ETL runs beside, or the cluster at AIS_ENDPOINT is used
(bucket ais://bench); its CPU time is not counted, as that of storage nodes is not. Ways to batches of 50 samples
of 224 px: data=imagefolder (decoding here), data.transform=client (the same, of objects), etl (receiving) and hybrid
(half of each), and aistore.pytorch.AISMapDataset with the same ETL (a JPEG, decoded here). The pod has one process, and
so has the loader unless --workers says otherwise.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.measure import compare, cpu_and_wall, photo_folder, reply
from benchmarks.results import Table, alone, begin, parser

BATCH = 50
PREFETCH = 4
SDK = "SDK AISMapDataset + ETL"
SHARES = {"data.transform=client": 1.0, "data.transform=etl": 0.0, "data.transform=hybrid": 0.5}
"""Shares of the samples that are made here."""
KINDS = ("data=imagefolder", *SHARES, SDK)


def batches(kind: str, root: Path, access: Any, workers: int) -> Iterator[object]:
    """Endless batches."""
    import torch

    from aistore_data.client.sdk import connect, make_client
    from aistore_data.dataset.policy import Remote
    from aistore_data.dataset.remote import RemoteDataset
    from etl import Spec
    from sources.folder import FolderReader, scan_folder
    from sources.samples import SampleDataset
    from training.loader.loader import BatchIterator, open_loader
    from training.loader.order import TrainBatches

    torch.set_num_threads(1)
    if kind == SDK:
        import io

        import numpy
        from aistore.pytorch import AISMapDataset
        from PIL import Image

        class Pixels(torch.utils.data.Dataset[torch.Tensor]):
            def __init__(self) -> None:
                bucket = make_client(access).bucket("bench")
                self.source = AISMapDataset(bucket, {bucket: "train/"}, "bench-train")

            def __len__(self) -> int:
                return len(self.source)

            def __getitem__(self, index: int) -> torch.Tensor:
                _, content = self.source[index]
                return torch.from_numpy(numpy.array(Image.open(io.BytesIO(content))))

        pixels = torch.utils.data.DataLoader(
            Pixels(), BATCH, shuffle=True, num_workers=workers, multiprocessing_context="fork"
        )
        while True:
            yield from pixels
    manifest, _ = scan_folder(root)
    dataset: Any = SampleDataset(FolderReader(root / "train", manifest), manifest, Spec.train(), seed=0)
    if kind in SHARES:
        from aistore_data.bucket.listing import read_manifest
        from aistore_data.bucket.store import AisStore
        from aistore_data.client.placement import Placement
        from aistore_data.dataset.breaker import Breakers

        manifest = read_manifest(AisStore("ais://bench", access), "train/")
        placement = Placement(connect(access), access.endpoint)
        dataset = RemoteDataset(
            Remote(
                access,
                "ais://bench",
                manifest,
                placement,
                Breakers(len(placement.hosts)),
                Spec.train(),
                0,
                direct=True,
                etl_name="bench-train",
                local_share=SHARES[kind],
            )
        )
    order = TrainBatches(len(manifest), BATCH, seed=0, epochs=1000)
    with open_loader(dataset, order, workers, PREFETCH, torch.device("cpu")) as loader:
        yield from BatchIterator(loader)


def main() -> int:
    """The command line."""
    args = parser(__doc__, workers=1, repeats=3, images=400).parse_args()
    from aistore_data.bucket.store import AisStore
    from aistore_data.client.access import Access
    from aistore_data.client.sdk import make_client
    from aistore_data.embedded import EmbeddedAIS
    from aistore_data.etls import lifecycle
    from aistore_data.upload.__main__ import upload

    if args.one:
        kind, root = args.one[0], Path(args.one[1])
        endless = batches(kind, root, Access.from_environment(""), args.workers)
        reply(cpu_and_wall(endless, args.images // BATCH, BATCH, PREFETCH * args.workers))
        return 0
    result = begin(args)
    with photo_folder() as root, ExitStack() as stack:
        if not os.environ.get("AIS_ENDPOINT"):
            server = stack.enter_context(EmbeddedAIS(root / "ais"))
            os.environ |= {"AIS_ENDPOINT": server.endpoint, "AIS_AUTHN_TOKEN": server.token}
        access = Access.from_environment("")
        client = make_client(access)
        settings = lifecycle.EtlSettings(num_workers=1)
        bucket = AisStore("ais://bench", access)
        bucket.create()
        upload(root, bucket, "folders", 4)
        stack.callback(lifecycle.stop, client, lifecycle.ensure(client, "bench-train", "train", settings, print)[0])
        figures = compare(KINDS, args.repeats, alone(args, root), {SDK: "aistore"})
    for figure, unit in (("cpu_ms", "CPU ms per image on the training node"), ("wall_ms", "ms per image")):
        result.add(Table(figure, f"From a bucket to batches, {args.workers} workers", unit, figures[figure], KINDS[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
