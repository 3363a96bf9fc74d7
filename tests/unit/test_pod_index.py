"""The JPEG index of an ETL's pod: entries for objects' files alone, the same answers, and a pod that works without it."""

import http.client
import os
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from etl.jpeg_index import can_use
from etl.pod_index import INDEX_VARIABLE, NAME, open_pod_index
from etl.request import answer, encode
from etl.sample import native
from etl.server import TrainETL
from tests.unit.test_etl_server import DATA, REQUEST, pod, serving
from tests.unit.test_jpeg_index import jpeg

pytestmark = pytest.mark.skipif(not can_use(native()), reason="imagenet_ais_native is not built, or older: make setup")


def ask(port: int, file: Path | None, body: bytes = b"") -> bytes:
    query = {"etl_args": encode(REQUEST)} | ({"etl_fqn": quote(str(file), safe="")} if file else {})
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("PUT", f"/photos/a.jpg?{urlencode(query)}", body)
        return connection.getresponse().read()


@pytest.mark.parametrize("alone", [False, True])
def test_a_file_gets_an_entry_and_the_answers_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    file = tmp_path / "@ais" / "photos" / "%ob" / "a.jpg"
    file.parent.mkdir(parents=True)
    with pod(), serving(alone) as start:
        with monkeypatch.context() as patch:
            patch.delenv(INDEX_VARIABLE)
            patch.setattr(tempfile, "tempdir", str(tmp_path))
            server = TrainETL()
        port = start(server)
        assert server.index is not None
        assert ask(port, None, DATA) == answer(DATA, REQUEST)
        assert server.index.tally().photos == 0  # a body may be anybody's
        for data in (DATA, DATA, jpeg(1), jpeg(1), DATA):
            file.write_bytes(data)
            assert ask(port, file) == answer(data, REQUEST)
        assert server.index.tally()[:1] == (1,) and server.index.tally().renewed == 2
        assert server.index.entry(str(file)).is_of_size(len(DATA))
        large = DATA + bytes(2 << 20)  # read in a thread
        file.write_bytes(large)
        assert ask(port, file) == answer(large, REQUEST)


def test_a_pod_works_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said: list[str] = []
    path = tmp_path / f"{NAME}-{os.geteuid()}"
    path.touch()
    path.chmod(0o666)
    assert open_pod_index(said.append) is None and f"{path} belongs to somebody else, or others may" in said.pop()
    path.unlink()
    index = open_pod_index(said.append)
    assert index is not None and not said
    monkeypatch.setattr(index, "_limit", 100)
    index.keep(1, bytes(200))
    index.keep(2, bytes(200))
    assert said.pop().startswith(f"no more entries are written to the JPEG index {path}: it has the ") and not said
    path.unlink()
    path.symlink_to("elsewhere")
    assert open_pod_index(said.append) is None and f"{path} is not a file, as a JPEG index is" in said.pop()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert open_pod_index(said.append) is None and "No such file or directory" in said.pop()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(INDEX_VARIABLE, "0")
    assert open_pod_index(said.append) is None and not said
