"""Samples from an AIStore bucket: made by the cluster's ETLs, or here from the objects' bytes."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from aistore.sdk.errors import AISError
from requests.exceptions import RequestException

from aistore_data.bucket.listing import NoImagesError, read_manifest
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.http_reader import Access, HttpReader
from aistore_data.client.placement import Placement
from aistore_data.client.sdk import connect, make_client, why
from aistore_data.dataset.breaker import Breakers
from aistore_data.dataset.remote import Remote, RemoteDataset, serves_directly
from aistore_data.etls import lifecycle
from aistore_data.etls.monitor import Keeper
from aistore_data.etls.tags import knows_tags
from etl.code import code_sha256
from etl.sample import Spec
from sources.errors import ClusterError, ObjectError
from sources.folder import require_train
from sources.manifest import Manifest
from sources.notices import Notices
from sources.scratch import scratch_folder
from sources.shared_memory import share
from sources.text import shell_word
from training.config.schema import Config
from training.engine.numerics import cpu_count
from training.processes.collectives import on_main
from training.processes.world import World


@dataclass(frozen=True)
class _Bucket:
    """What rank 0 found and started, for all ranks."""

    access: Access
    uri: str
    val_uri: str
    train: Manifest
    val: Manifest
    cluster_map: dict[str, Any]
    direct: bool
    train_etl: str
    val_etl: str
    tags: tuple[bool, bool]
    """Whether the two prove their answers."""


@contextmanager
def open_bucket(
    config: Config, train_spec: Spec, val_spec: Spec, world: World, say: Callable[[str], None], notices: Notices
) -> Iterator[tuple[RemoteDataset, RemoteDataset, dict[str, Any]]]:
    """(train dataset, val dataset, description); rank 0 starts what is missing, repairs it, and stops it.

    ``notices`` takes what loader workers tell. Raises ClusterError for a cluster, bucket or ETL that cannot be used.
    """
    with ExitStack() as stack:
        bucket = on_main(world, lambda: _prepare(config, train_spec, val_spec, stack, say))
        data = config.data
        placement = Placement(bucket.cluster_map, bucket.access.endpoint)
        common = Remote(
            bucket.access,
            bucket.uri,
            share(bucket.train),
            placement,
            Breakers(len(placement.hosts)),
            train_spec,
            config.seed,
            direct=bucket.direct,
            local_share=data.local_share if data.transform == "hybrid" else 0.0,
            wire=data.wire,
            deadline_s=data.etl.deadline_s,
            adaptive_deadline=data.etl.adaptive_deadline,
            patience_s=data.patience_s,
            audit_every=data.audit_every,
            notices=notices,
        )
        names = [(name,) if name else () for name in (bucket.train_etl, bucket.val_etl)]
        train = replace(common, etl_names=names[0], replace=data.on_corrupt == "replace", tags=bucket.tags[0])
        val = replace(
            common,
            uri=bucket.val_uri,
            manifest=share(bucket.val),
            spec=val_spec,
            etl_names=names[1],
            tags=bucket.tags[1],
            breakers=Breakers(len(placement.hosts)),
        )
        if names[1]:
            repairs = _repairs(config, bucket, say) if world.is_main and data.etl.manage == "auto" else None
            watched = slice(0 if names[0] else 1, 2)
            stack.enter_context(Keeper([train, val][watched], repairs and repairs[watched], say))
        source = bucket.uri if bucket.uri == bucket.val_uri else [bucket.uri, bucket.val_uri]
        description: dict[str, Any] = {
            "source": source,
            "transform": data.transform,
            "etl": [bucket.train_etl, bucket.val_etl],
        }
        description["answers_proved"] = list(bucket.tags)
        yield RemoteDataset(train), RemoteDataset(val), description | ({"code": code_sha256()} if names[1] else {})


def _repairs(config: Config, bucket: _Bucket, say: Callable[[str], None]) -> list[Callable[[], None]]:
    """What mends the two ETLs."""
    client, settings = make_client(bucket.access), _settings(config)
    return [
        partial(lifecycle.repair, client, bucket.train_etl, "train", settings, say),
        partial(lifecycle.repair, client, bucket.val_etl, "val", settings, say),
    ]


def _settings(config: Config) -> lifecycle.EtlSettings:
    data = config.data
    workers = data.etl.num_workers
    return lifecycle.EtlSettings(
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
    reader = HttpReader(access)
    uri, val_uri = data.bucket, data.val_bucket or data.bucket
    try:
        train = _manifest(client, uri, data.train_prefix, reader, (), say)
        val = _manifest(client, val_uri, data.val_prefix, reader, train.classes, say)
    except NoImagesError:
        if config.mode == "train":
            raise
        val = _manifest(client, val_uri, data.val_prefix, reader, (), say)
        train = Manifest.build([], val.classes)
    where = uri if uri == val_uri else f"{uri} and {val_uri}"
    direct = serves_directly(
        access, *((uri, train) if len(train) else (val_uri, val)), Placement(found, access.endpoint)
    )
    say(f"{where}: {len(train):,} training and {len(val):,} validation objects, {len(train.classes)} classes")
    if data.transform == "client":
        return _Bucket(access, uri, val_uri, train, val, found, direct, "", "", (False, False))
    settings = _settings(config)
    names, tags = [], []
    for recipe, name, spec, where, manifest in (
        ("train", data.etl.train_name, train_spec, uri, train),
        ("val", data.etl.val_name, val_spec, val_uri, val),
    ):
        if not len(manifest):  # nobody asks for its samples
            names.append("")
            tags.append(False)
            continue
        begin = time.monotonic()
        name, started = lifecycle.ensure(client, name, recipe, settings, say)  # type: ignore[arg-type]
        if started and (data.etl.on_exit == "stop" or (data.etl.on_exit == "auto" and embedded)):
            stack.callback(_stop_etl, client, name, access, say)
        tags.append(knows_tags(reader, where, manifest, name))
        compared = lifecycle.prove(reader, where, manifest, name, spec, len(found.get("tmap", {})), tags[-1])
        took = f"started in {time.monotonic() - begin:.1f} s" if started else "attached"
        say(f"ETL {name}: {took}; {compared} samples equal those made here")
        if not tags[-1]:
            say(
                f"ETL {name} is of an earlier version, which does not prove what its answers are answers to: of rows "
                "that are mixed up, audits find a share (docs/faults.md). data.etl.manage=auto starts one that does"
            )
        names.append(name)
    return _Bucket(access, uri, val_uri, train, val, found, direct, names[0], names[1], (tags[0], tags[1]))


def _stop_etl(client: Any, name: str, access: Access, say: Callable[[str], None]) -> None:
    """At the end of a run: an ETL that cannot be stopped then must not hide how the run ended."""
    try:
        lifecycle.stop(client, name)
    except (AISError, OSError) as error:  # also those of requests
        say(f"ETL {name} could not be stopped: {why(error, access)}")
    except ClusterError as error:
        say(f"ETL {name} could not be stopped: {error}")


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
            else f" Check its address; python -m aistore_data.upload FOLDER {shell_word(uri)} makes it."
        )
        missing = isinstance(error, AISError) and error.status_code not in (401, 403)
        raise ClusterError(
            f"{uri} cannot be read on {access.endpoint}: {why(error, access)}{hint if missing else ''}"
        ) from None


def _embedded(config: Config, stack: ExitStack) -> Access:
    from aistore_data.embedded import EmbeddedAIS

    if config.mode == "train":
        require_train(Path(config.data.embedded_root))
    root = stack.enter_context(scratch_folder())
    server = stack.enter_context(
        EmbeddedAIS(root, imagefolder=Path(config.data.embedded_root), layout=config.data.embedded_layout)
    )
    return Access(server.endpoint, server.token)


def _default_workers(embedded: bool) -> int:
    """On this machine the two ETLs share the CPUs with the trainer; a cluster's pods have cores of their own."""
    return max(1, cpu_count() // 2) if embedded else 4
