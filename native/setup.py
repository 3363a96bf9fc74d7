"""The extension; everything else is in pyproject.toml. IMAGENET_AIS_LIBJPEG_TURBO names a prefix to link statically."""

import os
import tomllib
from pathlib import Path

from setuptools import Extension, setup

here = Path(__file__).resolve().parent
version = tomllib.loads((here / "pyproject.toml").read_text())["project"]["version"]
prefix = os.environ.get("IMAGENET_AIS_LIBJPEG_TURBO")
lib = next((Path(prefix, name) for name in ("lib64", "lib") if Path(prefix, name).exists()), None) if prefix else None

setup(
    ext_modules=[
        Extension(
            "imagenet_ais_native",
            sorted(str(path.relative_to(here)) for path in (here / "src").glob("*.c")),
            depends=["pyproject.toml", *sorted(str(path.relative_to(here)) for path in (here / "src").glob("*.h"))],
            define_macros=[("VERSION", f'"{version}"')],
            include_dirs=[str(Path(prefix, "include"))] if prefix else [],
            libraries=[] if prefix else ["jpeg"],
            extra_objects=[str(lib / "libjpeg.a")] if lib else [],
            # A static libjpeg-turbo stays private: another library's libjpeg must not take its place, nor it another's.
            extra_link_args=["-Wl,--exclude-libs,ALL"],
            # No fused multiply-add: the coefficients' last bit would differ from one processor to another.
            extra_compile_args=["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
