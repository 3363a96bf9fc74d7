"""Two runs are the same, or part at a sample, a figure or the weights that can be named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.compare_runs import main
from tests.conftest import TINY, Result, write_image
from training.loader.order import epoch_order

Train = Callable[..., Result]


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Callable[[Result, Result], tuple[int, str]]:
    def call(a: Result, b: Result) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(a.run_dir), str(b.run_dir)])
        output = capsys.readouterr()
        return code, output.out + output.err

    return call


def test_the_same_and_where_others_part(
    train: Train, small_folder: Path, compare: Callable[[Result, Result], tuple[int, str]]
) -> None:
    words = [*TINY, "data.fingerprint=full"]
    a = train(f"data.root={small_folder}", *words, "run_dir=a")
    again = train(f"data.root={small_folder}", *words, "run_dir=again", "data.prefetch=2")
    assert compare(a, again) == (
        0,
        "the same run: 2 epochs of samples and 8 lines of figures and the weights are equal\n",
    )

    seed = train(f"data.root={small_folder}", *words, "seed=1", "run_dir=seed")
    code, text = compare(a, seed)
    first = [int(epoch_order(36, seed, 0)[0]) for seed in (0, 1)]
    assert code == 1
    assert f"samples  epoch 1, sample 1 of 36 (step 1): index {first[0]} here, {first[1]} there" in text
    assert "figures  epoch 1, step 2: loss of the train_step is" in text
    assert "weights  " in text and text.endswith("  seed: 0 → 1\n")

    # One photo is another one of the same length in bytes: no listing shows it, the stream and the probe do.
    changed = small_folder.with_name("changed")
    shutil.copytree(small_folder, changed)
    path = changed / "train" / "dog" / "7.jpg"
    index = 12 + sorted(f"{number}.jpg" for number in range(12)).index("7.jpg")
    size = path.stat().st_size
    for seed_of_pixels in range(1000):
        write_image(path, seed=5000 + seed_of_pixels)
        if path.stat().st_size <= size:
            path.write_bytes(path.read_bytes() + bytes(size - path.stat().st_size))
            break
    photo = train(f"data.root={changed}", *words, "run_dir=photo")
    position = epoch_order(36, 0, 0).tolist().index(index)
    code, text = compare(a, photo)
    assert code == 1
    expected = f"sample {position + 1} of 36 (step {position // 12 + 1}): its pixels or label (index {index})"
    assert f"samples  epoch 1, {expected}\n" in text
    assert "data set train, content of samples: " in text and text.count("→") == 1


def test_runs_that_cannot_be_compared(
    train: Train, small_folder: Path, tmp_path: Path, compare: Callable[[Result, Result], tuple[int, str]]
) -> None:
    a = train(f"data.root={small_folder}", *TINY, "train.epochs=1", "run_dir=a")
    code, text = compare(a, Result(0, "", tmp_path))
    assert code == 2 and "is not the directory of a run" in text
    (a.run_dir / "environment.json").unlink()
    code, text = compare(a, a)
    assert code == 2 and "cannot be compared" in text
