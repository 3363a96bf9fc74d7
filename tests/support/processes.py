"""The processes of this machine, as /proc knows them."""

from pathlib import Path


def processes() -> dict[int, tuple[int, int, str]]:
    """Living processes: id → (parent, group, state)."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            found[int(path.parent.name)] = (int(parent), int(group), state)
    return found


def pod_processes(server: int) -> list[int]:
    """All processes in the groups of the server's children."""
    found = processes()
    groups = {process for process, (parent, _, _) in found.items() if parent == server}
    return [process for process, (_, group, _) in found.items() if group in groups]
