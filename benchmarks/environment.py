"""An environment of its own for the peers, which sees the trainer's packages: ``python -m benchmarks.environment DIR``.

Run by the trainer's Python. The packages of ``benchmarks/requirements.txt`` are installed one line after the other;
DIR/not-installed.json names those that could not be, and why.
"""

import json
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

KEPT = ("torch", "torchvision", "numpy", "pillow", "aistore")
"""Packages whose versions stay those of the trainer."""


def requirement_lines(text: str) -> list[list[str]]:
    """The words of each line of a requirements file, comments and blank lines left out."""
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return [words for words in lines if words]


def package_of(word: str) -> str:
    """The name in a requirement such as ``ffcv==1.0.2``."""
    return re.split(r"[=<>!~\[;]", word)[0]


def reason(output: str) -> str:
    """The line of pip's output that says why: the first exception of a build, else pip's first error."""
    lines = [line.strip() for line in output.splitlines()]
    for pattern in (r"\w+Error: ", r"(?i)error: "):
        for line in lines:
            if re.match(pattern, line):
                return line[:160]
    return next((line for line in reversed(lines) if line), "pip said nothing")[:160]


def make(folder: Path, requirements: Path) -> dict[str, str]:
    """Make the environment; answers the packages that are missing, each with the reason."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    python = folder / "bin" / "python"
    query = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site_packages = Path(subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip())
    # After its own packages in the path, so that torch need not be installed twice.
    (site_packages / "trainer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version(name)}\n" for name in KEPT))
    missing: dict[str, str] = {}
    for words in requirement_lines(requirements.read_text()):
        print("pip install", *words, flush=True)
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", "-c", str(constraints)]
        done = subprocess.run([*pip, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            why = reason(done.stdout)
            print(f"  not installed: {why}", flush=True)
            missing |= {package_of(word): why for word in words if not word.startswith("-")}
    (folder / "not-installed.json").write_text(json.dumps(missing, indent=1) + "\n")
    return missing


if __name__ == "__main__":
    make(Path(sys.argv[1]).absolute(), Path(__file__).with_name("requirements.txt"))
