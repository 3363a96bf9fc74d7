"""Which code the ETLs run: for "the same code?" between a client and its ETL."""

import hashlib
from pathlib import Path

_FILES = (
    *("sample.py", "spec.py", "crop.py", "fixed_point.py", "resize.py"),
    *("policies.py", "policy_tables.py", "strengths.py", "operations.py"),
    *("request.py", "server.py", "protocol.py", "files.py", "limits.py"),
    *("tar_members.py", "shard_index.py"),
    *("jpeg_index.py", "pod_index.py"),
    *("decoded_rows.py", "decoded_cache.py", "decoded_sample.py", "pod_cache.py", "turns.py"),
)
_CODE_SHA256 = hashlib.sha256(b"".join(Path(__file__).with_name(name).read_bytes() for name in _FILES)).hexdigest()


def code_sha256() -> str:
    """Fingerprint of all code that decides what an ETL answers. cloudpickle's bytes differ from process to process.

    It is taken when this module is imported, as the code itself is: a checkout that changes under a running process
    changes neither.
    """
    return _CODE_SHA256
