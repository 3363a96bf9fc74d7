"""Where a command puts a data set, held against a second one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aistore_data.upload.claim import Claim
from aistore_data.upload.command import open_bucket, print_line
from aistore_data.upload.destination import Bucket, Folder
from sources.errors import ConfigError
from training.run_dir.lock import RunLock


@contextmanager
def opened(dest: str, endpoint: str) -> Iterator[tuple[Folder | Bucket, Callable[[], None]]]:
    """A folder or a bucket to write to, held as long as the context, and what tells that it was taken away."""
    if "://" in dest:
        bucket = open_bucket(dest, endpoint)
        with Claim(bucket.sdk, bucket.uri, print_line) as claim:
            yield bucket, claim.check
        return
    with opened_folder(dest) as held:
        yield held


@contextmanager
def opened_folder(dest: str) -> Iterator[tuple[Folder, Callable[[], None]]]:
    """The same where ``dest`` can be a folder alone."""
    folder = Folder(Path(dest).absolute())
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"DEST={dest} cannot be made: {error.strerror}. Choose another one.") from None
    with RunLock(folder.root, print_line, "DEST") as lock:
        folder.prepare()
        yield folder, lock.check
        folder.finish()
