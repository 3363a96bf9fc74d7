"""Samples from an AIStore bucket: made by the cluster's ETLs, or here from the objects' bytes."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from aistore_data.bucket.shards import ByEtl
from aistore_data.client.access import Access
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.placement import Placement
from aistore_data.client.sdk import connect, explain, make_client
from aistore_data.dataset.breaker import Breakers
from aistore_data.dataset.bucket_splits import BucketOptions, splits_of
from aistore_data.dataset.policy import Remote
from aistore_data.dataset.remote import RemoteDataset, serves_directly
from aistore_data.etls import lifecycle
from aistore_data.etls.asking import former_version, knows_policy, knows_shards, knows_tags, prove
from aistore_data.etls.monitor import EtlMonitor
from aistore_data.etls.shard_index import EtlIndex
from etl.code import code_sha256
from sources.cpus import cpu_count
from sources.disk import scratch_folder
from sources.errors import ClusterError
from sources.manifest import Manifest
from sources.misplaced import require_split
from sources.notices import Notices
from sources.shards.manifest import ShardManifest, of_bytes
from sources.shared_memory import share
from sources.source import Specs


class _Image(NamedTuple):
    """A manifest of shards as it travels to other ranks: in this process it is mapped memory."""

    content: bytes
    classes: tuple[str, ...]


class _Split(NamedTuple):
    """What rank 0 found and started of train or val, for all ranks."""

    uri: str
    manifest: Manifest
    etl_name: str = ""
    """Without one samples are made here."""
    tags: bool = False
    """Whether the ETL proves its answers."""


class _Bucket(NamedTuple):
    """What the training and the validation split share."""

    access: Access
    cluster_map: dict[str, Any]
    direct: bool
    splits: tuple[_Split, _Split]
    in_parts: frozenset[str]
    images: tuple[_Image, _Image] | None = None
    """Images of shards, which replace the manifests of the splits."""

    def manifests(self) -> list[Manifest]:
        """Return the manifests of the splits, in memory that loader workers share."""
        if self.images:
            return [of_bytes(image.content, Path(), image.classes) for image in self.images]
        return [share(split.manifest) for split in self.splits]

    def packed(self) -> "_Bucket":
        """The same, to be sent to other processes."""
        found = [split.manifest for split in self.splits]
        if not all(isinstance(manifest, ShardManifest) for manifest in found):
            return self
        images = _Image(found[0].to_bytes(), found[0].classes), _Image(found[1].to_bytes(), found[1].classes)
        empty = Manifest.build([], ())
        return self._replace(
            splits=(self.splits[0]._replace(manifest=empty), self.splits[1]._replace(manifest=empty)), images=images
        )


@contextmanager
def open_bucket(
    options: BucketOptions,
    specs: tuple[Specs, Specs],
    run_once: Callable[[Callable[[], Any]], Any],
    is_main: bool,
    say: Callable[[str], None],
    notices: Notices,
) -> Iterator[tuple[RemoteDataset, RemoteDataset, dict[str, Any]]]:
    """(train dataset, val dataset, description) with the specs of the two.

    The process that ``is_main`` starts what is missing, repairs it, and stops it: ``run_once`` calls a function there,
    and gives its result to all. ``notices`` takes what loader workers tell. Raises ClusterError for a cluster, bucket
    or ETL that cannot be used.
    """
    with ExitStack() as stack:
        bucket: _Bucket = run_once(lambda: _prepare(options, specs, stack, say).packed())
        placement = Placement(bucket.cluster_map, bucket.access.endpoint)
        train, val = (
            Remote(
                bucket.access,
                split.uri,
                manifest,
                placement,
                Breakers(len(placement.hosts)),
                spec,
                options.seed,
                direct=bucket.direct,
                etl_name=split.etl_name,
                local_share=options.local_share if options.transform == "hybrid" else 0.0,
                wire=options.wire,
                deadline_s=options.deadline_s,
                adaptive_deadline=options.adaptive_deadline,
                patience_s=options.patience_s,
                audit_every=options.audit_every,
                replace=options.replace and recipe == "train",
                tags=split.tags,
                notices=notices,
                in_parts=bucket.in_parts,
            )
            for split, manifest, spec, recipe in zip(
                bucket.splits, bucket.manifests(), specs, lifecycle.RECIPES, strict=True
            )
        )
        mends = is_main and options.etl.manage == "auto"
        repair = partial(lifecycle.repair, make_client(bucket.access))
        watched = [
            (remote, partial(repair, remote.etl_name, recipe, options.etl, say) if mends else None)
            for remote, recipe in zip((train, val), lifecycle.RECIPES, strict=True)
            if remote.etl_name
        ]
        if watched:
            stack.enter_context(EtlMonitor(watched, say))
        description: dict[str, Any] = {
            "source": train.uri if train.uri == val.uri else [train.uri, val.uri],
            "transform": options.transform,
            "etl": [train.etl_name, val.etl_name],
            "answers_proved": [train.tags, val.tags],
        }
        if watched:
            description["code"] = code_sha256()
        yield RemoteDataset(train), RemoteDataset(val), description


def _prepare(
    options: BucketOptions, specs: tuple[Specs, Specs], stack: ExitStack, say: Callable[[str], None]
) -> _Bucket:
    """Everything that is done once: the embedded server, the manifests, the ETLs and the proof of their pixels."""
    if options.embedded:
        from aistore_data.embedded import EmbeddedAIS

        if options.train:
            require_split(options.embedded_root, "train")
        root = stack.enter_context(scratch_folder())
        server = EmbeddedAIS(root, imagefolder=options.embedded_root, layout=options.embedded_layout)
        stack.enter_context(server)
        access = Access(server.endpoint, server.token)
    else:
        otherwise = f", or use {options.endpoint_option}=embedded, which needs no cluster"
        access = Access.from_environment(options.endpoint, options.endpoint_option, otherwise)
    found = connect(access)
    nodes = len(found.get("tmap", {}))
    client = make_client(access)
    reader = HttpReader(access)
    uri, val_uri = options.bucket, options.val_bucket or options.bucket
    where = uri if uri == val_uri else f"{uri} and {val_uri}"

    running: dict[str, tuple[str, str]] = {}

    def started(recipe: lifecycle.Recipe) -> tuple[str, str]:
        """The name of an ETL that runs, and how it came to; one that died when it had indexed shards begins again."""
        begin, (name, how) = time.monotonic(), running.get(recipe, (options.etl_names[recipe == "val"], ""))
        name, is_new = lifecycle.ensure(client, name, recipe, options.etl, _say_but_not_again(say, bool(how)))
        if is_new and (options.on_exit == "stop" or (options.on_exit == "auto" and options.embedded)):
            stack.callback(_stop_etl, client, name, access, say)
        how = f"started in {time.monotonic() - begin:.1f} s" if is_new else how or "attached"
        running[recipe] = name, how
        return name, how

    def indexing(uri: str, recipe: lifecycle.Recipe) -> ByEtl:
        return EtlIndex(access, uri, nodes, options.label_field, lambda: started(recipe)[0], say).rows

    train, val, in_parts = splits_of(options, access, say, None if options.transform == "client" else indexing)
    splits = (_Split(uri, train), _Split(val_uri, val))
    direct = serves_directly(access, *splits[not len(train)][:2], Placement(found, access.endpoint))
    what = "samples in tar shards" if options.layout == "shards" else "objects"
    say(f"{where}: {len(train):,} training and {len(val):,} validation {what}, {len(train.classes)} classes")
    if options.transform == "client":
        return _Bucket(access, found, direct, splits, in_parts)

    def proved(number: int) -> _Split:
        split, recipe = splits[number], lifecycle.RECIPES[number]
        if not len(split.manifest):  # nobody asks for its samples
            return split
        (name, how), spec = started(recipe), specs[number].at(0)
        if options.layout == "shards" and not knows_shards(reader, *split[:2], name):
            say(
                f"ETL {name} runs the code of a former version, which does not know tar shards: this machine makes the "
                f"{recipe} samples. {_HOW_TO_START_ONE}"
            )
            return split
        if not knows_policy(reader, *split[:2], name, spec):
            say(f"{former_version(name, spec)}: this machine makes the training samples. {_HOW_TO_START_ONE}")
            return split
        tags = knows_tags(reader, *split[:2], name)
        compared = prove(reader, *split[:2], name, spec, nodes, tags, in_parts)
        say(f"ETL {name}: {how}; {compared} samples equal those made here")
        if not tags:
            say(
                f"ETL {name} is of an earlier version, which does not prove what its answers are answers to: of rows "
                "that are mixed up, audits find a share (docs/faults.md). data.etl.manage=auto starts one that does"
            )
        return split._replace(etl_name=name, tags=tags)

    return _Bucket(access, found, direct, (proved(0), proved(1)), in_parts)


_HOW_TO_START_ONE = (
    "data.etl.manage=auto starts an ETL of this version beside it; with data.etl.image, build the image anew from "
    "etl/Dockerfile"
)


def _say_but_not_again(say: Callable[[str], None], again: bool) -> Callable[[str], None]:
    """``say``, which does not tell again that an ETL runs."""
    return lambda line: None if again and line.endswith(lifecycle.RUNS) else say(line)


def _stop_etl(client: Any, name: str, access: Access, say: Callable[[str], None]) -> None:
    """At the end of a run: an ETL that cannot be stopped then must not hide how the run ended."""
    try:
        lifecycle.stop(client, name)
    except (ClusterError, OSError) as error:  # also those of requests
        said = explain(error, access) if isinstance(error, OSError) else error
        say(f"ETL {name} could not be stopped: {said}")


def default_workers(embedded: bool) -> int:
    """Processes of a pod: on this machine the two ETLs share the CPUs with the trainer, a cluster's have their own."""
    return max(1, cpu_count() // 2) if embedded else 4
