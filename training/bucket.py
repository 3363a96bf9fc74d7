"""Samples from an AIStore bucket: made by the cluster's ETLs, or here from the objects' bytes."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from aistore.sdk.errors import AISError
from requests.exceptions import RequestException

from aistore_data import etls
from aistore_data.breaker import Breakers
from aistore_data.cluster import connect, make_client
from aistore_data.errors import ClusterError, ObjectError
from aistore_data.http_reader import Access, HttpReader
from aistore_data.listing import read_manifest
from aistore_data.manifest import Manifest
from aistore_data.placement import Placement
from aistore_data.shared import share
from etl.code import code_sha256
from etl.sample import Spec
from training.config import Config
from training.distributed import World, on_main
from training.keeper import Keeper
from training.numerics import cpu_count
from training.remote import Remote, RemoteDataset


@dataclass(frozen=True)
class _Bucket:
    """What rank 0 found and started, for all ranks."""

    access: Access
    uri: str
    train: Manifest
    val: Manifest
    cluster_map: dict[str, Any]
    train_etl: str
    val_etl: str


@contextmanager
def open_bucket(
    config: Config, train_spec: Spec, val_spec: Spec, world: World, say: Callable[[str], None]
) -> Iterator[tuple[RemoteDataset, RemoteDataset, dict[str, Any]]]:
    """(train dataset, val dataset, description); rank 0 starts what is missing, repairs it, and stops it.

    Raises ClusterError for a cluster, bucket or ETL that cannot be used.
    """
    with ExitStack() as stack:
        bucket = on_main(world, lambda: _prepare(config, train_spec, val_spec, stack, say))
        data = config.data
        placement = Placement(bucket.cluster_map)
        common = Remote(
            bucket.access,
            bucket.uri,
            share(bucket.train),
            placement,
            train_spec,
            config.seed,
            local_share=data.local_share if data.transform == "hybrid" else 0.0,
            wire=data.wire,
            deadline_s=data.etl.deadline_s,
            patience_s=data.patience_s,
            audit_every=data.audit_every,
        )
        names = [(name,) if name else () for name in (bucket.train_etl, bucket.val_etl)]
        breakers = [Breakers(len(placement.hosts)) for _ in names]
        train = replace(common, etl_names=names[0], replace=data.on_corrupt == "replace", breakers=breakers[0])
        val = replace(common, manifest=share(bucket.val), spec=val_spec, etl_names=names[1], breakers=breakers[1])
        if names[0]:
            repairs = _repairs(config, bucket, say) if world.is_main and data.etl.manage == "auto" else None
            stack.enter_context(Keeper([train, val], repairs, say))
        description = {"source": bucket.uri, "transform": data.transform, "etl": [bucket.train_etl, bucket.val_etl]}
        yield RemoteDataset(train), RemoteDataset(val), description | ({"code": code_sha256()} if names[0] else {})


def _repairs(config: Config, bucket: _Bucket, say: Callable[[str], None]) -> list[Callable[[], None]]:
    """What mends the two ETLs."""
    client, settings = make_client(bucket.access), _settings(config)
    return [
        partial(etls.repair, client, bucket.train_etl, "train", settings, say),
        partial(etls.repair, client, bucket.val_etl, "val", settings, say),
    ]


def _settings(config: Config) -> etls.EtlSettings:
    data = config.data
    workers = data.etl.num_workers
    return etls.EtlSettings(
        manage=data.etl.manage,  # type: ignore[arg-type]  # checked with the configuration
        num_workers=workers if isinstance(workers, int) else _default_workers(data.endpoint == "embedded"),
        init_timeout_s=data.etl.init_timeout_s,
        comm_type=data.etl.comm_type,
        dependencies=tuple(data.etl.dependencies),
        image=data.etl.image,
    )


def _prepare(config: Config, train_spec: Spec, val_spec: Spec, stack: ExitStack, say: Callable[[str], None]) -> _Bucket:
    """Everything that is done once: the embedded server, the manifests, the ETLs and the proof of their pixels."""
    data = config.data
    embedded = data.endpoint == "embedded"
    access = _embedded(config, stack) if embedded else Access.from_environment(data.endpoint)
    found = connect(access)
    client = make_client(access)
    provider, _, bare = data.bucket.rpartition("://")
    bucket, reader = client.bucket(bare, provider=provider or "ais"), HttpReader(access)
    try:
        bucket.head()
        train = read_manifest(bucket, data.bucket, data.train_prefix, reader, say=say)
        val = read_manifest(bucket, data.bucket, data.val_prefix, reader, train.classes, say)
    except AISError as error:
        raise ClusterError(
            f"{data.bucket} cannot be read on {access.endpoint}: status {error.status_code} {error.message}".rstrip()
            + f". Check data.bucket; python -m aistore_data.upload FOLDER {data.bucket} makes it."
        ) from None
    except (ObjectError, RequestException, OSError) as error:
        raise ClusterError(f"{data.bucket} cannot be read on {access.endpoint}: {error}.") from None
    say(f"{data.bucket}: {len(train):,} training and {len(val):,} validation objects, {len(train.classes)} classes")
    if data.transform == "client":
        return _Bucket(access, data.bucket, train, val, found, "", "")
    settings = _settings(config)
    names = []
    for recipe, name, spec, manifest in (
        ("train", data.etl.train_name, train_spec, train),
        ("val", data.etl.val_name, val_spec, val),
    ):
        begin = time.monotonic()
        name, started = etls.ensure(client, name, recipe, settings, say)  # type: ignore[arg-type]
        if started and (data.etl.on_exit == "stop" or (data.etl.on_exit == "auto" and embedded)):
            stack.callback(etls.stop, client, name)
        compared = etls.prove(reader, data.bucket, manifest, name, spec, len(found["tmap"]))
        took = f"started in {time.monotonic() - begin:.1f} s" if started else "attached"
        say(f"ETL {name}: {took}; {compared} samples equal those made here")
        names.append(name)
    return _Bucket(access, data.bucket, train, val, found, names[0], names[1])


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
