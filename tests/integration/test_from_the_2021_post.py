"""docs/from-the-2021-post.md does what it says: its blocks run in order, as one session, and their results are checked."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from etl import Key, Spec, transform
from tests.conftest import PROJECT, readable

PAGE = PROJECT / "docs" / "from-the-2021-post.md"
SESSION_TIMEOUT_S = 150.0
SERVER_TIMEOUT_S = 30.0
MARK = "@@ block "


@dataclass(frozen=True)
class Block:
    """A fenced block of the page and the heading above it."""

    heading: str
    language: str
    code: str


def blocks() -> list[Block]:
    """All fenced blocks of the page, in order."""
    found = []
    heading = ""
    for match in re.finditer(
        r"^## (?P<heading>[^\n]+)$|^```(?P<language>\w*)\n(?P<code>.*?)^```$", PAGE.read_text(), re.M | re.S
    ):
        heading = match["heading"] or heading
        if match["code"] is not None:
            found.append(Block(heading, match["language"], match["code"]))
    return found


@dataclass(frozen=True)
class Session:
    """What the session left: its exit code, each block's output by heading and language, and its files."""

    code: int
    output: str
    results: dict[tuple[str, str], str]
    folder: Path

    def said(self, heading: str, language: str) -> str:
        """The output of all blocks of a language below a heading that begins so."""
        texts = [text for (title, name), text in self.results.items() if title.startswith(heading) and name == language]
        assert texts, f"the page has no {language} block below {heading}"
        return "".join(texts)

    def picture(self, name: str) -> np.ndarray:
        """Pixels of a JPEG that the session wrote."""
        with Image.open(io.BytesIO((self.folder / "runs/post" / name).read_bytes())) as image:
            assert image.format == "JPEG" and image.mode == "RGB"
            return np.array(image)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a process and all of its group, and wait for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)


def _variables(process: subprocess.Popen[str]) -> dict[str, str]:
    """The two lines that the server prints when it is ready."""
    assert process.stdout is not None
    end = time.monotonic() + SERVER_TIMEOUT_S
    text = ""
    while text.count("\n") < 2:
        ready = readable(process.stdout, max(0.0, end - time.monotonic()))
        piece = os.read(process.stdout.fileno(), 4096).decode() if ready else ""
        assert piece, f"the server did not start: {text}"
        text += piece
    return dict(line.split("=", 1) for line in text.splitlines())


def _with_variable(name: str, value: str) -> list[int]:
    """Processes that inherited a variable of the environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{name}={value}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout, so that what the page writes does not land in the real one."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("train.py", "conf", "aistore_data", "etl", "sources", "training"):
        (folder / name).symlink_to(PROJECT / name)
    return folder


@pytest.fixture
def environment(checkout: Path) -> Iterator[dict[str, str]]:
    """The environment of both terminals, with a mark by which a forgotten process would be found."""
    mark = uuid.uuid4().hex
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ours = {"PATH": path, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1", "POST_MARK": mark}
    foreign = {"AIS_ENDPOINT", "AIS_AUTHN_TOKEN", "RUN_ID"}
    yield {name: value for name, value in os.environ.items() if name not in foreign} | ours
    end = time.monotonic() + 10
    while (left := _with_variable("POST_MARK", mark)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left, "processes were left behind"


@pytest.fixture
def server(checkout: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """The first terminal: the command of the page's console block, and the variables that it prints; ctrl-C ends it."""
    (console,) = [block.code for block in blocks() if block.language == "console"]
    command = shlex.split(console.splitlines()[0].removeprefix("$ "))
    assert command[:3] == ["python", "-m", "aistore_data.embedded"]
    process = subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        variables = _variables(process)
        assert set(variables) == {"AIS_ENDPOINT", "AIS_AUTHN_TOKEN"}
        yield variables
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        _end(process)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def session(
    checkout: Path, environment: dict[str, str], server: dict[str, str], small_folder: Path
) -> Callable[[], Session]:
    """The second terminal: runs every bash and Python block of the page in order, until one fails."""

    def run() -> Session:
        runnable = [block for block in blocks() if block.language in ("bash", "python")]
        script = ["set -euo pipefail"]
        for number, block in enumerate(runnable):
            script.append(f"echo; echo '{MARK}{number}'")
            if block.language == "bash":
                script.append(block.code)
            else:
                (checkout / f"block_{number}.py").write_text(block.code)
                script.append(f"{shlex.quote(sys.executable)} block_{number}.py")
        process = subprocess.Popen(
            ["bash", "-c", "\n".join(script)],
            cwd=checkout,
            env=environment | server | {"DATA": str(small_folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=SESSION_TIMEOUT_S)
        finally:
            _end(process)
        results: dict[tuple[str, str], str] = {}
        for part in output.split(f"\n{MARK}")[1:]:
            index, _, text = part.partition("\n")
            block = runnable[int(index)]
            results[block.heading, block.language] = results.get((block.heading, block.language), "") + text
        return Session(process.returncode, output, results, checkout)

    return run


def test_the_page_has_a_section_for_each_step_and_its_links_lead_to_them() -> None:
    text = PAGE.read_text()
    assert {block.language for block in blocks()} == {"bash", "python", "console"}
    headings = re.findall(r"^## (.+)$", text, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
    assert len([heading for heading in headings if heading[0].isdigit()]) == 10
    assert max(map(len, text.splitlines())) <= 140


def test_every_command_of_the_page_works(session: Callable[[], Session], small_folder: Path) -> None:
    done = session()
    assert done.code == 0, done.output

    first = (small_folder / "train" / "cat" / "0.jpg").read_bytes()
    assert "104 objects uploaded" in done.said("1.", "bash")  # 51 images, as many classes, 2 lists of class names
    listing = done.said("1.", "python")
    assert re.search(rf"^train/0000000\.jpg +{len(first):,} bytes$", listing, re.M) and "train/0000000.cls" in listing
    assert (done.folder / "runs/post/photo.jpg").read_bytes() == first
    assert done.said("3.", "bash").strip() == "0"
    assert "class 0 is cat" in done.said("3.", "python")
    assert "77 % of the levels" in done.said("4.", "python")
    assert done.said("5.", "python").split() == [f"numpy=={np.__version__}", f"pillow=={PIL.__version__}"]

    both = ("imagenet-train", "imagenet-val")
    assert all(f"{name}: started" in done.said("6.", "python") for name in both)
    assert re.findall(r"^(\S+) Running$", done.said("7.", "python"), re.M) == list(both)
    assert len(re.findall(r"pod of \S+: [1-9]\d* lines", done.said("7.", "python"))) == 2
    assert [pod["health_status"] for pod in json.loads(done.said("7.", "bash"))] == ["Running"]

    assert "make the same bytes" in done.said("8.", "bash") and "epoch 3 too" in done.said("8.", "bash")
    assert "validation too" in done.said("9.", "bash")
    for name, spec, key in (
        ("train.jpg", Spec.train(), Key(0, 0, 0)),
        ("epoch-3.jpg", Spec.train(), Key(0, 3, 0)),
        ("val.jpg", Spec.val(), None),
    ):
        picture, sample = done.picture(name).astype(int), transform(first, spec, key).astype(int)
        assert picture.shape == (224, 224, 3)
        assert np.abs(picture - sample).mean() < 4, f"{name} shows other colours"  # a JPEG at quality 90

    output = done.said("10.", "bash")
    for name in both:
        assert f"ETL {name} is running already" in output, output
    summary = json.loads((done.folder / "runs/post/run/summary.json").read_text())
    assert summary["samples_by_source"] == {"local": 0, "etl": 32 + 15}  # the last partial training batch is dropped
    assert summary["fallbacks"] == 0
    loaders = done.said("10.", "python")
    assert "train: 36 samples of 3 classes, torch.float32 (3, 224, 224)" in loaders
    assert "val: 15 samples of 3 classes, torch.float32 (3, 224, 224)" in loaders
    assert "0 ETLs are left" in done.said("When", "python")
