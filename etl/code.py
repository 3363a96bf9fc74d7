"""Which code makes the samples: for "the same code?" between a run and its checkpoint, a client and its ETL."""

import hashlib
from pathlib import Path


def code_sha256() -> str:
    """Fingerprint of all code that decides what an ETL answers. cloudpickle's bytes differ from process to process."""
    digest = hashlib.sha256()
    for name in ("sample.py", "request.py", "server.py", "protocol.py", "files.py", "limits.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()
