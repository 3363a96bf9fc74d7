"""Who holds something: a process on a machine, as a file or an object tells others of it."""

import json
import os
import socket
from pathlib import Path
from typing import Any


def myself() -> dict[str, Any]:
    """This process, by machine, boot, process namespace, number and start."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _start_ticks(os.getpid()),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
    }


def is_process_alive(content: str) -> bool | None:
    """Whether the owner that ``myself`` described lives; None where this machine's process table cannot tell."""
    try:
        owner = json.loads(content)
        mine = myself()
        if not mine["boot"] or any(owner[key] != mine[key] for key in ("boot", "namespace")):
            return None
        return _start_ticks(int(owner["pid"])) == owner["started"] is not None
    except (ValueError, KeyError, TypeError):
        return None  # being written, or nothing that we have written


def describe(content: str) -> str:
    """For a sentence: ``, process 17 on node-3``; "" for what nobody of ours has written."""
    try:
        owner = json.loads(content)
        return f", process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return ""


def _start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None if it is gone or a zombie."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
