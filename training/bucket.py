"""Samples from an AIStore bucket: made by the cluster's ETLs, or here from the objects' bytes."""

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from aistore.sdk.errors import AISError
from requests.exceptions import RequestException

from aistore_data import etls
from aistore_data.bucket_uri import parse_bucket
from aistore_data.cluster import connect, make_client, why
from aistore_data.errors import ClusterError, DataError, ObjectError
from aistore_data.http_reader import Access, HttpReader, object_path
from aistore_data.listing import read_manifest
from aistore_data.manifest import Manifest
from aistore_data.shared import share
from etl.code import code_sha256
from etl.request import Request, encode
from etl.sample import CorruptSample, Key, Spec, transform
from training.config import Config
from training.dataset import Batch, Counts, SampleDataset, from_wire, through_wire
from training.distributed import World, on_main
from training.numerics import cpu_count

IN_FLIGHT = 8
"""Requests of a worker at a time."""

_TRIES = 3
_UNSAFE = re.compile(r"[?#]|%(?![0-9A-Fa-f]{2})")
"""In an object's name these make AIS ask the ETL for something else, which it then answers; so no ETL is asked."""


class ObjectReader:
    """Reads the bytes of sample ``index`` from a bucket; pickles without its connections."""

    def __init__(self, access: Access, uri: str, manifest: Manifest) -> None:
        self.http = HttpReader(access)
        self.uri = uri
        self.manifest = manifest

    def read(self, index: int) -> bytes:
        """Raises DataError that names the object."""
        try:
            return self.http.get(object_path(self.uri, self.manifest.name(index)))
        except (ObjectError, OSError) as error:
            hint = " It was there when it was listed." if getattr(error, "status", 0) == 404 else ""
            raise DataError(f"{self.locate(index)} cannot be read: {why(error, self.http.access)}{hint}") from None

    def locate(self, index: int) -> str:
        """Where sample ``index`` lies, for messages."""
        return f"{self.uri}/{self.manifest.name(index)}"


class EtlDataset:
    """Samples made by an ETL, received into the rows of the batch by a few threads.

    What the ETL cannot make is made here from the object's bytes, which gives the same pixels: objects whose names no
    ETL may be asked for, and those that it fails on repeatedly.
    """

    def __init__(self, reader: ObjectReader, spec: Spec, seed: int, etl_name: str, wire: str) -> None:
        self.reader = reader
        self.spec = spec
        self.seed = seed
        self.etl_name = etl_name
        self.wire: Any = wire
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}

    def __len__(self) -> int:
        return len(self.reader.manifest)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch:
        """As ``BatchDataset``. Raises DataError that names the object."""
        self._pool = self._pool or ThreadPoolExecutor(IN_FLIGHT)
        images = torch.empty((len(keys), self.spec.size, self.spec.size, 3), dtype=torch.uint8)
        rows = images.numpy()
        counts = list(self._pool.map(lambda number: self._fill(rows[number], *keys[number]), range(len(keys))))
        indices = torch.tensor([index for _, index in keys])
        labels = torch.from_numpy(self.reader.manifest.labels[indices.numpy()])
        return Batch(images, labels, indices, Counts(*map(sum, zip(*counts, strict=True))))

    def _fill(self, row: Any, epoch: int, index: int) -> Counts:
        key = Key(self.seed, epoch, index) if self.spec.recipe == "train" else None
        name = self.reader.manifest.name(index)
        if _UNSAFE.search(name):
            row[:] = self._make_here(index, key)
            return Counts(local=1)
        path = object_path(
            self.reader.uri, name, etl_name=self.etl_name, etl_args=encode(Request(self.spec, key, self.wire))
        )
        for attempt in range(_TRIES):
            try:
                if self.wire == "raw":
                    self.reader.http.get_into(path, memoryview(row).cast("B"))
                else:
                    row[:] = from_wire(self.reader.http.get(path), self.spec)
                return Counts(etl=1, retries=attempt)
            except (ObjectError, OSError) as error:
                if isinstance(error, ObjectError) and error.corrupt_sample:
                    raise DataError(
                        f"{self.reader.locate(index)} is {error.corrupt_sample}. Replace or remove it."
                    ) from None
                time.sleep(0.1 * 2**attempt)
        row[:] = self._make_here(index, key)
        return Counts(local=1, retries=_TRIES - 1, fallbacks=1)

    def _make_here(self, index: int, key: Key | None) -> Any:
        try:
            return through_wire(transform(self.reader.read(index), self.spec, key), self.wire)
        except CorruptSample as error:
            raise DataError(f"{self.reader.locate(index)} is {error}. Replace or remove it.") from None


@dataclass(frozen=True)
class _Bucket:
    """What rank 0 found and started, for all ranks."""

    access: Access
    uri: str
    val_uri: str
    train: Manifest
    val: Manifest
    train_etl: str
    val_etl: str


@contextmanager
def open_bucket(
    config: Config, train_spec: Spec, val_spec: Spec, world: World, say: Callable[[str], None]
) -> Iterator[tuple[Any, Any, Manifest, Manifest, dict[str, Any]]]:
    """(train dataset, val dataset, their manifests, description); rank 0 starts what is missing and stops it.

    Raises ClusterError for a cluster, bucket or ETL that cannot be used.
    """
    with ExitStack() as stack:
        bucket = on_main(world, lambda: _prepare(config, train_spec, val_spec, stack, say))
        bucket = replace(bucket, train=share(bucket.train), val=share(bucket.val))
        train = ObjectReader(bucket.access, bucket.uri, bucket.train)
        val = ObjectReader(bucket.access, bucket.val_uri, bucket.val)
        data = config.data
        source = bucket.uri if bucket.uri == bucket.val_uri else [bucket.uri, bucket.val_uri]
        description = {"source": source, "transform": data.transform, "etl": [bucket.train_etl, bucket.val_etl]}
        if data.transform == "client":
            yield (
                SampleDataset(train, bucket.train, train_spec, config.seed, data.wire),
                SampleDataset(val, bucket.val, val_spec, config.seed, data.wire),
                bucket.train,
                bucket.val,
                description,
            )
        else:
            yield (
                EtlDataset(train, train_spec, config.seed, bucket.train_etl, data.wire),
                EtlDataset(val, val_spec, config.seed, bucket.val_etl, data.wire),
                bucket.train,
                bucket.val,
                description | {"code": code_sha256()},
            )


def _prepare(config: Config, train_spec: Spec, val_spec: Spec, stack: ExitStack, say: Callable[[str], None]) -> _Bucket:
    """Everything that is done once: the embedded server, the manifests, the ETLs and the proof of their pixels."""
    data = config.data
    embedded = data.endpoint == "embedded"
    access = _embedded(config, stack) if embedded else Access.from_environment(data.endpoint)
    targets = connect(access)
    client = make_client(access)
    reader = HttpReader(access)
    uri, val_uri = data.bucket, data.val_bucket or data.bucket
    train = _manifest(client, uri, data.train_prefix, reader, (), say)
    val = _manifest(client, val_uri, data.val_prefix, reader, train.classes, say)
    where = uri if uri == val_uri else f"{uri} and {val_uri}"
    say(f"{where}: {len(train):,} training and {len(val):,} validation objects, {len(train.classes)} classes")
    if data.transform == "client":
        return _Bucket(access, uri, val_uri, train, val, "", "")
    workers = data.etl.num_workers
    settings = etls.EtlSettings(
        manage=data.etl.manage,  # type: ignore[arg-type]  # checked with the configuration
        num_workers=workers if isinstance(workers, int) else _default_workers(embedded),
        init_timeout_s=data.etl.init_timeout_s,
        comm_type=data.etl.comm_type,
        dependencies=tuple(data.etl.dependencies),
        image=data.etl.image,
    )
    names = []
    for recipe, name, spec, where, manifest in (
        ("train", data.etl.train_name, train_spec, uri, train),
        ("val", data.etl.val_name, val_spec, val_uri, val),
    ):
        begin = time.monotonic()
        name, started = etls.ensure(client, name, recipe, settings, say)  # type: ignore[arg-type]
        if started and (data.etl.on_exit == "stop" or (data.etl.on_exit == "auto" and embedded)):
            stack.callback(etls.stop, client, name)
        compared = etls.prove(reader, where, manifest, name, spec, len(targets))
        took = f"started in {time.monotonic() - begin:.1f} s" if started else "attached"
        say(f"ETL {name}: {took}; {compared} samples equal those made here")
        names.append(name)
    return _Bucket(access, uri, val_uri, train, val, names[0], names[1])


def _manifest(
    client: Any, uri: str, prefix: str, reader: HttpReader, classes: tuple[str, ...], say: Callable[[str], None]
) -> Manifest:
    """As ``read_manifest``, of a bucket that exists and may be read, or ClusterError."""
    bucket = parse_bucket(uri).of(client)
    try:
        bucket.head()
        return read_manifest(bucket, uri, prefix, reader, classes, say)
    except (AISError, ObjectError, RequestException, OSError) as error:
        access = reader.access
        hint = " Check its address, and that the cluster has this provider's backend and its credentials."
        hint = (
            hint
            if bucket.provider.is_remote()
            else f" Check its address; python -m aistore_data.upload FOLDER {uri} makes it."
        )
        missing = isinstance(error, AISError) and error.status_code not in (401, 403)
        raise ClusterError(
            f"{uri} cannot be read on {access.endpoint}: {why(error, access)}{hint if missing else ''}"
        ) from None


def _embedded(config: Config, stack: ExitStack) -> Access:
    from aistore_data.embedded import EmbeddedAIS

    root = stack.enter_context(tempfile.TemporaryDirectory(prefix="imagenet-ais-"))
    server = stack.enter_context(
        EmbeddedAIS(Path(root), imagefolder=Path(config.data.embedded_root), layout=config.data.embedded_layout)
    )
    return Access(server.endpoint, server.token)


def _default_workers(embedded: bool) -> int:
    """On this machine the two ETLs share the CPUs with the trainer; a cluster's pods have cores of their own."""
    return max(1, cpu_count() // 2) if embedded else 4
