"""How a process tells ``training.processes.launch`` its exit code: after a signal torch's agent does not hand it on."""

import os
from pathlib import Path

VARIABLE = "IMAGENET_AIS_EXITS"
"""Of the environment: the folder in which each process leaves its code."""


def report(code: int) -> None:
    """Leave this process's exit code, where a launcher asks for it. One that cannot be left counts as a failure."""
    folder = os.environ.get(VARIABLE)
    if folder:
        path = Path(folder) / os.environ.get("LOCAL_RANK", "0")
        try:
            path.write_text(f"{code} {os.environ.get('LOCAL_WORLD_SIZE', 1)}")
        except OSError:
            return


def reported(folder: Path) -> list[int]:
    """The codes of all processes, 1 for one that left none; nothing if none did."""
    left = [words for path in folder.iterdir() if len(words := path.read_text().split()) == 2]
    codes, sizes = [int(code) for code, _ in left], [int(size) for _, size in left]
    return codes + [1] * (max(sizes, default=0) - len(codes))
