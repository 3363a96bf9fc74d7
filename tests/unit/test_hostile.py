"""Answers of a hostile server: however they come, no sample gets another one's pixels."""

import io
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from PIL import Image

from aistore_data.client.access import Access
from aistore_data.client.placement import Placement
from aistore_data.dataset import policy
from aistore_data.dataset.breaker import Breakers
from aistore_data.dataset.policy import Remote
from aistore_data.dataset.remote import RemoteDataset
from etl.sample import transform
from etl.spec import Key, Spec
from sources.manifest import Manifest, checksum_digest
from sources.samples import through_wire
from tests.support.certificates import Authority
from tests.support.hostile import BROKEN, HARMLESS, Hostile

SIZE = 32
PHOTOS = 48
BATCH = 24


def photos() -> dict[str, bytes]:
    """All of one size in pixels; the first ones have namesakes in other folders."""
    found = {}
    for number in range(PHOTOS):
        pixels = np.random.Generator(np.random.Philox(key=[number, 9])).integers(0, 256, (40, 40, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
        found[f"train/{'ab'[number % 2]}/{number // 2}.jpg"] = buffer.getvalue()
    return found


@dataclass(frozen=True)
class Way:
    """How samples come."""

    name: str
    chunked: bool = False
    wire: str = "raw"
    redirect: bool = False
    etl: bool = True
    tls: bool = False
    recipe: str = "train"


WAYS = (
    *(Way("length"), Way("chunked", chunked=True), Way("jpeg", wire="jpeg"), Way("jpeg-chunked", True, "jpeg")),
    *(Way("redirect", redirect=True), Way("redirect-chunked", True, redirect=True), Way("objects", etl=False)),
    *(Way("objects-redirect", redirect=True, etl=False), Way("val", chunked=True, recipe="val")),
    *(Way("tls", tls=True), Way("tls-chunked", True, tls=True), Way("tls-objects", etl=False, tls=True)),
)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ssl.SSLContext]]:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    pair = authority.sign("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    yield authority.root.certificate, context


@pytest.fixture
def environment(tls: Any, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setenv("AIS_CLIENT_CA", str(tls[0]))
    monkeypatch.setattr(policy, "RAW_TIMEOUT_S", 0.25)
    context: ssl.SSLContext = tls[1]
    return context


def run(
    way: Way, context: ssl.SSLContext, seed: int, share: float, answers: int, tags: bool = True, **options: Any
) -> tuple[int, int]:
    """(answers tried, wrong rows)."""
    content = photos()
    spec = Spec.train(SIZE) if way.recipe == "train" else Spec.val(SIZE)
    checksums = {name.encode(): checksum_digest(xxhash.xxh64_hexdigest(data)) for name, data in content.items()}
    entries = [(name.encode(), index % 2, len(data)) for index, (name, data) in enumerate(content.items())]
    manifest = Manifest.build(entries, ("a", "b"), checksums)
    expected: dict[tuple[int, int], Any] = {}
    ordered = {manifest.name(index): content[manifest.name(index)] for index in range(PHOTOS)}
    options = {"chunked": way.chunked, "redirect": way.redirect} | options
    with Hostile(ordered, seed, share, context if way.tls else None, **options) as server:
        endpoint = f"http{'s' * way.tls}://{server.hosts[0]}"
        node = {"public_net": {"direct_url": f"http{'s' * way.tls}://{server.hosts[1]}"}, "id_digest": "7"}
        remote = Remote(
            Access(endpoint, "secret"),
            f"ais://{Hostile.BUCKET}",
            manifest,
            Placement({"tmap": {"t": node}}, endpoint),
            Breakers(1),
            spec,
            seed,
            direct=not way.redirect,
            etl_name=f"hostile-{way.recipe}" if way.etl else "",
            wire=way.wire,
            deadline_s=0.2,
            audit_every=0,
            tags=tags,
        )
        dataset, wrong, batch = RemoteDataset(remote), 0, 0
        drawn = np.random.Generator(np.random.Philox(key=[seed, 1]))
        while server.answers < answers:
            keys = [(batch % 3, int(index)) for index in drawn.permutation(PHOTOS)[:BATCH]]
            rows = dataset.__getitems__(keys).images.numpy()
            for row, (epoch, index) in zip(rows, keys, strict=True):
                epoch = epoch if way.recipe == "train" else 0
                if (epoch, index) not in expected:
                    key = Key(seed, epoch, index) if way.recipe == "train" else None
                    pixels = transform(ordered[manifest.name(index)], spec, key)
                    expected[epoch, index] = through_wire(pixels, way.wire)
                wrong += not np.array_equal(row, expected[epoch, index])
            remote.breakers.close(0)  # go on asking the ETL
            batch += 1
        assert share == 0 or len(server.used) > 5 or "kinds" in options
        return server.answers, wrong


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_no_answer_gets_into_another_row(way: Way, environment: ssl.SSLContext, request: pytest.FixtureRequest) -> None:
    seed = request.config.option.seed
    answers, wrong = run(way, environment, seed, 0.15, 120)
    assert wrong == 0 and answers >= 120


@pytest.mark.parametrize("way", [way for way in WAYS if way.etl], ids=lambda way: way.name)
def test_a_namesake_in_another_folder_is_another_sample(
    way: Way, environment: ssl.SSLContext, request: pytest.FixtureRequest
) -> None:
    answers, wrong = run(way, environment, request.config.option.seed, 0.5, 60, kinds=("namesake",))
    assert wrong == 0 and answers >= 60


SHOWS = ("surplus", "short", "long", "other-size", *BROKEN, *HARMLESS)
"""What an answer shows by itself, without a proof; beside it there is no other answer of the same length."""


@pytest.mark.parametrize("way", [way for way in WAYS if way.wire == "raw" and way.etl], ids=lambda way: way.name)
@pytest.mark.parametrize("answers", [60, pytest.param(3000, marks=pytest.mark.long)])
def test_an_etl_without_proofs(
    way: Way, environment: ssl.SSLContext, request: pytest.FixtureRequest, answers: int
) -> None:
    tried, wrong = run(way, environment, request.config.option.seed, 0.1, answers, tags=False, kinds=SHOWS)
    print(f"{way.name}: {tried:,} answers, {wrong} wrong rows")
    assert wrong == 0 and tried >= answers


@pytest.mark.long
def test_no_answer_of_a_hundred_thousand_gets_into_another_row(
    environment: ssl.SSLContext, request: pytest.FixtureRequest
) -> None:
    tried, wrong = 0, 0
    for way in WAYS:
        found = run(way, environment, request.config.option.seed, 0.06, 100_000 // len(WAYS) + 1)
        print(f"{way.name}: {found[0]:,} answers, {found[1]} wrong rows")
        tried, wrong = tried + found[0], wrong + found[1]
    print(f"{tried:,} answers tried, {wrong} wrong rows")
    assert wrong == 0 and tried >= 100_000
