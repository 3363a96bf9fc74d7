"""The health of a data set in a bucket."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from aistore_data.embedded import EmbeddedAIS
from scripts.inspect.__main__ import main
from scripts.inspect.data_set import open_data_set
from scripts.inspect.survey import Survey, survey
from sources.splits import SplitOptions


@pytest.mark.parametrize("layout", ["folders", "pairs"])
def test_a_bucket(layout: str, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train, val = small_folder / "train", small_folder / "val"
    Image.new("L", (60, 50)).save(train / "cat" / "grey.jpg")
    (train / "cat" / "none.jpg").write_bytes(b"none")
    shutil.copy(train / "dog" / "0.jpg", val / "dog" / "seen.jpg")
    noise = np.random.default_rng(1).integers(0, 256, (500, 700, 3), np.uint8)
    Image.fromarray(noise).save(val / "eel" / "large.png")  # of which the ends alone are read
    with EmbeddedAIS(tmp_path / "ais", imagefolder=small_folder, layout=layout) as server:
        monkeypatch.setenv("AIS_AUTHN_TOKEN", server.token)
        found = survey(open_data_set("ais://imagenet", server.endpoint, SplitOptions()), deep=False, workers=1)
        assert main(["ais://imagenet", "--endpoint", server.endpoint, "--workers", "1"]) == 1
        assert main(["ais://nothing", "--endpoint", server.endpoint]) == 1
        names = [entry.name for entry in AisStore("ais://imagenet", Access(server.endpoint, server.token)).list("")]
        assert not [name for name in names if name.endswith("manifest.npz")]  # nothing is written
    assert [(finding.kind, finding.split, finding.label) for finding in found.findings] == [
        ("broken", "train", "cat"),
        ("in both splits", "val", "dog"),
        ("mode", "train", "cat"),
    ]
    assert len(found) == 36 + 15 + 4
    if layout == "folders":
        assert [finding.photo for finding in found.findings] == ["cat/none.jpg", "dog/seen.jpg", "cat/grey.jpg"]
    assert largest(found) == (700, 500)


def largest(found: Survey) -> tuple[int, int]:
    width, height = found.sides.max(axis=0).tolist()
    return width, height
