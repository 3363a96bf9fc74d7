"""The overlays with published figures: what each header promises, and that the documentation says the same."""

import re

import pytest

from tests.conftest import PROJECT
from tests.unit.test_command_line import composed

FOLDER = PROJECT / "conf" / "experiment"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml") if "# Published:" in path.read_text())
ROW = re.compile(
    r"^\| `(\w+)` \| ([^|]+) \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) \(([^)]+)\) \| ([\d.]+)–([\d.]+) \|", re.M
)


def header(name: str) -> str:
    """The comment at the beginning of an overlay, as one line."""
    text = (FOLDER / f"{name}.yaml").read_text()
    comment = re.match(r"(#.*\n)+", text)
    assert comment is not None
    return " ".join(line.lstrip("# ") for line in comment[0].splitlines()[1:])


def rows() -> dict[str, tuple[str, ...]]:
    """Name → the other cells of its row in docs/recipes.md."""
    return {match[1]: match.groups()[1:] for match in ROW.finditer((PROJECT / "docs" / "recipes.md").read_text())}


def test_every_recipe_is_in_the_table() -> None:
    assert len(NAMES) == 10 and sorted(rows()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_header_table_and_options_say_the_same(name: str) -> None:
    text = header(name)
    _, epochs, batch, published, source, low, high = rows()[name]
    assert f"torchrun --nproc-per-node=8 train.py experiment={name} data.root=/data/imagenet" in text
    assert f"Published: {published} % acc@1" in text and source.lower() in text.lower()
    assert f"Expected: acc@1 of {low} to {high} %" in text
    assert "Differs from the original:" in text
    config = composed(f"experiment={name}", "data.root=/data")
    assert config.train.epochs == int(epochs) and config.train.batch_size == int(batch.replace(",", ""))
    assert config.optim.reference_batch == config.train.batch_size
    assert config.optim.peak(config.train.batch_size) == config.optim.lr
    assert config.optim.peak(config.train.batch_size // 4) == config.optim.lr / 4
