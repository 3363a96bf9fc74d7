"""What an ETL is asked for and what it answers, without a server."""

import io
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import cloudpickle
import numpy as np
import pytest
from PIL import Image

from aistore_data.client.access import object_path
from aistore_data.etls.asking import EtlPaths
from etl.__main__ import main
from etl.files import query_of
from etl.limits import Limits
from etl.request import (
    LABEL,
    PROOF_BYTES,
    BadRequest,
    Request,
    answer,
    encode,
    encode_index,
    label,
    parse,
    proof,
    proved,
    statement,
    takes_long,
)
from etl.sample import CorruptSample, transform
from etl.server import TrainETL
from etl.spec import RECIPES, Key, Spec
from tests.conftest import PROJECT

DATA = (Path(__file__).parent / "vectors" / "rgb420.jpg").read_bytes()
REQUESTS = [
    Request(Spec.train(), Key(0, 3, 17)),
    Request(Spec.train(64, (0.3, 0.9), (1.0, 1.0), "bicubic"), Key(5, 0, 1, 2)),
    Request(Spec.val()),
    Request(Spec.val(96, 96, "bicubic")),
    Request(Spec.val(300, 320), wire="jpeg", quality=95),
    Request(Spec.train(), Key(0, 3, 17), tag=17),
    Request(Spec.val(), wire="jpeg", tag=0),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=encode)
def test_a_request_survives_the_wire(request_: Request) -> None:
    text = encode(request_)
    assert " " not in text
    assert parse(text, request_.spec.recipe) == request_


def test_the_documented_request() -> None:
    text = '{"v":1,"seed":0,"epoch":3,"index":17,"size":224,"wire":"raw"}'
    assert encode(Request(Spec.train(), Key(0, 3, 17))) == text


def test_raw_is_the_sample_and_jpeg_a_picture_of_it() -> None:
    request = Request(Spec.train(96), Key(1, 2, 3))
    pixels = transform(DATA, request.spec, request.key)
    assert answer(DATA, request) == pixels.tobytes()
    picture = Image.open(io.BytesIO(answer(DATA, parse("", "train"))))
    assert (picture.format, picture.size) == ("JPEG", (224, 224))
    jpeg = np.asarray(Image.open(io.BytesIO(answer(DATA, Request(request.spec, request.key, "jpeg", 95)))))
    assert np.abs(jpeg.astype(int) - pixels).mean() < 4


@pytest.mark.parametrize("wire", ["raw", "jpeg"])
def test_a_tag_adds_a_proof_and_nothing_else(wire: str) -> None:
    etl_args = encode(Request(Spec.train(96), Key(1, 2, 3), wire))  # type: ignore[arg-type]
    plain = answer(DATA, parse(etl_args, "train"))
    server = TrainETL.__new__(TrainETL)  # without the SDK's, which wants a pod's environment
    server.limits = Limits.of_environment()
    assert server.transform(DATA, "b/o.jpg", etl_args) == plain
    tagged = f'{etl_args[:-1]},"tag":3}}'
    whole = server.transform(DATA, "b/o.jpg", tagged)
    assert whole[:-PROOF_BYTES] == plain and whole[-PROOF_BYTES:] == proof(statement("b/o.jpg", tagged), plain)
    others = [
        *(proved(plain, parse(args, "train"), "b/o.jpg", args) for args in (tagged.replace("3}", "4}"), f"{tagged} ")),
        *(proved(plain, parse(tagged, "train"), name, tagged) for name in ("b/p.jpg", "c/o.jpg", "b/a/o.jpg")),
        proved(plain[1:] + plain[:1], parse(tagged, "train"), "b/o.jpg", tagged),
    ]
    assert len({whole[-PROOF_BYTES:], *(other[-PROOF_BYTES:] for other in others)}) == 7


def statement_of(uri: str, name: str, etl_args: str) -> bytes | None:
    """What the client takes for proved, with other arguments than those that it sends."""
    _, stated = EtlPaths(uri, "etl", Spec.val(), 0, "raw", tags=True).ask(name, 0, 0)
    return stated and b"\0".join((stated.split(b"\0")[0], etl_args.encode(), b""))


def test_a_statement_is_the_same_over_all_transports() -> None:
    name = "train/a b/x%41 ü.jpg"
    paths = [f"bucket/{name}", unquote(f"/bucket/{name}"), quote(f"ais/@#/bucket/{name}", safe="")]
    paths += [f"{provider}/{unquote(name)}" for provider in ("ais/@#/bucket", "aws/@Bghort1l#team/bucket")]
    assert {statement(path, "{}") for path in paths} == {"bucket/train/a b/xA ü.jpg\0{}\0".encode()}
    assert {statement_of(uri, name, "{}") for uri in ("ais://bucket", "s3://bucket", "ais://#team/bucket")} == {
        statement(paths[0], "{}")
    }
    assert label(statement(paths[0], '{"tag":17}')) == b"17 bucket/train/a%20b/xA%20%C3%BC.jpg"
    assert label(statement(paths[0], "{}")) is None and LABEL.islower()
    assert label(b'a\0b\0{"tag":1}\0') == b"1 a%00b"


def test_a_bucket_with_a_providers_name_is_no_other_transport() -> None:
    """Of the two objects that one path may stand for, an ETL proves neither: a PUT for the first is refused."""
    assert statement_of("ais://ais", "@x%23y/b/o", "{}") != statement_of("ais://b", "o", "{}")
    assert statement("ais/@#/ais/@x%23y/b/o", "{}") == statement_of("ais://ais", "@x%23y/b/o", "{}")
    for path in ("ais/@x#y/b/o", "ais/@x%23y/b/o", "aws/@#/b/o"):
        with pytest.raises(BadRequest, match="another object's"):
            query_of({"method": "PUT", "path": f"/{path}", "query_string": b""})
        query_of({"method": "GET", "path": f"/{path}", "query_string": b""})
    for path in ("ais/@x/b/o", "ais/x@#/b/o", "aws2/@#/b/o"):
        query_of({"method": "PUT", "path": f"/{path}", "query_string": b""})
        assert statement(path, "{}") == f"{path}\0{{}}\0".encode()


@pytest.mark.parametrize("tag", ["-1", "9223372036854775808", '"1"', "true", "1.0"])
def test_a_tag_is_a_number(tag: str) -> None:
    with pytest.raises(BadRequest, match="tag must be"):
        parse(f'{{"tag":{tag}}}', "train")


def test_info_names_what_makes_the_pixels() -> None:
    info = json.loads(answer(b"", parse('{"wire":"info"}', "val")))
    assert {"sample", "code", "pillow", "libjpeg_turbo", "native", "workers", "python", "numpy"} <= set(info)


def test_an_index_is_asked_for_with_a_tag_and_is_of_a_file() -> None:
    for labels in ("cls", "json"):
        request = parse(encode_index(labels, 7), "train")
        assert (request.wire, request.labels, request.tag) == ("index", labels, 7)
        assert takes_long(encode_index(labels, 7)) and not takes_long(encode(Request(Spec.train(), Key(0, 0, 1))))
    assert parse("{}", "val").labels == "cls"
    with pytest.raises(BadRequest, match="wire=index is for the file of a tar shard"):
        answer(DATA, request)


@pytest.mark.parametrize(
    ("text", "recipe", "expected"),
    [
        ("{", "train", "not JSON"),
        ("[1]", "train", "must be a JSON object"),
        ('{"colour":1}', "train", "unknown field 'colour'"),
        ('{"epoch":"3"}', "train", "epoch must be of type int"),
        ('{"epoch":true}', "train", "epoch must be of type int"),
        ('{"wire":"raw","seed":0,"epoch":1}', "train", "wire=raw needs index"),
        ('{"wire":"raw"}', "val", "wire=raw needs size"),
        ('{"wire":"png"}', "val", "wire must be raw, jpeg, info or index"),
        ('{"v":2}', "val", "speaks version 1"),
        ('{"quality":0}', "val", "quality must be"),
        ('{"size":0}', "train", "size must be"),
        ('{"scale":[1]}', "train", "scale must be two numbers, low and high"),
        ('{"seed":-1}', "train", "Key.seed"),
        ('{"labels":"txt"}', "val", "labels must be cls or json, not 'txt'"),
        ('{"labels":1}', "val", "labels must be of type str"),
        ('{"at":7}', "train", "at must be of type list"),
        ('{"at":[512,1,0]}', "train", "at takes offset, bytes, header's checksum and CRC-32"),
        ('{"at":[511,1,0,0]}', "train", "at takes offset"),
        ('{"at":[512,-1,0,0]}', "val", "at takes offset"),
        ('{"at":[512,1,0,true]}', "val", "at takes offset"),
        ('{"at":[512,1,0,"0"]}', "val", "at takes offset"),
        ('{"at":[512,1,0,4611686018427387904]}', "val", "at takes offset"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, recipe: str, expected: str) -> None:
    with pytest.raises(BadRequest, match=expected):
        parse(text, recipe)  # type: ignore[arg-type]


def test_the_class_needs_no_file_of_this_project(tmp_path: Path) -> None:
    from etl.server import TrainETL, ship_by_value

    ship_by_value()
    (tmp_path / "class.pkl").write_bytes(cloudpickle.dumps(TrainETL))
    (tmp_path / "photo.jpg").write_bytes(DATA)
    code = """
import cloudpickle, sys
server = cloudpickle.load(open("class.pkl", "rb"))()
assert not any(name == "etl" or name.startswith("etl.") for name in sys.modules)
arguments = '{"v":1,"seed":0,"epoch":3,"index":17,"size":224,"wire":"raw"}'
sys.stdout.buffer.write(server.transform("photo.jpg", "", arguments))
"""
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"AIS_TARGET_URL": "http://127.0.0.1:1"}, capture_output=True
    )
    assert process.returncode == 0, process.stderr.decode()
    assert process.stdout == transform(DATA, Spec.train(), Key(0, 3, 17)).tobytes()


def test_the_command_line_makes_the_same(tmp_path: Path) -> None:
    def call(data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, "-m", "etl", *words], cwd=PROJECT, input=data, capture_output=True)

    arguments = '{"seed":0,"epoch":3,"index":17,"wire":"raw"}'
    made = call(DATA, "--recipe", "train", "--args", arguments)
    assert made.stdout == transform(DATA, Spec.train(), Key(0, 3, 17)).tobytes()
    assert Image.open(io.BytesIO(call(DATA, "--recipe", "val").stdout)).size == (224, 224)
    text = call(b"no photo", "--recipe", "val")
    assert text.returncode == 1 and b"error: standard input is not an image" in text.stderr
    assert call(DATA, "--args", "{").returncode == 2


@pytest.mark.parametrize("tags", [False, True])
@pytest.mark.parametrize("spec", [Spec.train(), Spec.val()])
def test_a_place_in_a_shard_is_part_of_the_request(spec: Spec, tags: bool) -> None:
    at, paths = (1024, 77, 4321, 99), EtlPaths("ais://b", "e-train", spec, 7, "raw", tags, in_shards=True)
    for view in (0, 3):
        key = Key(7, 5, 2, view) if spec.recipe == "train" else None
        text = encode(Request(spec, key, tag=2 if tags else None, at=at))
        assert parse(text, spec.recipe).at == at
        path, _ = paths.ask("t/x.tar", 5, 2, view, at)
        assert path == object_path("ais://b", "t/x.tar", etl_name="e-train", etl_args=text)


def test_a_policy_is_sent_where_there_is_one() -> None:
    """An ETL of a former version serves plain specs, and refuses a field that it does not know."""
    key = Key(0, 3, 17)
    plain = '{"v":1,"seed":0,"epoch":3,"index":17,"size":224,"wire":"raw"}'
    assert encode(Request(Spec.train(augment="none", augment_ops=3, augment_interpolation="bilinear"), key)) == plain
    spec = Spec.train(augment="ra", augment_ops=3, jitter=1)
    text = encode(Request(spec, key))
    assert text == plain.replace(',"wire"', ',"augment":"ra","augment_ops":3,"jitter":1.0,"wire"')
    assert parse(text, "train").spec == parse(text.replace("1.0", "1"), "train").spec == spec
    with pytest.raises(BadRequest, match="augment is of training samples alone: a validation sample has no policy"):
        parse('{"size":224,"augment":"ra"}', "val")
    with pytest.raises(
        BadRequest, match="augment must be one of none, ta_wide, ra, aa, 3a, ra_timm, not 'autoaugment'"
    ):
        parse('{"augment":"autoaugment"}', "train")
    with pytest.raises(BadRequest, match="augment_magnitude must be a whole number from 0 to 30, not 31"):
        parse('{"augment":"ra","augment_magnitude":31}', "train")


def test_a_policy_at_the_command_line(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*words: str) -> tuple[int, bytes, bytes]:
        monkeypatch.setattr(sys, "argv", ["etl", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(DATA)))
        code = main()
        sys.stdout.flush()
        return (code, *capfdbinary.readouterr())

    arguments = '{"seed":0,"epoch":3,"index":17,"wire":"raw"}'
    code, made, _ = call("--args", arguments, "--augment", "ra", "--augment-ops", "3", "--jitter", "0.4")
    spec = Spec.train(augment="ra", augment_ops=3, jitter=0.4)
    assert (code, made) == (0, transform(DATA, spec, Key(0, 3, 17)).tobytes())
    for words, message in [
        (("--augment", "trivial"), b"error: augment must be one of none, ta_wide"),
        (
            ("--augment", "ra", "--augment-magnitude", "99"),
            b"error: augment_magnitude must be a whole number from 0 to",
        ),
        (("--recipe", "val", "--augment", "ra"), b"error: augment is of training samples alone"),
        (("--args", "{", "--augment", "ra"), b"error: --args: etl_args is not JSON"),
    ]:
        code, _, text = call(*words)
        assert code == 2 and message in text


def test_corrupt_bytes_are_named() -> None:
    with pytest.raises(CorruptSample):
        answer(b"no photo", Request(Spec.val()))


def test_a_recipe_s_fields_are_all_that_a_spec_has() -> None:
    """A field that is added to Spec and to a recipe is sent, understood and an option; nothing else lists them."""
    assert {*RECIPES["train"], *RECIPES["val"]} == {field.name for field in fields(Spec)} - {"recipe", "version"}
    others: dict[str, Any] = {"size": 100, "resize": 300, "scale": (0.5, 0.75), "ratio": (1.0, 1.5)}
    others |= {"interpolation": "bicubic", "augment": "aa", "augment_ops": 1, "augment_magnitude": 3}
    others |= {"augment_interpolation": "bilinear", "jitter": 0.4}
    for recipe in ("train", "val"):
        for name in RECIPES[recipe]:
            policy = {"augment": "ra"} if name.startswith("augment_") else {}  # without one they count for nothing
            spec = Spec.of(recipe, **policy, **{name: others[name]})
            key = Key(0, 0, 0) if recipe == "train" else None
            text = encode(Request(spec, key))
            assert f'"{name}":' in text and parse(text, recipe).spec == spec  # type: ignore[arg-type]
