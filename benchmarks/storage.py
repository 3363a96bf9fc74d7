"""CPU time of a training sample in an ETL's pod, on the storage nodes and on the training node.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.storage [--images 500] [--repeats 3] [--pods WORD] [--nodes WORD]

FOLDER holds imagenet-sample.tar. Its photos lie in a bucket twice, as objects and in tar shards. Samples of them are
made by the client, and by ETLs that keep nothing, a JPEG index, or decoded photos; the ways take turns, each round has
other keys in another order, and all ways must give the same bytes. Two rounds go before, in which pods fill what they
keep. An embedded server runs beside, or the cluster at AIS_ENDPOINT is used, if its processes run on this machine:
--pods and --nodes are words of the command lines by which they are told, those of the embedded server by default.
"""

import os
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from aistore_data.bucket.listing import read_manifest
from aistore_data.bucket.shards import read_shards
from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from aistore_data.client.placement import Placement
from aistore_data.client.sdk import connect, make_client
from aistore_data.dataset.breaker import Breakers
from aistore_data.dataset.policy import Remote
from aistore_data.dataset.remote import RemoteDataset
from aistore_data.embedded import EmbeddedAIS
from aistore_data.etls import lifecycle
from aistore_data.upload.__main__ import upload
from aistore_data.upload.shards import upload_shards
from benchmarks.measure import TICKS_PER_S, photo_folder
from benchmarks.results import Table, begin, parser, rows
from etl import Spec
from scripts import make_shards
from sources.command_line import print_line
from sources.shards.splits import named
from sources.shared_memory import share

SIZE = 224
SHARD = 25
"""Photos in a shard: so many shards that each storage node has some."""
SETTINGS = {
    "data.transform=etl, data.index=off": lifecycle.EtlSettings(num_workers=1, index="off"),
    "data.transform=etl": lifecycle.EtlSettings(num_workers=1),
    "data.transform=etl, data.cache=decoded": lifecycle.EtlSettings(num_workers=1, cache_gb=2.0),
}
CLIENT = "data.transform=client"


def cpu_s(words: tuple[str, ...]) -> tuple[float, ...]:
    """CPU seconds of the processes whose command lines hold each of ``words``, and of their descendants.

    A process counts for the first word that it or its nearest ancestor holds.
    """
    parents, found, ticks = {}, {}, {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it ended meanwhile
                continue
            pid = int(path.name)
            parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:13]))
            mine = pid == os.getpid()  # whose options hold the words
            found[pid] = None if mine else next((place for place, word in enumerate(words) if word in line), None)
    sums = [0.0] * len(words)
    for pid in parents:
        at = pid
        while found.get(at) is None and parents.get(at):
            at = parents[at]
        if (place := found.get(at)) is not None:
            sums[place] += ticks[pid] / TICKS_PER_S
    return tuple(sums)


def sources_of(access: Access, root: Path, kept: str, stack: ExitStack) -> dict[str, RemoteDataset]:
    """A data set for each way to make samples, by its name; the ETLs end with ``stack``."""
    client = make_client(access)
    stores = {layout: AisStore(f"ais://bench-{layout}", access) for layout in ("objects", "shards")}
    for store in stores.values():
        store.create()
    upload(root, stores["objects"], "folders", 4)
    if make_shards.main([str(root), str(root / "shards"), "--samples", str(SHARD)]):
        raise SystemExit(1)
    upload_shards(root / "shards", stores["shards"], 4, False, print_line)
    found, _ = read_shards(stores["shards"], "train/", "", print_line)
    manifests = {
        "objects": share(read_manifest(stores["objects"], "train/")),
        "shards": named((found, found), "", print_line, True)[0],
    }
    placement = Placement(connect(access), access.endpoint)
    names = {CLIENT: ""}
    for number, (way, settings) in enumerate(SETTINGS.items()):
        if settings.cache_gb:
            settings = lifecycle.EtlSettings(num_workers=1, cache_gb=settings.cache_gb, cache_dir=kept)
        names[way], _ = lifecycle.ensure(client, f"bench-storage-{number}", "train", settings, print_line)
        stack.callback(lifecycle.stop, client, names[way])
    made: dict[str, Any] = {"access": access, "placement": placement, "spec": Spec.train(SIZE), "seed": 0}
    return {
        f"{way}, {layout}": RemoteDataset(
            Remote(
                **made,
                uri=stores[layout].uri,
                manifest=manifest,
                breakers=Breakers(len(placement.hosts)),
                direct=True,
                etl_name=name,
                tags=bool(name),
                deadline_s=20.0,
                audit_every=0,
            )
        )
        for way, name in names.items()
        for layout, manifest in manifests.items()
    }


def main() -> int:
    """The command line."""
    options = parser(__doc__, repeats=3, images=500, pods="pod_main.py", nodes="aistore_data.embedded").parse_args()
    result = begin(options)
    words = (options.pods, options.nodes)
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with photo_folder() as root, tempfile.TemporaryDirectory() as kept, ExitStack() as stack:
        if not os.environ.get("AIS_ENDPOINT"):
            server = stack.enter_context(EmbeddedAIS(root / "ais"))
            os.environ |= {"AIS_ENDPOINT": server.endpoint, "AIS_AUTHN_TOKEN": server.token}
        sources = sources_of(Access.from_environment(""), root, kept, stack)
        out = np.empty((options.images, SIZE, SIZE, 3), np.uint8)
        for number in range(options.repeats + 2):
            photos = len(next(iter(sources.values())))
            order = np.arange(photos) if number < 2 else np.random.default_rng(number).permutation(photos)
            keys, first = [(number, index) for index in order[: options.images].tolist()], b""
            if number < 2:  # everything that may be kept
                keys = [(number, index) for index in order.tolist()]
                out = np.empty((photos, SIZE, SIZE, 3), np.uint8)
            for way, source in sources.items():
                before, own_s = cpu_s(words), time.process_time()
                counts = source.fill(keys, out[: len(keys)]).counts
                own_s = time.process_time() - own_s
                time.sleep(0.3)  # pods write what they keep
                pods_s, nodes_s = (now - then for now, then in zip(cpu_s(words), before, strict=True))
                pixels = out[: len(keys)].tobytes()
                first = first or pixels
                if pixels != first or counts.fallbacks:
                    print(f"error: {way}: other samples, or {counts.fallbacks} made here instead", file=sys.stderr)
                    return 1
                if number >= 2:
                    for place, seconds in (("pod", pods_s), ("nodes", nodes_s), ("trainer", own_s)):
                        figures[place][way].append(1e3 * seconds / len(keys))
    where = {"pod": "in the ETL's pods", "nodes": "on the storage nodes, without the pods", "trainer": "on this node"}
    for place, values in figures.items():
        result.add(Table(place, f"A training sample of a bucket, {where[place]}", "CPU ms", rows(values)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
