"""The oldest versions that pyproject.toml allows, one requirement a line, for pip: ``python .ci/oldest.py``."""

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"

for requirement in tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]:
    print(re.sub(r">=([^,]+).*", r"==\1", requirement))
