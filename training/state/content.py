"""Whether the files of a data set are still those of the run's beginning, without reading all of them.

A data set's hash is over labels and sizes, so that a folder, its copy and the bucket made from it are the same. What it
cannot see is told by two facts that are kept with each checkpoint:

- ``probe``: a hash of the contents of up to 64 samples of a split, spread evenly. It is the same for all copies, and
  always compared: a data set that was made anew (another quality, another source) differs in it.
- ``stamps``: a hash of the times of change of all files, or of the checksums of all objects. It is compared where the
  place is the same (the same folder, or the same bucket of the same endpoint), and finds every single file that was
  written to since, with the names of the newest.

They cannot find a photo that was replaced by one of equal size and got its former time of change, nor one that was
replaced in a copy elsewhere, unless the probe has it. A folder's files that were touched, and hold what they held,
count as changed: allow_changes=true goes on.
"""

import hashlib
import itertools
import os
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from sources.errors import ObjectError, UserError
from sources.folder import FolderReader
from sources.manifest import Manifest
from sources.samples import SampleDataset
from sources.shards.manifest import ShardManifest
from sources.shards.reader import ChangedError, read_member
from sources.source import Source
from training.config.schema import Config

_PROBED = 64
_NAMED = 5


def describe_content(config: Config, train: Source, val: Source) -> dict[str, Any]:
    """The facts of both splits, by their names; what cannot be known is left out."""
    return {name: _describe(config, split) for name, split in (("train", train), ("val", val))}


def changes_of_content(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, before, now) of each difference between two answers of ``describe_content``."""
    changes: list[tuple[str, Any, Any]] = []
    for split in ("train", "val"):
        then, today = before.get(split), now.get(split)
        if not isinstance(then, dict) or not isinstance(today, dict):
            continue
        if None not in (then.get("probe"), today.get("probe")) and then["probe"] != today["probe"]:
            changes.append((f"data set {split}, content of samples", then["probe"], today["probe"]))
        stamps = then.get("stamps"), today.get("stamps")
        if then.get("place") == today.get("place") and None not in stamps and stamps[0] != stamps[1]:
            known, newest = then.get("newest") or [], today.get("newest") or []
            named = [item[0] for item in newest if item not in known]
            what = f"changed since: {', '.join(named)}" if named else "changed since"
            changes.append((f"data set {split}, files in {today['place'][0]}", "as the run began", what))
    return changes


def _describe(config: Config, split: Source) -> dict[str, Any]:
    if isinstance(split, SampleDataset) and isinstance(split.manifest, ShardManifest):
        return _of_shards(split.manifest) | _probe(split.manifest, partial(_member, split.manifest))
    if isinstance(split, SampleDataset) and isinstance(split.reader, FolderReader):
        folder, manifest = Path(split.reader.root), split.manifest
        return _of_folder(folder, manifest) | _probe(manifest, lambda at: (folder / manifest.name(at)).read_bytes())
    if hasattr(split, "remote"):
        return _of_bucket(config, split.remote)
    return {}


def _of_folder(folder: Path, manifest: Manifest) -> dict[str, Any]:
    try:
        # There may be a million files, so nothing is done twice.
        above, names, offsets = os.fsencode(folder) + b"/", manifest.names.tobytes(), manifest.offsets.tolist()
        changes = (os.stat(above + names[start:end]).st_mtime_ns for start, end in itertools.pairwise(offsets))  # noqa: PTH116
        times = np.fromiter(changes, "<i8", len(manifest))
        place = [os.path.realpath(folder), folder.stat().st_ino]
    except OSError:  # the sample itself will say what is wrong with it
        return {}
    newest = [
        [f"{folder}/{manifest.name(index)}".encode(errors="replace").decode(), int(times[index])]
        for index in np.argsort(-times, kind="stable")[:_NAMED]
    ]
    return {"place": place, "stamps": hashlib.sha256(times.tobytes()).hexdigest(), "newest": newest}


def _of_shards(manifest: ShardManifest) -> dict[str, Any]:
    """The times of change are those of the shards, as they were indexed."""
    shards = manifest.used()
    times = np.array([shard.stamp for shard in shards], "<i8")
    newest = [
        [f"{manifest.folder}/{shards[at].name}".encode(errors="replace").decode(), int(times[at])]
        for at in np.argsort(-times, kind="stable")[:_NAMED]
    ]
    place = [os.path.realpath(manifest.folder), "shards"]
    return {"place": place, "stamps": hashlib.sha256(times.tobytes()).hexdigest(), "newest": newest}


def _member(manifest: ShardManifest, index: int) -> bytes:
    place = manifest.place(index)
    with open(place.path, "rb", buffering=0) as file:
        return read_member(file.fileno(), place)


def _of_bucket(config: Config, remote: Any) -> dict[str, Any]:
    from aistore_data.bucket.photos import read_photo  # here, so that a folder needs no SDK
    from aistore_data.client.http_reader import HttpReader

    manifest, reader = remote.manifest, HttpReader(remote.access)
    embedded = config.data.endpoint == "embedded"
    server = os.path.realpath(config.data.embedded_root) if embedded else remote.access.endpoint
    facts: dict[str, Any] = {}
    if isinstance(manifest, ShardManifest):
        marks = np.array([shard.stamp for shard in manifest.used()], "<u8")
        if bool((marks != 0).all()):
            facts = {"place": [remote.uri, server, "shards"], "stamps": hashlib.sha256(marks.tobytes()).hexdigest()}
    elif len(manifest) and bool((manifest.checksums != 0).all()):
        stamps = hashlib.sha256(manifest.checksums.astype("<u8").tobytes()).hexdigest()
        facts = {"place": [remote.uri, server], "stamps": stamps}
    return facts | _probe(manifest, lambda index: read_photo(reader, remote.uri, manifest, index))


def _probe(manifest: Manifest, read: Callable[[int], bytes]) -> dict[str, Any]:
    digest, count = hashlib.sha256(b"probe 1\n"), min(_PROBED, len(manifest))
    try:
        for number in range(count):
            digest.update(hashlib.sha256(read((2 * number + 1) * len(manifest) // (2 * count))).digest())
    except (
        OSError,
        UserError,
        ObjectError,
        HTTPException,
        ChangedError,
    ):  # what cannot be read is told when it is needed
        return {}
    return {"probe": digest.hexdigest()}
