"""Write the hashes of requirements.txt and requirements-etl.txt, and the packages that the pinned ones need in turn.

    python .ci/lock.py            needs uv on the PATH, and the package index

To change a version, change its line and run this. Hashes are those of the files that Linux on x86-64 and aarch64 with
CPython 3.11 or newer may install: wheels, and the source where a package has no wheel for everybody. pip then refuses a
file that has changed.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
HEADERS = {
    "requirements.txt": "# Everything but torch, pinned, with what it needs in turn. Ranges are in pyproject.toml.\n",
    "requirements-etl.txt": (
        "# What the container image of the ETLs holds (etl/Dockerfile): the versions of requirements.txt, so that\n"
        "# pixels are equal, and what they need in turn.\n"
    ),
}
APART = ("torch", "torchvision")
"""What timm needs and requirements-torch.txt has: each index has other builds of it."""
ETL = ("aistore[etl]", "numpy", "pillow", "setuptools", "uvicorn[standard]")
"""What the ETLs' image needs itself; setuptools builds the native module."""

_WHEEL = re.compile(r"[^-]+-[^-]+(?:-\d[^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl")


def fits(wheel: str) -> bool:
    """Whether Linux (glibc, x86-64 or aarch64) and CPython 3.11 or newer may install a wheel of this file name."""
    match = _WHEEL.fullmatch(wheel)
    assert match is not None, wheel
    platforms = match["platform"].split(".")
    if not any(re.fullmatch(r"any|(manylinux.*|linux)_(x86_64|aarch64)", name) for name in platforms):
        return False
    for tag in match["python"].split("."):
        version = re.fullmatch(r"(py|cp)3(\d*)", tag)
        if version and (tag.startswith("py3") or match["abi"] == "abi3" or int(version[2] or 0) >= OLDEST[1]):
            return not match["abi"].endswith("t")  # no free-threaded builds
    return False


def hashes(package: dict) -> list[str]:
    """Of the files of one package, sorted."""
    wheels = [wheel for wheel in package.get("wheels", []) if fits(wheel["url"].rpartition("/")[2])]
    files = list(wheels)
    if not any(wheel["url"].endswith("-none-any.whl") for wheel in wheels):
        files += [package["sdist"]] if "sdist" in package else []
    return sorted(file["hashes"]["sha256"] for file in files)


def resolve(requirements: list[str], constraints: list[str]) -> list[dict]:
    """uv's answer: the packages of a lock file as PEP 751 has it."""
    with tempfile.TemporaryDirectory() as folder:
        names = ("in.txt", "limits.txt", "overrides.txt", "pylock.toml")
        inputs, limits, overrides, output = (Path(folder, name) for name in names)
        overrides.write_text("".join(f"{name}; python_version < '0'\n" for name in APART))
        inputs.write_text("\n".join(requirements))
        limits.write_text("\n".join(constraints))
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", ".".join(map(str, OLDEST))]
        command += ["--format=pylock.toml", "--constraints", str(limits), "--overrides", str(overrides)]
        subprocess.run([*command, str(inputs), "-o", str(output)], check=True)
        return tomllib.loads(output.read_text())["packages"]


def pins(text: str) -> list[str]:
    """NAME==VERSION of each line of a requirements file."""
    return re.findall(r"^[A-Za-z0-9][\w.\[\]-]*==[\w.]+", text, re.MULTILINE)


def write(name: str, packages: list[dict]) -> None:
    """The requirements file of these packages."""
    text = HEADERS[name]
    names = Counter(package["name"] for package in packages)
    if several := [package for package, count in names.items() if count > 1]:
        sys.exit(f"{name}: several versions of {', '.join(several)} fit: add a line NAME==VERSION that chooses one.")
    for package in packages:
        marker = package.get("marker", "")
        if any(f"sys_platform == '{other}'" in marker for other in ("win32", "emscripten")):
            continue
        lines = [f"{package['name']}=={package['version']}", *(f"--hash=sha256:{one}" for one in hashes(package))]
        text += " \\\n    ".join(lines) + "\n"
    (ROOT / name).write_text(text)


def main() -> int:
    """The command line."""
    pinned = pins((ROOT / "requirements.txt").read_text())
    packages = resolve(pinned, [])
    write("requirements.txt", packages)
    of_etl = pins((ROOT / "requirements-etl.txt").read_text())
    write("requirements-etl.txt", resolve(list(ETL), [*pinned, *(pin for pin in of_etl if "[" not in pin)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
