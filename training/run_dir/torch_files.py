"""Files that torch wrote: whether every byte is as it was written, which ``torch.load`` does not look at."""

import pickletools
import zipfile
from pathlib import Path

_DOS_DIRECTORY = 0x10
"""The bit of a record's external attributes by which torch's reader takes it for a folder and fills no tensor."""


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive, as torch writes them since version 1.6. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def damage(path: Path) -> str:
    """What is wrong with an archive of torch's, in words; empty if all its records have the checksum they came with.

    Each record is read once, 1 MB at a time (0.9 GB/s). Torch never compresses, so an archive that does, or whose
    records say that they are larger than the file, is not torch's: unpacking it could take any amount of memory.
    Raises OSError where the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                return "its records are compressed, which torch never does"
            if any(record.is_dir() or record.external_attr & _DOS_DIRECTORY for record in records):
                return "a record is marked as a folder, of which torch reads nothing"
            if sum(record.file_size for record in records) > path.stat().st_size:
                return "its records are larger than the file"
            if bad := archive.testzip():
                name = bad.partition("/")[2] or bad
                return f"its record {name!r} is not what was written (the checksum differs)"
    except OSError as error:
        if error.errno is not None:
            raise
        return "its list of records is damaged"
    except Exception:  # zipfile answers damage with whatever its parsers raise: BadZipFile, ValueError, OverflowError …
        return "it was cut off, or its list of records is damaged"
    return "" if records else "it is empty"


def pickled_names(path: Path) -> set[str]:
    """What the pickle of an archive of torch's makes values of, such as ``torch FloatStorage``; nothing is made.

    ``path`` is an archive without damage. Raises ValueError where there is no pickle, or one that is larger than 64 MB.
    """
    with zipfile.ZipFile(path) as archive:
        record = next((item for item in archive.infolist() if item.filename.endswith("/data.pkl")), None)
        if record is None or record.file_size > 64 << 20:
            raise ValueError("it holds no pickle, or one that is larger than 64 MB")
        operations = list(pickletools.genops(archive.read(record)))
    names = {str(argument) for code, argument, _ in operations if code.name in ("GLOBAL", "INST")}
    computed = {"a computed name" for code, _, _ in operations if code.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4")}
    return names | computed
