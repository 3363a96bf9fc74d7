"""ImageNet as people download it, small: archives, Kaggle's folder and zip, Parquet files; of real photos.

All four hold the same photos under the names that each of them gives: six training and three validation photos of each
of four classes.
"""

import csv
import io
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

IDS = {"n02129165": 190, "n01440764": 449, "n03085013": 543, "n02120079": 159}
"""Their numbers in the devkit."""

BY_ID = tuple(IDS)
WNIDS = tuple(sorted(IDS))
TRAIN, VAL = 6, 3


def training(photos: Sequence[Path]) -> Iterator[tuple[str, str, bytes]]:
    """(wnid, original name, bytes); names in an order that is not their bytewise one."""
    for number, wnid in enumerate(WNIDS):
        for k in range(TRAIN):
            yield wnid, f"{wnid}_{9 + k}.JPEG", photos[TRAIN * number + k].read_bytes()


def validation(photos: Sequence[Path]) -> Iterator[tuple[str, str, bytes]]:
    """As ``training``; the classes take turns."""
    for k in range(VAL * len(WNIDS)):
        yield BY_ID[k % 3 if k < 9 else 3], f"ILSVRC2012_val_{k + 1:08d}.JPEG", photos[500 + k].read_bytes()


def imagefolder(photos: Sequence[Path], root: Path) -> Path:
    """What all others become."""
    for split, rows in (("train", training(photos)), ("val", validation(photos))):
        for wnid, name, data in rows:
            path = root / split / wnid / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return root


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def archives(photos: Sequence[Path], folder: Path) -> Path:
    """The three archives, in a folder."""
    folder.mkdir(parents=True)
    inner: dict[str, list[tuple[str, bytes]]] = {}
    for wnid, name, data in training(photos):
        inner.setdefault(wnid, []).append((name, data))
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in BY_ID:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                for name, data in reversed(inner[wnid]):
                    _add(tar, name, data)
            _add(outer, f"{wnid}.tar", buffer.getvalue())
    rows = list(validation(photos))
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for _, name, data in reversed(rows):
            _add(tar, name, data)
    truth = "".join(f"{IDS[wnid]}\n" for wnid, _, _ in rows)
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        _add(tar, "ILSVRC2012_devkit_t12/readme.txt", b"hello")
        _add(tar, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.encode())
    return folder


def kaggle(photos: Sequence[Path], root: Path) -> Path:
    """Kaggle's folder."""
    images = root / "ILSVRC" / "Data" / "CLS-LOC"
    for wnid, name, data in training(photos):
        (images / "train" / wnid).mkdir(parents=True, exist_ok=True)
        (images / "train" / wnid / name).write_bytes(data)
    for folder in ("val", "test"):
        (images / folder).mkdir()
    (images / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(photos[0].read_bytes())
    with open(root / "LOC_val_solution.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", "PredictionString"])
        for wnid, name, data in reversed(list(validation(photos))):
            (images / "val" / name).write_bytes(data)
            writer.writerow([name.removesuffix(".JPEG"), f"{wnid} 85 1 499 272 {wnid} 1 2 3 4 "])
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} words, of it\n" for wnid in WNIDS))
    return root


def kaggle_zip(photos: Sequence[Path], folder: Path) -> Path:
    """Kaggle's zip, packed and not packed by turns."""
    root = kaggle(photos, folder / "unpacked")
    path = folder / "imagenet-object-localization-challenge.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, file in enumerate(sorted(root.rglob("*"), reverse=True)):
            method = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.write(file, file.relative_to(root), compress_type=method)
    return path


def parquet(photos: Sequence[Path], root: Path) -> Path:
    """Hugging Face's files: two of training, one of validation, one of test photos without labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "data").mkdir(parents=True)
    train = sorted(training(photos), key=lambda row: row[1][::-1])
    files = {
        "train-00000-of-00002": train[:10],
        "train-00001-of-00002": train[10:],
        "validation-00000-of-00001": list(validation(photos)),
        "test-00000-of-00001": [("", "ILSVRC2012_test_00000001.JPEG", b"x")],
    }
    for file, rows in files.items():
        images = [{"bytes": data, "path": f"{name[:-5]}_{wnid}.JPEG"} for wnid, name, data in rows]
        labels = [WNIDS.index(wnid) if wnid else -1 for wnid, _, _ in rows]
        table = pa.table({"image": images, "label": labels})
        pq.write_table(table, root / "data" / f"{file}.parquet", row_group_size=4)
    return root
