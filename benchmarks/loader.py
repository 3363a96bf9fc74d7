"""CPU time per image, all processes, from a folder of real photos to batches: ours beside torchvision's ImageFolder.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.loader [--workers 2] [--repeats 5]

FOLDER holds imagenet-sample.tar. The peer is what pytorch/examples does: ImageFolder with RandomResizedCrop, flip,
ToTensor and Normalize behind a DataLoader. Ours are uint8 batches, as they go to a GPU; "+ normalise" adds what a CPU
then has to do. Rounds are interleaved; each counts the CPU time of all processes between two moments of one epoch.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import compare, photo_folder, session_cpu_s

BATCH = 50
KINDS = ("ImageFolder + DataLoader", "imagenet-ais", "imagenet-ais + normalise")


def batches(kind: str, root: Path, workers: int, epochs: int) -> Iterator[object]:
    """Batches of ``epochs`` epochs."""
    import torch

    torch.set_num_threads(1)
    if kind == KINDS[0]:
        from torchvision import datasets, transforms

        from training.loader import MEAN, STD

        steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        transform = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])
        dataset = datasets.ImageFolder(str(root / "train"), transform)
        loader = torch.utils.data.DataLoader(
            dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        for _ in range(epochs):
            yield from loader
        return
    from aistore_data.folder import FolderReader, scan_folder
    from etl import Spec
    from training.dataset import SampleDataset
    from training.loader import Feed, normalise, open_loader
    from training.sampler import TrainBatches

    manifest, _ = scan_folder(root)
    ours = SampleDataset(FolderReader(root / "train", manifest), manifest, Spec.train(224), seed=0)
    order = TrainBatches(len(manifest), BATCH, seed=0, epochs=epochs)
    with open_loader(ours, order, workers, 4, torch.device("cpu")) as loader:
        for batch in Feed(loader):
            yield normalise(batch.images, channels_last=True) if kind == KINDS[2] else batch


def measure(kind: str, root: Path, workers: int) -> None:
    """Print CPU and wall milliseconds per image over 40 batches, from the fifth on, when the workers are up.

    It stops well before the end, so that at both moments the workers are ahead of the consumer by the same number.
    """
    moments = []
    for number, _ in enumerate(batches(kind, root, workers, epochs=3)):
        if number in (4, 44):
            moments.append((session_cpu_s(), time.perf_counter()))
    cpu_s, wall_s = (after - before for before, after in zip(*moments, strict=True))
    print(json.dumps({"cpu_ms": 1e3 * cpu_s / (40 * BATCH), "wall_ms": 1e3 * wall_s / (40 * BATCH)}))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "ROOT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one[0], Path(args.one[1]), args.workers)
        return 0
    with photo_folder() as root:
        compare("benchmarks.loader", KINDS, args.repeats, root, "--workers", str(args.workers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
