"""Damaged JPEGs: whatever the native module answers must be what Pillow answers, byte for byte.

    python native/fuzz/mutate.py --small 560000 --large 20000 PHOTOS…

PHOTOS are files or folders. Small files are the photos at 60 to 200 pixels in every sampling, with and without restart
markers; large ones are the photos as they are. Each file gets one to three mutations, and lies in some cases behind so
many comments that a mutation meets the end of one of the blocks of 64 KB in which Pillow hands a file to libjpeg. One
line a kind of mutation says how many files there were, how many of them the native module answered, and how many of
those answers differ. Files that differ are kept in --save. The exit code is 1 where any does.
"""

import argparse
import io
import itertools
import os
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from etl import CorruptSample, Key, Spec, sample, transform

BLOCK = 65536  # bytes that Pillow reads at a time
SPECS = [Spec.train(48), Spec.val(48, 56), Spec.train(40, interpolation="bicubic"), Spec.val(56, 64, "bicubic")]
SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "L")


class Parts(NamedTuple):
    """A JPEG apart: whole segments from the first after SOI to SOS, and what follows up to the end of the file."""

    segments: list[bytes]
    scan: bytes

    def join(self) -> bytes:
        """The file again."""
        return b"\xff\xd8" + b"".join(self.segments) + self.scan


def take_apart(data: bytes) -> Parts:
    """The parts of a sound file in one scan."""
    segments, at = [], 2
    while True:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append(data[at:end])
        if data[at + 1] == 0xDA:
            return Parts(segments, data[end:])
        at = end


def segment(marker: int, body: bytes) -> bytes:
    """A segment with its length."""
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


Draw = random.Random
SPECIAL = [0, 0xFF, *range(0xD0, 0xDA), 0xC4, 0xDC, 0xDD, 0xFE, 0x7F, 0x80]


def _byte(draw: Draw) -> int:
    return draw.choice(SPECIAL) if draw.random() < 0.5 else draw.randrange(256)


def _places(data: bytes, what: bytes) -> list[int]:
    return [at for at in range(len(data) - len(what) + 1) if data.startswith(what, at)]


def _stuffed(scan: bytes, draw: Draw, low: int = 0x00, high: int = 0x00) -> int:
    """The place of an FF before a byte from ``low`` to ``high``; any place where there is none."""
    start = draw.randrange(max(1, len(scan)))
    for origin in (start, 0):
        at = scan.find(b"\xff", origin)
        while 0 <= at < len(scan) - 1:
            if low <= scan[at + 1] <= high:
                return at
            at = scan.find(b"\xff", at + 1)
    return start


# Mutations of the entropy-coded data and what follows: (bytes, draw) to bytes.


def flip_bit(scan: bytes, draw: Draw) -> bytes:
    at = draw.randrange(len(scan))
    return scan[:at] + bytes([scan[at] ^ 1 << draw.randrange(8)]) + scan[at + 1 :]


def set_bytes(scan: bytes, draw: Draw) -> bytes:
    changed = bytearray(scan)
    for _ in range(draw.randint(1, 6)):
        changed[draw.randrange(len(changed))] = _byte(draw)
    return bytes(changed)


def fill_stuffed(scan: bytes, draw: Draw) -> bytes:
    """FF FF 00: fill bytes before a stuffed zero, once or several times."""
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        at = _stuffed(scan, draw)
        scan = scan[:at] + b"\xff" * draw.choice([1, 1, 1, 2, 3, 40]) + scan[at:]
    return scan


def fill_anywhere(scan: bytes, draw: Draw) -> bytes:
    at = draw.randrange(len(scan))
    return scan[:at] + b"\xff" * draw.randint(1, 4) + draw.choice([b"", b"\0", b"\xd0"]) + scan[at:]


def fill_restart(scan: bytes, draw: Draw) -> bytes:
    at = _stuffed(scan, draw, 0xD0, 0xD7)
    return scan[:at] + b"\xff" * draw.randint(1, 5) + scan[at:]


def fill_end(scan: bytes, draw: Draw) -> bytes:
    at = scan.rfind(b"\xff\xd9")
    return scan[:at] + b"\xff" * draw.randint(1, 5) + scan[at:]


def restart_added(scan: bytes, draw: Draw) -> bytes:
    at = draw.randrange(len(scan))
    return scan[:at] + bytes([0xFF, 0xD0 + draw.randrange(8)]) + scan[at:]


def restart_changed(scan: bytes, draw: Draw) -> bytes:
    at = _stuffed(scan, draw, 0xD0, 0xD7)
    new = draw.choice([b"", b"\xff\xd0", b"\xff\xd3", b"\xff\xd7", scan[at : at + 2] * 2, b"\0\0" + scan[at : at + 2]])
    return scan[:at] + new + scan[at + 2 :]


def marker_added(scan: bytes, draw: Draw) -> bytes:
    at = draw.randrange(len(scan))
    dnl = segment(0xDC, draw.choice([8, 40, 80, 65500]).to_bytes(2, "big"))
    new = [dnl, segment(0xFE, b"comment"), segment(0xDD, b"\0\4"), b"\xff\xd8", b"\xff\x01", b"\xff\xd9", b"\xff\xda"]
    return scan[:at] + draw.choice(new) + scan[at:]


def cut_out(scan: bytes, draw: Draw) -> bytes:
    at = draw.randrange(len(scan))
    return scan[:at] + scan[at + draw.choice([1, 1, 2, 3, 17, 300]) :]


def repeated(scan: bytes, draw: Draw) -> bytes:
    at, length = draw.randrange(len(scan)), draw.choice([1, 2, 5, 64, 700])
    return scan[: at + length] + scan[at:]


def exchanged(scan: bytes, draw: Draw) -> bytes:
    a, b, c = sorted(draw.randrange(len(scan)) for _ in range(3))
    return scan[:a] + scan[b:c] + scan[a:b] + scan[c:]


def overwritten(scan: bytes, draw: Draw) -> bytes:
    at, length = draw.randrange(len(scan)), draw.choice([2, 9, 100])
    return (scan[:at] + draw.choice([b"\0", b"\x55", b"\xff\0", b"\xff"]) * length + scan[at + length :])[: len(scan)]


def truncated(scan: bytes, draw: Draw) -> bytes:
    return scan[: -draw.choice([1, 2, 3, 4, 9, draw.randrange(1, len(scan))])]


def early_end(scan: bytes, draw: Draw) -> bytes:
    at = draw.choice([draw.randrange(len(scan)), max(0, len(scan) - draw.randrange(2, 40))])
    return scan[:at] + b"\xff\xd9" + draw.choice([b"", scan[at:], b"\0" * 9])


def after_end(scan: bytes, draw: Draw) -> bytes:
    return scan + draw.choice(
        [b"\0", b"\xff", b"\xff\xff\0", b"\xff\xd9", scan, draw.randbytes(draw.choice([1, 99, 70000]))]
    )


SCAN = [flip_bit, set_bytes, fill_stuffed, fill_anywhere, fill_restart, fill_end, restart_added, restart_changed]
SCAN += [marker_added, cut_out, repeated, exchanged, overwritten, truncated, early_end, after_end]

# Mutations of the segments: a list of them, changed in place.


def header_bytes(segments: list[bytes], draw: Draw) -> None:
    at = draw.randrange(len(segments))
    body = bytearray(segments[at])
    for _ in range(draw.randint(1, 2)):
        body[draw.randrange(1, len(body))] = _byte(draw)
    segments[at] = bytes(body)


def segment_removed(segments: list[bytes], draw: Draw) -> None:
    del segments[draw.randrange(len(segments))]


def segment_doubled(segments: list[bytes], draw: Draw) -> None:
    segments.insert(draw.randrange(len(segments)), draw.choice(segments))


def segments_exchanged(segments: list[bytes], draw: Draw) -> None:
    a, b = draw.randrange(len(segments)), draw.randrange(len(segments))
    segments[a], segments[b] = segments[b], segments[a]


def segments_filled(segments: list[bytes], draw: Draw) -> None:
    at = draw.randrange(len(segments))
    segments[at] = b"\xff" * draw.randint(1, 3) + segments[at]


def _change(segments: list[bytes], markers: tuple[int, ...], offset: int, value: bytes) -> None:
    for at, one in enumerate(segments):
        if one[1] in markers and len(one) >= offset + len(value):
            segments[at] = one[:offset] + value + one[offset + len(value) :]


def frame_changed(segments: list[bytes], draw: Draw) -> None:
    kind = draw.randrange(6)
    if kind == 0:  # the kind of frame: extended, progressive, lossless, arithmetic
        _change(segments, (0xC0,), 1, bytes([draw.choice([0xC1, 0xC2, 0xC3, 0xC9, 0xCA])]))
    elif kind == 1:
        _change(segments, (0xC0,), 4, bytes([draw.choice([0, 2, 8, 12, 16])]))
    elif kind in (2, 3):
        length = draw.choice([0, 1, 7, 8, 9, 15, 16, 17, draw.randrange(1, 400), 3000, 65500])
        _change(segments, (0xC0,), 5 if kind == 2 else 7, length.to_bytes(2, "big"))
    elif kind == 4:
        sampling = draw.choice([0x11, 0x12, 0x21, 0x22, 0x41, 0x14, 0x44, 0])
        _change(segments, (0xC0,), 11 + 3 * draw.randrange(3), bytes([sampling]))
    else:  # ids and tables of components
        _change(segments, (0xC0,), draw.choice([10, 12, 13, 15, 16, 18]), bytes([draw.choice([0, 1, 2, 3, 82])]))


def scan_header_changed(segments: list[bytes], draw: Draw) -> None:
    body = bytearray(segments[-1])
    body[draw.randrange(4, len(body))] = draw.choice([0, 1, 2, 3, 0x10, 0x11, 0x22, 63, 255])
    segments[-1] = bytes(body)


def tables_changed(segments: list[bytes], draw: Draw) -> None:
    marker = draw.choice([0xC4, 0xDB])
    chosen = [at for at, one in enumerate(segments) if one[1] == marker]
    if not chosen:
        return
    at = draw.choice(chosen)
    body = bytearray(segments[at])
    for _ in range(draw.randint(1, 3)):
        body[draw.randrange(4, min(len(body), draw.choice([6, 22, len(body)])))] = _byte(draw)
    segments[at] = bytes(body)


def restart_interval(segments: list[bytes], draw: Draw) -> None:
    segments[:] = [one for one in segments if one[1] != 0xDD]
    if draw.random() < 0.8:
        body = draw.choice([0, 1, 2, 5, 64, 65535]).to_bytes(2, "big") + draw.choice([b"", b"", b"\0"])
        segments.insert(draw.randrange(len(segments)), segment(0xDD, body))


_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


def segment_added(segments: list[bytes], draw: Draw) -> None:
    new = draw.choice(
        [
            segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([draw.choice([0, 1, 2, 9])])),
            segment(0xEE, b"Adobe\0"),
            segment(0xE1, _EXIF),
            segment(0xE1, _EXIF[: draw.randrange(4, len(_EXIF))]),
            segment(0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(draw.choice([0, 128, 65000]))),
            segment(0xE2, b"ICC_PROFILE\0" + draw.choice([b"", b"\x01", b"\x02\x01x"])),
            segment(0xE2, b"MPF\0" + bytes(20)),
            segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x03abc\0"),
            segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x10\0"),
            segment(0xE0, b"JFIF\0\1\1\1\0\x48\0\x48\0\0"),
            segment(0xE0, b"JFIF\0\1"),
            segment(0xFE, draw.randbytes(draw.choice([0, 1, 900, 65000]))),
            segment(0xDC, b"\0\x40"),
            segment(0xC8, b"\0"),
            segment(0xF0 + draw.randrange(14), b"\0"),
        ]
    )
    segments.insert(draw.randrange(len(segments)), new)


HEADER = [header_bytes, segment_removed, segment_doubled, segments_exchanged, segments_filled, frame_changed]
HEADER += [scan_header_changed, tables_changed, restart_interval, segment_added]


def spliced(parts: Parts, others: list[Parts], draw: Draw) -> Parts:
    """The segments of one file with the scan of another, or two halves of scans."""
    other = draw.choice(others)
    if draw.random() < 0.5:
        return Parts(parts.segments, other.scan)
    at, end = draw.randrange(len(parts.scan)), draw.randrange(len(other.scan))
    return Parts(parts.segments, parts.scan[:at] + other.scan[end:])


def at_block_end(parts: Parts, scan: bytes, draw: Draw) -> Parts:
    """With comments before the frame that move the first change of the scan to the end of a block, within 40 bytes.

    Or to where libjpeg's slow Huffman decoder takes over from its fast one: half a kilobyte before it for each block of
    an MCU.
    """
    first = next((at for at, pair in enumerate(zip(parts.scan, scan, strict=False)) if pair[0] != pair[1]), len(scan))
    place = len(Parts(parts.segments, b"").join()) + first + draw.choice([0, 0, 512, 1024, 1536, 2048, 3072])
    wanted = (-place) % BLOCK + draw.randint(-40, 40)
    padding = []
    while wanted > 4:
        length = min(wanted - 4, 60000)
        padding.append(segment(0xFE, bytes(length)))
        wanted -= length + 4
    return Parts([*parts.segments[:1], *padding, *parts.segments[1:]], scan)


def mutated(parts: Parts, others: list[Parts], draw: Draw) -> tuple[str, bytes]:
    """(the names of the mutations, a file)."""
    names = []
    kind = draw.random()
    if kind < 0.05:
        parts, names = spliced(parts, others, draw), ["spliced"]
    if kind < 0.25:
        segments = list(parts.segments)
        for _ in range(draw.choice([1, 1, 2])):
            change = draw.choice(HEADER)
            if len(segments) > 1:
                change(segments, draw)
                names.append(change.__name__)
        return "+".join(names), Parts(segments, parts.scan).join()
    scan = parts.scan
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        alter = fill_stuffed if draw.random() < 0.15 else draw.choice(SCAN)
        if len(scan) > 4:
            scan = alter(scan, draw)
            names.append(alter.__name__)
    if draw.random() < 0.3:
        return "+".join([*names, "block"]), at_block_end(parts, scan, draw).join()
    return "+".join(names), Parts(parts.segments, scan).join()


def difference(data: bytes, spec: Spec, key: Key) -> str | None:
    """ "" where the native module declines the file, "equal", or in what its answer differs from Pillow's."""
    words = sample.random_words(key) if spec.recipe == "train" else []
    out = np.empty((spec.size, spec.size, 3), np.uint8)
    ours = out if sample._transform_natively(data, spec, words, out) else None
    if ours is None:
        return ""
    os.environ[sample.NATIVE_VARIABLE] = "0"
    try:
        theirs = transform(data, spec, key)
    except CorruptSample as error:
        return f"Pillow refuses it: {error}"
    finally:
        del os.environ[sample.NATIVE_VARIABLE]
    if np.array_equal(ours, theirs):
        return "equal"
    return f"pixels differ, by {np.abs(ours.astype(int) - theirs).max()} at most"


def pictures(paths: list[Path], seed: int) -> Iterator[Image.Image]:
    """The photos, and three that are made here."""
    rng = np.random.default_rng(seed)
    yield Image.fromarray(rng.integers(0, 256, (150, 170, 3), np.uint8))
    yield Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((180, 140), Image.Resampling.BICUBIC)
    yield Image.new("RGB", (120, 90), (200, 30, 40))
    for path in paths:
        with Image.open(path) as image:
            image.draft("RGB", (260, 260))
            yield image.convert("RGB")


def small_files(paths: list[Path], seed: int) -> list[Parts]:
    """Sound files of 60 to 200 pixels."""
    draw = Draw(seed)
    kinds = itertools.cycle(itertools.product(SAMPLINGS, (0, 0, 3), (75, 90, 95)))
    made = []
    for picture, (sampling, restart, quality) in zip(pictures(paths, seed), kinds, strict=False):
        width, height = draw.randint(60, 200), draw.randint(60, 200)
        image = picture.resize((width, height)).convert("L" if sampling == "L" else "RGB")
        options = {"quality": quality, "restart_marker_blocks": restart, "optimize": draw.random() < 0.5}
        if sampling != "L":
            options["subsampling"] = sampling.replace("4:4:0", "4:2:2")
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", **options)
        made.append(take_apart(turned(buffer.getvalue()) if sampling == "4:4:0" else buffer.getvalue()))
    return made


def turned(data: bytes) -> bytes:
    """A 4:2:2 file with width and height exchanged: a 4:4:0 file of as many blocks, with another picture."""
    at = data.index(b"\xff\xc0") + 5
    height, width, rest = data[at : at + 2], data[at + 2 : at + 4], data[at + 4 :]
    return data[:at] + width + height + rest.replace(b"\x21", b"\x12", 1)


def large_files(paths: list[Path]) -> list[Parts]:
    """The photos of more than one block that the native module answers for."""
    module = sample.native()
    assert module is not None
    contents = (path.read_bytes() for path in paths if path.stat().st_size > BLOCK)
    return [take_apart(data) for data in contents if module.size(data)]


class Count(NamedTuple):
    """Of mutated files: how many, how many the native module answered, and what differed."""

    files: Counter[str]
    answered: Counter[str]
    differences: list[tuple[str, str, bytes]]


def run(originals: list[Parts], count: int, seed: int, until: float = float("inf")) -> Count:
    """Compare ``count`` mutated files, or as many as there is time for."""
    draw = Draw(seed)
    result = Count(Counter(), Counter(), [])
    for number in range(count):
        if time.monotonic() > until:
            break
        name, data = mutated(draw.choice(originals), originals, draw)
        key = Key(seed, number, draw.getrandbits(40))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about damaged EXIF
            found = difference(data, SPECS[number % len(SPECS)], key)
        for one in name.split("+"):
            result.files[one] += 1
            result.answered[one] += found != ""
        result.files["all"] += 1
        result.answered["all"] += found != ""
        if found not in ("", "equal"):
            result.differences.append((name, f"{SPECS[number % len(SPECS)]} {key}: {found}", data))
    return result


def report(title: str, result: Count, save: Path) -> None:
    """Print the table and keep the files that differ."""
    different: Counter[str] = Counter()
    for number, (name, what, data) in enumerate(result.differences):
        different.update([*name.split("+"), "all"])
        save.mkdir(parents=True, exist_ok=True)
        (save / f"{title}-{number}.jpg").write_bytes(data)
        print(f"{title}-{number}.jpg  {name}  {what}")
    print(f"{title:20}  {'files':>9}  {'answered':>9}  {'different':>9}")
    for name, files in sorted(result.files.items(), key=lambda item: (item[0] == "all", item[0])):
        print(f"{name:20}  {files:9,}  {result.answered[name]:9,}  {different[name]:9,}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path, help="files and folders of JPEGs")
    parser.add_argument("--small", type=int, default=20000, help="mutated files of small photos (default: 20000)")
    parser.add_argument("--large", type=int, default=1000, help="mutated files of large photos (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each of the two (default: no limit)")
    parser.add_argument(
        "--save", type=Path, default=Path("native/fuzz/build/mutate"), help="where files that differ go"
    )
    options = parser.parse_args()
    module = sample.native()
    if module is None:
        print("error: imagenet_ais_native is not built, or of another version: make setup builds it.", file=sys.stderr)
        return 1
    paths = sorted(
        one
        for path in options.photos
        for one in (path.rglob("*") if path.is_dir() else [path])
        if one.suffix.lower() in (".jpg", ".jpeg")
    )
    print(f"{module.__file__}: imagenet-ais-native {module.__version__}, {len(paths)} photos, seed {options.seed}")
    results = []
    plans: list[tuple[str, Callable[[], list[Parts]], int]] = [
        ("small", lambda: small_files(paths, options.seed), options.small),
        ("large", lambda: large_files(paths), options.large),
    ]
    for title, make, count in plans:
        originals = make() if count else []
        if originals:
            start = time.process_time()
            results.append(run(originals, count, options.seed, time.monotonic() + options.seconds))
            report(title, results[-1], options.save)
            print(f"{time.process_time() - start:.0f} s of CPU\n", flush=True)
    return int(any(result.differences for result in results))


if __name__ == "__main__":
    sys.exit(main())
