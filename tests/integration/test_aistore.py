"""The main job from a bucket: the same samples and the same weights as from the folder, and a sentence for what is wrong."""

import json
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import numpy as np
import pytest
from aistore import Client
from aistore.sdk.batch.batch import Batch
from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer
from torch.utils.data import DataLoader

from aistore_data import ImageDataset
from aistore_data.bucket import store as store_module
from aistore_data.bucket.listing import read_manifest
from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access, object_path
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.sdk import make_client
from aistore_data.embedded import EmbeddedAIS
from aistore_data.etls import asking, lifecycle
from etl.request import BadRequest, Request, encode
from etl.sample import transform
from etl.server import TrainETL
from etl.spec import Key, Spec
from sources import progress_bar
from sources.errors import ClusterError
from sources.folder import scan_folder
from tests.conftest import PROJECT, TINY, Result, write_image

Train = Callable[..., Result]
STAGES = ["Running", "Initializing", "Aborted", "Unknown"]


@dataclass(frozen=True)
class Cluster:
    """An embedded server of this module's own."""

    access: Access
    client: Client

    def put(self, bucket: str, objects: dict[str, bytes]) -> str:
        self.client.bucket(bucket).create(exist_ok=True)
        for name, content in objects.items():
            self.client.bucket(bucket).object(name).get_writer().put_content(content)
        return f"ais://{bucket}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with EmbeddedAIS(tmp_path_factory.mktemp("ais")) as server:
        access = Access(server.endpoint, server.token)
        yield Cluster(access, make_client(access))


@pytest.fixture
def environment(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, as a user's environment names it."""
    monkeypatch.setenv("AIS_ENDPOINT", cluster.access.endpoint)
    monkeypatch.setenv("AIS_AUTHN_TOKEN", cluster.access.token)
    return cluster


@pytest.fixture
def upload(environment: Cluster) -> Callable[..., str]:
    def call(root: Path, bucket: str, *words: str) -> list[str]:
        command = [sys.executable, "-m", "aistore_data.upload", str(root), f"ais://{bucket}", *words]
        process = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
        assert process.returncode == 0, process.stderr
        return process.stdout.splitlines()[-2:]

    return call


def embedded(root: Path, *words: str) -> list[str]:
    return ["data=aistore", "data.endpoint=embedded", f"data.embedded_root={root}", *words]


def test_folder_client_and_etls_end_with_the_same_weights(train: Train, small_folder: Path) -> None:
    folder = train(f"data.root={small_folder}", *TINY, "run_dir=folder")
    runs = {
        "etl": train(*embedded(small_folder), *TINY, "run_dir=etl"),
        "pairs": train(*embedded(small_folder, "data.embedded_layout=pairs"), *TINY, "data.workers=2", "run_dir=pairs"),
        "client": train(*embedded(small_folder, "data.transform=client"), *TINY, "run_dir=client"),
    }
    for name, result in runs.items():
        assert result.code == 0, result.output
        assert result.summary()["state_sha256"] == folder.summary()["state_sha256"], name
        total = 72 + 2 * 15
        expected = {"local": total, "etl": 0} if name == "client" else {"local": 0, "etl": total}
        assert result.summary()["samples_by_source"] == expected
        assert (result.summary()["retries"], result.summary()["fallbacks"]) == (0, 0)
    assert "samples equal those made here" in runs["etl"].output
    described = json.loads((runs["pairs"].run_dir / "environment.json").read_text())["data"]
    local = json.loads((folder.run_dir / "environment.json").read_text())["data"]
    assert described["train"] == local["train"] and described["val"] == local["val"]
    recorded = (runs["etl"].run_dir / "config.yaml").read_text().lower()
    assert "token" not in recorded.replace('ais_token_secret: ""', "")


def test_jpeg_on_the_wire_is_the_same_everywhere(train: Train, small_folder: Path) -> None:
    folder = train(f"data.root={small_folder}", *TINY, "data.wire=jpeg", "train.epochs=1", "run_dir=folder")
    remote = train(*embedded(small_folder, "data.wire=jpeg"), *TINY, "train.epochs=1", "run_dir=etl")
    raw = train(f"data.root={small_folder}", *TINY, "train.epochs=1", "run_dir=raw")
    assert remote.summary()["state_sha256"] == folder.summary()["state_sha256"] != raw.summary()["state_sha256"]


def test_real_photos_from_the_folder_and_through_the_etls(train: Train, hymenoptera: Path) -> None:
    size = [
        "data.image_size=64",
        "data.val_image_size=64",
        "data.val_resize=72",
        "train.batch_size=32",
        "train.epochs=1",
        "data.workers=1",
        "threads=1",
    ]
    results = [
        train(*source, *size, "optim.lr=0.01", f"run_dir=run{number}")
        for number, source in enumerate(
            [
                [f"data.root={hymenoptera}"],
                embedded(hymenoptera),
                embedded(hymenoptera, "data.embedded_layout=pairs"),
            ]
        )
    ]
    assert [result.code for result in results] == [0, 0, 0], results[-1].output
    assert len({result.summary()["state_sha256"] for result in results}) == 1
    assert results[1].summary()["samples_by_source"] == {"local": 0, "etl": 7 * 32 + 153}


def test_a_thousand_photos_through_the_etl_equal_those_made_here(
    cluster: Cluster, photos: list[Path], seed: int, request: pytest.FixtureRequest
) -> None:
    step = 1 if request.config.getoption("--all") else 5
    uri = cluster.put("photos", {path.name: path.read_bytes() for path in photos})
    settings = lifecycle.EtlSettings(num_workers=1)
    name, _ = lifecycle.ensure(cluster.client, "imagenet-train", "train", settings, print)
    reader, spec = HttpReader(cluster.access), Spec.train(224)
    row = bytearray(224 * 224 * 3)
    for index, path in list(enumerate(photos))[seed % step :: step]:
        key = Key(3, 1, index)
        url = object_path(uri, path.name, etl_name=name, etl_args=encode(Request(spec, key)))
        reader.get_into(url, memoryview(row))
        assert bytes(row) == transform(path.read_bytes(), spec, key).tobytes(), path.name


@pytest.mark.parametrize("layout", ["folders", "pairs"])
def test_an_uploaded_folder_has_the_folders_manifest(
    upload: Callable[..., str], environment: Cluster, small_folder: Path, layout: str
) -> None:
    name = f"uploaded-{layout}"
    objects = 51 + 2 + (51 if layout == "pairs" else 0)
    for sent, kept in ((objects, 0), (0, objects)):
        assert upload(small_folder, name, "--layout", layout) == [
            f"ais://{name}: {sent} objects uploaded, {kept} were there already",
            f"train on it: python train.py data=aistore data.bucket=ais://{name}",
        ]
    bucket = environment.client.bucket(name)
    for prefix, local in zip(("train/", "val/"), scan_folder(small_folder), strict=True):
        remote = read_manifest(AisStore(f"ais://{name}", environment.access), prefix)
        assert remote.sha256() == local.sha256()
        assert remote.classes == local.classes
        assert remote.labels.tolist() == local.labels.tolist()
    if layout == "pairs":
        assert bucket.object("train/0000012.cls").get_reader().read_all() == b"1"


def test_a_bucket_that_may_not_be_written_to(
    upload: Callable[..., str], small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small_folder, tmp_path / "served")
    write_image(small_folder / "train" / "cat" / "0.jpg", 99)
    with EmbeddedAIS(tmp_path / "root", imagefolder=tmp_path / "served") as server:
        monkeypatch.setenv("AIS_ENDPOINT", server.endpoint)
        monkeypatch.setenv("AIS_AUTHN_TOKEN", server.token)
        command = [sys.executable, "-m", "aistore_data.upload", str(small_folder), "ais://imagenet", "--replace"]
        process = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert "error: the upload to ais://imagenet failed" in process.stderr


def test_a_manifest_is_stored_and_a_stale_one_is_not_used(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {f"train/{number:07d}.{kind}": content for number in range(3) for kind, content in
             (("jpg", b"x" * (5 + number)), ("cls", str(number).encode()))}  # fmt: skip
    uri = cluster.put("stored", names)
    store, reader = AisStore(uri, cluster.access), HttpReader(cluster.access)
    fetched: list[str] = []
    get = Batch.get
    monkeypatch.setattr(
        Batch, "get", lambda self: (fetched.extend(item.obj_name for item in self.requests_list), get(self))[1]
    )
    said: list[str] = []
    first = read_manifest(store, "train/", say=said.append)
    assert fetched == [f"train/{number:07d}.cls" for number in range(3)]
    fetched.clear()
    again = read_manifest(store, "train/", say=said.append)
    assert not fetched and not said
    assert again.sha256() == first.sha256() and [again.name(i) for i in range(3)] == [first.name(i) for i in range(3)]
    assert again.classes == first.classes
    cluster.put("stored", {"train/0000003.jpg": b"y", "train/0000003.cls": b"1"})
    assert read_manifest(store, "train/", say=said.append).labels.tolist() == [0, 1, 2, 1]
    cluster.put("stored", {"train/0000003.cls": b"0"})  # of the same size
    assert read_manifest(store, "train/", say=said.append).labels.tolist() == [0, 1, 2, 0]
    assert said == [
        f"{uri}/train/ had {what} since its manifest was made: it is made anew"
        for what in (
            "1 objects added (the first: train/0000003.jpg)",
            "objects or labels replaced by others of the same size",
        )
    ]
    path = object_path(uri, ".imagenet-ais/train/manifest.npz")
    cluster.put("stored", {".imagenet-ais/train/manifest.npz": reader.get(path)[:-9]})
    assert read_manifest(store, "train/").labels.tolist() == [0, 1, 2, 0]


class Unfollowed(urllib.request.HTTPRedirectHandler):
    """The client follows redirects itself."""

    def redirect_request(self, *_: object) -> None:
        """None: they are errors, and so they are passed on."""


class ReadOnly(BaseHTTPRequestHandler):
    """What stands before a cluster whose buckets may be read and not written to: it forwards GET and HEAD alone."""

    protocol_version = "HTTP/1.1"
    endpoint = ""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = urllib.request.Request(
            self.endpoint + self.path, body or None, dict(self.headers), method=self.command
        )
        try:
            answer = urllib.request.build_opener(Unfollowed).open(request, timeout=30)
        except urllib.error.HTTPError as refusal:
            answer = refusal
        with answer:
            self._answer(answer.status, answer.read(), answer.headers)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.asked.append(f"PUT {self.path}")
        self.close_connection = True  # the body is not read
        self._answer(403, b'{"status":403,"message":"access denied: the bucket is read-only"}', {})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def log_message(self, format: str, *values: object) -> None:
        """Nothing."""


@pytest.fixture
def read_only(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    """The cluster, read-only, with a cache of this test's own; ``ReadOnly.asked`` lists the requests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ReadOnly, "endpoint", cluster.access.endpoint)
    monkeypatch.setattr(ReadOnly, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), ReadOnly) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        access = Access(f"http://127.0.0.1:{server.server_port}", cluster.access.token)
        yield Cluster(access, make_client(access))
        server.shutdown()


def asked(part: str) -> int:
    """How many requests since the last call named ``part``."""
    count = sum(part in request for request in ReadOnly.asked)
    ReadOnly.asked.clear()
    return count


def test_the_manifest_of_a_read_only_bucket_is_cached_here(
    cluster: Cluster, read_only: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {f"train/{number:07d}.{kind}": content for number in range(3) for kind, content in
             (("jpg", b"x" * (5 + number)), ("cls", str(number).encode()))}  # fmt: skip
    uri = cluster.put("closed", names)
    store = AisStore(uri, read_only.access)

    def labels() -> list[int]:
        return read_manifest(store, "train/").labels.tolist()

    assert labels() == [0, 1, 2]
    assert any(request.startswith("PUT ") for request in ReadOnly.asked) and asked("/ml/moss/") == 1
    assert labels() == [0, 1, 2] and asked("/ml/moss/") == 0
    monkeypatch.setenv("AIS_AUTHN_TOKEN", read_only.access.token)
    assert (
        ImageDataset(read_only.access.endpoint, uri).manifest.labels.tolist() == [0, 1, 2] and asked("/ml/moss/") == 0
    )

    cluster.put("closed", {"train/0000001.cls": b"2"})  # of the same size
    assert labels() == [0, 2, 2] and asked("/ml/moss/") == 1
    assert labels() == [0, 2, 2] and asked("/ml/moss/") == 0

    (cached,) = (tmp_path / "cache" / "imagenet-ais").iterdir()
    for content in (cached.read_bytes()[:-9], cached.read_bytes()[:64], b"", b"what is this"):
        cached.write_bytes(content)
        assert labels() == [0, 2, 2] and asked("/ml/moss/") == 1
        assert labels() == [0, 2, 2] and asked("/ml/moss/") == 0

    cached.unlink()
    cached.mkdir()
    for _ in range(2):
        with pytest.warns(UserWarning, match=str(cached)):
            assert labels() == [0, 2, 2] and asked("/ml/moss/") == 1


def test_the_trainer_caches_the_manifests_of_a_read_only_bucket(
    train: Train, upload: Callable[..., str], read_only: Cluster, small_folder: Path
) -> None:
    upload(small_folder, "closed-trained", "--layout", "pairs")
    words = ["data=aistore", f"data.endpoint={read_only.access.endpoint}", "data.bucket=ais://closed-trained"]
    words += ["data.transform=client", *TINY, "train.epochs=1"]
    first = train(*words, "run_dir=first")
    assert first.code == 0, first.output
    assert asked("/ml/moss/") == 2
    second = train(*words, "run_dir=second")
    assert second.code == 0, second.output
    assert asked("/ml/moss/") == 0
    assert first.summary()["state_sha256"] == second.summary()["state_sha256"]


def test_building_a_manifest_says_how_far_it_is(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {f"train/{number:07d}.{kind}": content for number in range(70) for kind, content in
             (("jpg", b"x"), ("cls", b"0"))}  # fmt: skip
    uri = cluster.put("slow", names)
    store = AisStore(uri, cluster.access)
    monkeypatch.setattr(store_module, "_BATCH", 32)
    monkeypatch.setattr(progress_bar, "SILENT_S", 0)
    monkeypatch.setattr(progress_bar, "FIRST_S", 0)
    monkeypatch.setattr(progress_bar, "PLAIN_S", 0)
    read_manifest(store, "train/")
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("140 objects of ais://slow/train/ listed, ") for line in lines)
    labels = [line.partition(" labels")[0] for line in lines if " labels of ais://slow/train/ read, " in line]
    assert labels == ["32 of 70", "64 of 70", "70 of 70"]
    read_manifest(store, "train/")
    assert "labels" not in capsys.readouterr().err


def test_ones_own_loop(environment: Cluster, upload: Callable[..., str], small_folder: Path) -> None:
    upload(small_folder, "own")
    lifecycle.ensure(environment.client, "imagenet-train", "train", lifecycle.EtlSettings(num_workers=1), print)
    remote = ImageDataset(
        environment.access.endpoint, "ais://own", etl_name="imagenet-train", spec=Spec.train(48), seed=4
    )
    local = ImageDataset(environment.access.endpoint, "ais://own", spec=Spec.train(48), seed=4)
    assert len(remote) == 36 and remote.classes == ("cat", "dog", "eel")
    images = {}
    for epoch in (0, 1):
        for dataset in (remote, local):
            dataset.set_epoch(epoch)
        loaders = [DataLoader(remote, 9, num_workers=2, multiprocessing_context="forkserver"), DataLoader(local, 9)]
        for (ours, labels), (theirs, their_labels) in zip(*loaders, strict=True):
            assert ours.shape == (9, 3, 48, 48) and ours.equal(theirs) and labels.equal(their_labels)
        images[epoch] = theirs
    assert not images[0].equal(images[1])


def test_the_documented_loop_runs(
    environment: Cluster, upload: Callable[..., str], small_folder: Path, tmp_path: Path
) -> None:
    text = (PROJECT / "docs" / "own-loop.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    assert "ImageDataset(" in code
    upload(small_folder, "imagenet")
    lifecycle.ensure(environment.client, "imagenet-train", "train", lifecycle.EtlSettings(num_workers=1), print)
    (tmp_path / "loop.py").write_text("if __name__ == '__main__':\n    " + code.replace("\n", "\n    "))
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(PROJECT)!r}); exec(open('loop.py').read())"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert "torch.Size([32, 3, 224, 224])" in process.stdout


def test_names_that_an_etl_would_misread_are_made_here(train: Train, small_folder: Path) -> None:
    for number, name in enumerate(["what?.jpg", "no#1.jpg", "100%.jpg", "a%41+ü b.jpg"]):
        write_image(small_folder / "val" / "cat" / name, number)
    folder = train(f"data.root={small_folder}", *TINY, "train.epochs=1", "run_dir=folder")
    remote = train(*embedded(small_folder), *TINY, "train.epochs=1", "run_dir=etl")
    assert remote.code == 0, remote.output
    assert remote.summary()["samples_by_source"] == {"local": 3, "etl": 36 + 16}
    for name in ("state_sha256", "acc1", "loss"):
        assert remote.summary()[name] == folder.summary()[name]


def error(result: Result, code: int = 1) -> str:
    assert result.code == code, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in result.output, result.output
    return lines[0]


def test_a_corrupt_object_is_named(train: Train, small_folder: Path) -> None:
    (small_folder / "train" / "dog" / "3.jpg").write_text("no photo")
    message = error(train(*embedded(small_folder), *TINY))
    assert "ais://imagenet/train/dog/3.jpg is not an image: 8 bytes" in message


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ({"other/a.jpg": b"x"}, "holds no images"),
        ({"train/a.jpg": b"x"}, "has no label: it lies in no class folder"),
        ({"train/0.jpg": b"x", "train/1.jpg": b"x", "train/0.cls": b"0"}, "train/1.cls is missing"),
        ({"train/0.jpg": b"x", "train/0.cls": b"cat"}, "holds 'cat', not a class number"),
        (
            {"train/0.jpg": b"x", "train/0.cls": b"7", ".imagenet-ais/train/classes.json": b'["a"]'},
            "not a class number from 0 to 0",
        ),
        ({"train/a/0.jpg": b"x", "val/b/0.jpg": b"x"}, "is of the class 'b', which the training split does not have"),
    ],
    ids=["empty", "no-label", "missing-cls", "no-number", "outside", "unknown-class"],
)
def test_a_bucket_that_does_not_fit(
    train: Train, environment: Cluster, objects: dict[str, bytes], expected: str, request: pytest.FixtureRequest
) -> None:
    uri = environment.put(f"bad-{request.node.callspec.id}", objects)
    assert expected in error(train("data=aistore", f"data.bucket={uri}", *TINY))


def test_clusters_that_cannot_be_used(train: Train, environment: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = error(train("data=aistore", "data.bucket=ais://nowhere", *TINY))
    assert "ais://nowhere cannot be read" in missing and "aistore_data.upload" in missing
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nothing = error(train("data=aistore", f"data.endpoint=http://127.0.0.1:{port}", *TINY))
    assert f"no AIStore answers at http://127.0.0.1:{port}" in nothing
    monkeypatch.setenv("AIS_AUTHN_TOKEN", "wrong")
    assert "refuses the token" in error(train("data=aistore", *TINY))
    monkeypatch.delenv("AIS_AUTHN_TOKEN")
    assert "refuses the token" in error(train("data=aistore", *TINY))
    monkeypatch.delenv("AIS_ENDPOINT")
    assert "data.endpoint is not set" in error(train("data=aistore", *TINY))
    assert "data.embedded_root is not set" in configuration_error("data=aistore", "data.endpoint=embedded")


def configuration_error(*overrides: str) -> str:
    from tests.unit.test_command_line import sentence

    return sentence(*overrides)


class SomebodysETL(FastAPIServer):
    """Another transform under our name."""

    def transform(self, data: bytes, path: str, etl_args: str) -> bytes:
        return b"mine"


def test_an_etl_of_the_same_name_with_other_code_is_left_alone(
    train: Train, environment: Cluster, upload: Callable[..., str], small_folder: Path
) -> None:
    upload(small_folder, "names")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    client = environment.client
    client.etl("somebodys-train").init_class(NUM_WORKERS="1")(SomebodysETL)
    words = ["data=aistore", "data.bucket=ais://names", *TINY, "train.epochs=1", "data.etl.train_name=somebodys-train"]
    result = train(*words, "data.etl.num_workers=1", "data.etl.val_name=names-val", "data.etl.on_exit=stop")
    assert result.code == 0, result.output
    assert "ETL somebodys-train runs other code and is left alone; this run uses somebodys-train-" in result.output
    left = {info.id for info in client.cluster().list_etls(STAGES)}
    assert "somebodys-train" in left and not any(name.startswith(("somebodys-train-", "names-")) for name in left)
    # With manage=reuse nothing is started, and other pixels are an error.
    reused = train(*words, "data.etl.manage=reuse", "run_dir=reused")
    assert "ETL somebodys-train does not answer for" in error(reused)
    lifecycle.stop(client, "somebodys-train")


class FormerETL(TrainETL):
    """That of a version without policies."""

    def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
        if '"augment"' in etl_args:
            raise BadRequest("unknown field 'augment': there are v, seed, epoch, index")
        return super().transform(data, path, etl_args)


def test_an_etl_of_a_former_version_makes_plain_samples_alone(
    train: Train,
    environment: Cluster,
    upload: Callable[..., str],
    small_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload(small_folder, "former")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    settings, client = lifecycle.EtlSettings(num_workers=1), environment.client
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "TrainETL", FormerETL)
        lifecycle._init(client, "former-train", "train", "f" * 64, settings, print)
    words = ["data=aistore", "data.bucket=ais://former", *TINY, "train.epochs=1", "data.etl.train_name=former-train"]
    words += ["data.etl.val_name=former-val", "data.etl.num_workers=1", "data.etl.on_exit=stop"]
    policy = ["data.augment=ta_wide", "data.augment_interpolation=bilinear"]
    folder = train(f"data.root={small_folder}", *TINY, "train.epochs=1", *policy, "run_dir=folder")
    weights = folder.summary()["state_sha256"]
    # Where ETLs may be started, this run's own is: it makes the samples of the policy, as the folder does.
    beside = train(*words, *policy, "run_dir=beside")
    assert beside.code == 0, beside.output
    assert "ETL former-train runs other code and is left alone; this run uses former-train-" in beside.output
    assert "16 samples equal those made here" in beside.output
    assert beside.summary()["samples_by_source"] == {"local": 0, "etl": 51}
    assert beside.summary()["state_sha256"] == weights
    # Where they may not, plain samples come from it, and this machine makes the others.
    lifecycle.ensure(client, "former-val", "val", settings, print)
    reuse = [*words, "data.etl.manage=reuse"]
    plain = train(*reuse, "run_dir=plain")
    assert plain.code == 0 and plain.summary()["samples_by_source"] == {"local": 0, "etl": 51}, plain.output
    around = train(*reuse, *policy, "run_dir=around")
    assert around.code == 0, around.output
    assert (
        "ETL former-train runs the code of a former version, which does not know augment=ta_wide: this machine makes "
        "the training samples. data.etl.manage=auto starts an ETL of this version beside it"
    ) in around.output
    assert around.summary()["samples_by_source"] == {"local": 36, "etl": 15}
    assert around.summary()["state_sha256"] == weights
    with pytest.raises(ClusterError, match="does not know augment=3a and jitter=0.3. Start one of this version"):
        spec = Spec.train(32, augment="3a", jitter=0.3)
        ImageDataset(environment.access.endpoint, "ais://former", etl_name="former-train", spec=spec)
    for name in ("former-train", "former-val"):
        lifecycle.stop(client, name)


def test_an_etl_that_does_not_start_shows_why(train: Train, environment: Cluster, small_folder: Path) -> None:
    result = train(*embedded(small_folder, 'data.etl.dependencies=["numpy==0.0.1"]'), *TINY)
    message = result.output[result.output.index("error: ") :]
    assert result.code == 1 and "ETL imagenet-train did not start" in message and "numpy" in message


def test_two_starters_at_once_make_one_etl(cluster: Cluster) -> None:
    settings, said = lifecycle.EtlSettings(num_workers=1), []
    with ThreadPoolExecutor(2) as pool:
        starts = [
            pool.submit(lifecycle.ensure, cluster.client, "both-val", "val", settings, said.append) for _ in range(2)
        ]
        results = [start.result(timeout=60) for start in starts]
    assert {name for name, _ in results} == {"both-val"}, said
    assert sorted(started for _, started in results) == [False, True], said
    lifecycle.stop(cluster.client, "both-val")


def test_attaching_and_repairing(cluster: Cluster) -> None:
    settings = lifecycle.EtlSettings(num_workers=1)
    said: list[str] = []
    first = lifecycle.ensure(cluster.client, "repair-val", "val", settings, said.append)
    assert first == ("repair-val", True)
    assert lifecycle.ensure(cluster.client, "repair-val", "val", settings, said.append) == ("repair-val", False)
    assert "is running already" in said[-1]
    cluster.client.etl("repair-val").stop()
    name, _ = lifecycle.ensure(cluster.client, "repair-val", "val", settings, said.append)
    assert name.startswith("repair-val-") and "repair-val is stopped or broken and is left alone" in said[-1]
    for _ in range(2):  # nor can the cluster tell whose this one was, but its name says that it is ours
        cluster.client.etl(name).stop()
        assert lifecycle.ensure(cluster.client, "repair-val", "val", settings, said.append) == (name, True)
        assert said[-1] == f"ETL {name} is stopped or broken; starting it anew"
        stages = {info.id: info.stage for info in cluster.client.cluster().list_etls(STAGES)}
        assert (stages["repair-val"], stages[name]) == ("Aborted", "Running")
    for left in ("repair-val", name, name):
        lifecycle.stop(cluster.client, left)


def test_an_etl_that_did_not_start_leaves_nothing_in_the_way(cluster: Cluster) -> None:
    settings = lifecycle.EtlSettings(num_workers=1, dependencies=("numpy==0.0.1",))
    for _ in range(2):
        with pytest.raises(ClusterError, match=r"ETL later-val did not start: .*numpy==0\.0\.1 is wanted"):
            lifecycle.ensure(cluster.client, "later-val", "val", settings, print)
    settings = lifecycle.EtlSettings(num_workers=1)
    assert lifecycle.ensure(cluster.client, "later-val", "val", settings, print) == ("later-val", True)
    lifecycle.stop(cluster.client, "later-val")


def test_an_etl_that_makes_other_pixels_is_refused(cluster: Cluster, photos: list[Path], monkeypatch: Any) -> None:
    uri = cluster.put("prove", {f"train/a/{path.name}": path.read_bytes() for path in photos[:3]})
    manifest = read_manifest(AisStore(uri, cluster.access), "train/")
    name, _ = lifecycle.ensure(cluster.client, "imagenet-train", "train", lifecycle.EtlSettings(num_workers=1), print)
    assert asking.prove(HttpReader(cluster.access), uri, manifest, name, Spec.train(64), 1) == 2

    def off_by_one(data: bytes, spec: Spec, key: Key | None) -> np.ndarray:
        pixels = transform(data, spec, key)
        pixels[0, 0, 0] ^= 1
        return pixels

    monkeypatch.setattr(asking, "transform", off_by_one)
    with pytest.raises(ClusterError, match=r"makes other pixels of ais://prove/.*There: .*pillow.*Here: Pillow"):
        asking.prove(HttpReader(cluster.access), uri, manifest, name, Spec.train(64), 1)


def test_the_demos_data_are_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.make_demo_data", str(tmp_path / "demo"), "--train", "2", "--val", "1"]
    for expected in ("24 images in 8 classes", "exists already"):
        assert expected in subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    first = {path.name: path.read_bytes() for path in (tmp_path / "demo" / "train" / "striped_ring").iterdir()}
    shutil.rmtree(tmp_path / "demo")
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "demo" / "train" / "striped_ring").iterdir()}
