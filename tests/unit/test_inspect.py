"""The health of a data set: each kind of finding once, what the page and the table hold, exit codes."""

import csv
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from etl.sample import native
from etl.spec import Spec
from scripts.inspect.__main__ import main
from scripts.inspect.data_set import open_data_set
from scripts.inspect.photo import HEAD_BYTES, look
from scripts.inspect.processes import in_processes
from scripts.inspect.readers import Files
from scripts.inspect.survey import Survey, survey
from sources.errors import ConfigError, DataError, UserError
from sources.folder import FolderReader, scan_folder
from sources.folds import HeldOut
from sources.samples import SampleDataset
from sources.splits import SplitOptions
from tests.conftest import PROJECT, make_small_folder, write_image
from tests.support.deadly import DEADLY, double

JPEG_END = b"\xff\xd9"
AS_IT_IS = SplitOptions()


def picture(mode: str = "RGB", size: tuple[int, int] = (48, 40), seed: int = 7) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(noise).resize(size).convert(mode)


def found_in(root: Path, deep: bool = False, options: SplitOptions = AS_IT_IS) -> list[tuple[str, str]]:
    """(kind, place) of all findings."""
    return [(f.kind, f"{f.split}/{f.photo}") for f in examined(root, deep, options).findings]


def examined(root: Path, deep: bool = False, options: SplitOptions = AS_IT_IS) -> Survey:
    return survey(open_data_set(str(root), "", options), deep, workers=1)


def add(root: Path, name: str, data: bytes) -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return name


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), exif=exif)


def animated() -> bytes:
    return encoded(picture(), "GIF", save_all=True, append_images=[picture(seed=8)])


def sixteen_bits(values: int) -> bytes:
    return encoded(Image.fromarray(np.full((40, 48), values, np.uint16)), "PNG")


ODD = {
    "grey": (lambda: encoded(picture("L")), [("mode", "greyscale")]),
    "cmyk": (lambda: encoded(picture("CMYK")), [("mode", "CMYK")]),
    "a PNG named .jpg": (lambda: encoded(picture(), "PNG"), [("format", "PNG named .jpg")]),
    "a GIF of two pictures": (
        animated,
        [("format", "GIF named .jpg"), ("mode", "palette"), ("frames", "GIF of 2 pictures")],
    ),
    "rotated": (rotated, [("rotated", "rotated by EXIF, which training ignores")]),
    "thin": (lambda: encoded(picture(size=(300, 40))), [("thin", "300 x 40 pixels")]),
    "empty": (lambda: b"", [("empty", "not an image: 0 bytes that start with b''")]),
    "text": (lambda: b"none", [("broken", "not an image: 4 bytes that start with b'none'")]),
    "a photo": (lambda: encoded(picture()), []),
    "a photo with something behind it": (lambda: encoded(picture()) + b"\0" * 200, []),
}


@pytest.mark.parametrize("deep", [False, True], ids=["headers", "deep"])
@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_about_a_photo(name: str, deep: bool, tmp_path: Path) -> None:
    make, expected = ODD[name]
    data = make()
    add(tmp_path, "x.jpg", data)
    assert list(look(Files(str(tmp_path)), "x.jpg", len(data), deep).found) == expected


def test_sixteen_bits(tmp_path: Path) -> None:
    data = sixteen_bits(40_000)
    add(tmp_path, "x.png", data)
    kinds = [kind for kind, _ in look(Files(str(tmp_path)), "x.png", len(data), deep=False).found]
    white = bool(np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).min() == 255)
    assert kinds == ["mode", "16 bits"] + ["washed out"] * white


@pytest.mark.parametrize("deep", [False, True], ids=["headers", "deep"])
def test_a_photo_that_is_cut_short_has_the_words_of_the_trainer(deep: bool, small_folder: Path) -> None:
    path = small_folder / "train/cat/3.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    found = examined(small_folder, deep)
    [finding] = found.findings
    assert (finding.kind, finding.split, finding.photo, finding.label) == ("cut short", "train", "cat/3.jpg", "cat")
    split = found.data.splits[0]
    reader = FolderReader(small_folder / "train", split.manifest)
    source = SampleDataset(reader, split.manifest, Spec.train(32), seed=0)
    index = [split.manifest.name(i) for i in range(len(split.manifest))].index("cat/3.jpg")
    with pytest.raises(DataError) as raised:
        source.fill([(0, index)], np.empty((1, 32, 32, 3), np.uint8))
    assert finding.what in str(raised.value)
    assert finding.trainer.removeprefix("A run ends when it meets one of these files. ") in str(raised.value)


def test_headers_and_ends_do_not_show_damage_in_the_middle_and_deep_does(small_folder: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (400, 500, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "PNG")
    assert len(data) > 3 * HEAD_BYTES
    middle = len(data) // 2
    add(small_folder, "train/cat/big.png", data[:middle] + b"damaged" + data[middle + 7 :])
    assert found_in(small_folder) == []
    assert found_in(small_folder, deep=True) == [("broken", "train/cat/big.png")]


def test_a_photo_that_misses_its_middle(tmp_path: Path) -> None:
    data = encoded(picture(size=(400, 300)))
    middle = len(data) // 2
    add(tmp_path, "x.jpg", data[:middle] + JPEG_END)
    size = middle + len(JPEG_END)
    assert look(Files(str(tmp_path)), "x.jpg", size, deep=False).found == ()
    found = look(Files(str(tmp_path)), "x.jpg", size, deep=True).found
    assert found == ((("damaged", "libjpeg warns of it"),) if native() else ())


def test_a_header_that_is_longer_than_what_is_read_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 1 << 18)  # Pillow 11 writes no longer header than its buffer
    data = encoded(picture("L"), comment=b"x" * 60_000, icc_profile=b"y" * 60_000)
    add(tmp_path, "x.jpg", data)
    facts = look(Files(str(tmp_path)), "x.jpg", len(data), deep=False)
    assert (facts.width, facts.height, facts.format, facts.mode) == (48, 40, "JPEG", "L")


def test_equal_photos(small_folder: Path) -> None:
    data = (small_folder / "train/cat/0.jpg").read_bytes()
    add(small_folder, "train/cat/copy.jpg", data)
    other = (small_folder / "train/dog/0.jpg").read_bytes()
    add(small_folder, "val/dog/seen.jpg", other)
    third = (small_folder / "train/eel/0.jpg").read_bytes()
    add(small_folder, "val/cat/wrong.jpg", third)
    found = examined(small_folder)
    assert [(f.kind, f.split, f.photo, f.what, f.other) for f in found.findings] == [
        ("labels differ", "val", "cat/wrong.jpg", "equal content, labels cat, eel", "train/eel/0.jpg"),
        ("in both splits", "val", "dog/seen.jpg", "equal content", "train/dog/0.jpg"),
        ("duplicate", "train", "cat/copy.jpg", "equal content", "train/cat/0.jpg"),
    ]
    assert main([str(small_folder), "--workers", "1"]) == 0


def test_equal_pixels_in_other_files_are_found_by_deep_alone(small_folder: Path) -> None:
    data = (small_folder / "train/cat/0.jpg").read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        add(small_folder, "train/dog/as.png", encoded(image, "PNG"))
    add(small_folder, "val/cat/longer.jpg", data + b"behind")
    assert found_in(small_folder) == []
    findings = examined(small_folder, deep=True).findings
    assert [(f.kind, f.photo, f.what) for f in findings] == [
        ("labels differ", "dog/as.png", "equal pixels, in another file, labels cat, dog"),
        ("labels differ", "cat/longer.jpg", "equal pixels, in another file, labels cat, dog"),
    ]


def test_photos_of_equal_size_head_and_end_are_compared_whole(tmp_path: Path) -> None:
    make_small_folder(tmp_path)
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    image = Image.fromarray(noise)
    data = encoded(image, "BMP") + b"end" * 40
    middle = len(data) // 2
    add(tmp_path, "train/cat/a.bmp", data)
    add(tmp_path, "train/dog/b.bmp", data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    assert [kind for kind, _ in found_in(tmp_path)] == []


LAYOUTS = {
    "an empty class": (lambda root: (root / "train/fox").mkdir(), "holds no images"),
    "no train": (lambda root: (root / "train").rename(root / "training"), "is missing"),
    "a class that train lacks": (
        lambda root: write_image(root / "val/ant/1.jpg", 3),
        "is a class that",
    ),
    "what macOS leaves": (
        lambda root: add(root, "train/cat/._0.jpg", b"\0\5\x16\7" + b"\0" * 60),
        "what macOS keeps beside them",
    ),
    "a link to nothing": (lambda root: (root / "val/dog/x.jpg").symlink_to("gone.jpg"), "which does not exist"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_keeps_a_run_from_beginning(name: str, small_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, words = LAYOUTS[name]
    change(small_folder)
    with pytest.raises(UserError, match=words) as raised:
        scan_folder(small_folder)
    found = examined(small_folder)
    assert str(raised.value) in [f.what for f in found.findings if f.kind == "layout"]
    assert len(found) >= 15  # the rest is looked at
    assert main([str(small_folder), "--workers", "1"]) == 1
    assert "Training would stop on this data: the layout" in capsys.readouterr().out


def test_several_of_these_are_told_together(small_folder: Path) -> None:
    for split, name in (("train", "ape"), ("train", "fox"), ("val", "gnu")):
        (small_folder / split / name).mkdir()
    told = [finding.what for finding in examined(small_folder).findings]
    assert [name for name in ("ape", "fox", "gnu") if any(f"/{name} holds no images" in what for what in told)] == [
        "ape",
        "fox",
        "gnu",
    ]


def test_what_is_left_out(small_folder: Path) -> None:
    add(small_folder, "train/cat/x.gif", animated())
    add(small_folder, "train/cat/deeper/y.heic", b"x")
    add(small_folder, "val/Thumbs.db", b"x")
    add(small_folder, "train/dog/@eaDir/0.jpg", encoded(picture()))
    findings = examined(small_folder).findings
    assert [(f.kind, f.split, f.photo) for f in findings] == [
        ("scan", "", ""),
        ("kind left out", "train", "cat/deeper/y.heic"),
        ("kind left out", "train", "cat/x.gif"),
        ("left out", "val", "Thumbs.db"),
    ]
    assert "is a folder that a program has made" in findings[0].what


def test_one_folder_of_classes_and_the_order_of_numbers(tmp_path: Path) -> None:
    for label in range(11):
        write_image(tmp_path / f"class {label}" / "x.jpg", label)
    found = examined(tmp_path)
    assert [f.kind for f in found.findings] == ["one folder", "class order"]
    assert "class 2 is 'class 10', and by number it would be 'class 2'" in found.findings[1].what
    assert main([str(tmp_path), "--workers", "1"]) == 0


def test_only_train(small_folder: Path) -> None:
    shutil.rmtree(small_folder / "val")
    found = examined(small_folder)
    assert [f.kind for f in found.findings] == ["one folder"] and len(found) == 36


def flat(root: Path) -> Path:
    """Move the photos of val/ out of their class folders, and return the file of their labels."""
    lines = []
    for photo in sorted((root / "val").rglob("*.jpg")):
        name = f"{photo.parent.name}-{photo.name}"
        lines.append(f"{name},{photo.parent.name}\n")
        photo.rename(root / "val" / name)
    for folder in [path for path in (root / "val").iterdir() if path.is_dir()]:
        folder.rmdir()
    labels = root.parent / "labels.csv"
    labels.write_text("".join(lines))
    return labels


def test_labels_in_a_file(small_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(small_folder / "train" / "dog" / "0.jpg", small_folder / "val" / "dog" / "seen.jpg")
    labels = flat(small_folder)
    found = examined(small_folder, options=SplitOptions(labels=str(labels)))
    assert [(f.kind, f.photo, f.label) for f in found.findings] == [("in both splits", "dog-seen.jpg", "dog")]
    assert len(found) == 36 + 16
    assert main([str(small_folder), "--workers", "1", "--labels", str(labels)]) == 0
    assert main([str(small_folder), "--workers", "1"]) == 1  # as training without data.labels
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[1:]))
    capsys.readouterr()
    assert main([str(small_folder), "--workers", "1", "--labels", str(labels)]) == 1
    assert "has no label in" in capsys.readouterr().out


def test_one_folder_that_a_run_divides(small_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(small_folder / "val")
    add(small_folder, "train/dog/Thumbs.db", b"x")
    found = examined(small_folder, options=SplitOptions(HeldOut(0.3)))
    assert [(s.name, len(s.manifest) > 0) for s in found.data.splits] == [("train", True), ("val", True)]
    assert len(found) == 36
    assert [f.photo for f in found.findings if f.kind == "left out"] == ["dog/Thumbs.db"]
    assert main([str(small_folder), "--workers", "1", "--val-split", "0.999999"]) == 1
    assert "leaves none of the 36 samples" in capsys.readouterr().out
    assert main([str(small_folder), "--val-split", "7"]) == 2
    assert "--val-split=7.0 is not a share" in capsys.readouterr().err
    assert main(["ais://bucket", "--val-split", "0.1"]) == 2
    assert "are for a folder" in capsys.readouterr().err


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert "nothing is not a folder" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="is missing"):
        open_data_set(str(tmp_path), "", SplitOptions())
    (tmp_path / "file").write_text("x")
    assert main([str(tmp_path), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_files(small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(small_folder, "train/cat/<b>&.jpg", rotated())
    add(small_folder, "val/eel/a\x1b[31m.jpg", b"none")
    (small_folder / "train/dog/1.jpg").write_bytes(b"")
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        assert main([str(small_folder), "--out", str(out), "--workers", "2"]) == 1
    first, second = ({name: (out / name).read_bytes() for name in ("report.html", "files.csv")} for out in outs)
    assert first == second and len(first["report.html"]) < 5_000_000
    page = first["report.html"].decode()
    assert "&lt;b&gt;&amp;.jpg" in page and "<b>&" not in page and "\x1b" not in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page) and "@import" not in page
    lines = list(csv.DictReader(io.StringIO(first["files.csv"].decode())))
    assert [(line["level"], line["file"]) for line in lines if line["level"] != "warning"] == [
        ("stop", "dog/1.jpg"),
        ("stop", "eel/a\\x1b[31m.jpg"),
    ]
    empty, text = (line["trainer"] for line in lines if line["level"] == "stop")
    assert "data.on_corrupt=replace, then start again" in empty and "every validation sample counts" in text
    output = capsys.readouterr().out
    assert "train holds 37 photos of 3 classes: the smallest class is dog with 12" in output
    assert "\x1b" not in output


def test_plots_are_drawn_or_the_page_says_how(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(small_folder), "--out", str(tmp_path / "without"), "--workers", "1"]) == 0
    assert "Plots need matplotlib: pip install matplotlib" in (tmp_path / "without/report.html").read_text()
    monkeypatch.undo()
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra inspect")
    assert main([str(small_folder), "--out", str(tmp_path / "with"), "--workers", "1"]) == 0
    assert (tmp_path / "with/report.html").read_text().count("data:image/png") == 4


def test_an_item_that_kills_its_process_ends_nothing() -> None:
    answers = list(in_processes(double, range(100), int, 2, lambda number: -number, "numbers"))
    assert answers == [2 * number if number != DEADLY else -DEADLY for number in range(100)]


def test_answers_that_came_before_a_process_died_are_not_lost() -> None:
    def late(number: int) -> int:
        if number == DEADLY + 1:
            time.sleep(0.5)  # its process is dead when it is handed over, and the answers before are not taken yet
        return number

    answers = list(in_processes(double, range(DEADLY + 8), late, 1, lambda number: -number, "numbers"))
    assert answers == [2 * number if number != DEADLY else -DEADLY for number in range(DEADLY + 8)]


STOPPED = """
from tests.support.deadly import slow
from scripts.inspect import __main__ as command
from scripts.inspect.processes import in_processes
from scripts.inspect.readers import Files
def run(options):
    for number, _ in enumerate(in_processes(slow, range(10_000), int, 2, int, "numbers")):
        if number == 64:  # both processes are at work
            print("begun", flush=True)
command._run = run
raise SystemExit(command.main(["anything"]))
"""


def test_ctrl_c(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and errors.endswith(
        "stopped. Nothing was written; the same command begins anew.\n"
    ), errors
    assert "Traceback" not in errors, errors
