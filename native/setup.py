"""The extension; everything else is in pyproject.toml.

A C compiler is enough. libjpeg-turbo 2.1 or newer, where its headers are, decodes what our own decoder leaves:
IMAGENET_AIS_LIBJPEG_TURBO names a prefix to link statically; 0 does without it.
"""

import os
import tempfile
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

here = Path(__file__).resolve().parent
version = tomllib.loads((here / "pyproject.toml").read_text())["project"]["version"]
setting = os.environ.get("IMAGENET_AIS_LIBJPEG_TURBO", "")
prefix = setting if setting != "0" else ""
lib = next((Path(prefix, name) for name in ("lib64", "lib") if Path(prefix, name).exists()), None) if prefix else None

TRY = """
#include <stdio.h>
#include <jpeglib.h>
#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "another library, or an older one"
#endif
int main(void) { struct jpeg_error_mgr errors; return jpeg_std_error(&errors) == NULL; }
"""


class Build(build_ext):
    """build_ext, with libjpeg-turbo where it is found."""

    def build_extension(self, ext: Extension) -> None:
        """Build it."""
        if prefix or (setting != "0" and self.finds_libjpeg_turbo()):
            ext.define_macros.append(("HAVE_LIBJPEG_TURBO", "1"))
            ext.libraries = [] if prefix else ["jpeg"]
        else:
            print("without libjpeg-turbo: Pillow decodes what our own decoder leaves")
        super().build_extension(ext)

    def finds_libjpeg_turbo(self) -> bool:
        """Whether a program with its headers compiles and links."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "jpeg.c")
            source.write_text(TRY)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder)
                self.compiler.link_executable(objects, str(Path(folder, "jpeg")), libraries=["jpeg"])
            except (CompileError, LinkError):
                return False
        return True


setup(
    cmdclass={"build_ext": Build},
    ext_modules=[
        Extension(
            "imagenet_ais_native",
            sorted(str(path.relative_to(here)) for path in (here / "src").glob("*.c")),
            depends=["pyproject.toml", *sorted(str(path.relative_to(here)) for path in (here / "src").glob("*.h"))],
            define_macros=[("VERSION", f'"{version}"')],
            include_dirs=[str(Path(prefix, "include"))] if prefix else [],
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
