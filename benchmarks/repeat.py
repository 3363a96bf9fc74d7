"""What it costs that a run can be repeated and killed: the stream's fingerprint and the checkpoints.

    python -m benchmarks.repeat [--model resnet50] [--size 224] [--batch 16] [--repeats 5] [--folder DIR]

One process, interleaved rounds: a training step, the hashes of its batch (off, sampled, full), and writing a
checkpoint to ``--folder``, fsync included. A step on a GPU is some hundred times faster than on two CPU cores and the
hashes are not, so compare the milliseconds with your own step's.
"""

import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch

from benchmarks.loop import bare
from benchmarks.results import Table, begin, parser, rows
from training.config.data_options import DataConfig
from training.config.schema import Config
from training.config.train_options import ModelConfig, TrainConfig
from training.engine.build import assemble
from training.loader.fingerprint import PIXELS_OF_ONE_IN, SampleFingerprint
from training.loader.open_data import open_data
from training.processes.preemption import StopFlag
from training.processes.world import World
from training.run_dir import checkpoint
from training.state.run_state import contents


def main() -> int:
    """The command line."""
    options = parser(__doc__, model="resnet50", size=224, batch=16, repeats=5, folder="").parse_args()
    result = begin(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = Config(
        data=DataConfig(source="synthetic", image_size=options.size, train_samples=options.batch, val_samples=1),
        model=ModelConfig(name=options.model),
        train=TrainConfig(batch_size=options.batch),
    )
    with open_data(config, options.batch, World(), print) as data:
        run = assemble(config, World(), device, StopFlag(), data)
        keys = [(0, index) for index in range(options.batch)]
        batch = data.train.__getitems__(keys)
    step = bare(config, 1, device)
    step()  # the momentum is made, and the kernels are chosen
    for parameter in run.state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    run.state.optimizer.step()
    per_image, per_save = defaultdict(list), defaultdict(list)
    size = 0
    with tempfile.TemporaryDirectory(dir=options.folder or None) as folder:
        for _ in range(options.repeats):
            per_image["training step"].append(1e3 * step()[1] / options.batch)
            for mode in PIXELS_OF_ONE_IN:
                stream, start = SampleFingerprint(mode), time.process_time()
                for number in range(20):
                    positions = range(number * options.batch, (number + 1) * options.batch)
                    stream.add(batch._replace(positions=positions))
                stream.take()
                per_image[f"fingerprint={mode}"].append(1e3 * (time.process_time() - start) / 20 / options.batch)
            start = time.perf_counter()
            size = checkpoint.save(Path(folder), contents(run)).stat().st_size
            per_save["checkpoint"].append(time.perf_counter() - start)
    what = f"{options.model} on {device}, batch {options.batch}"
    result.add(Table("step", f"A step and what repeatability adds: {what}", "ms per image", rows(per_image)))
    result.add(Table("checkpoint", f"A checkpoint, {size / 1e6:.0f} MB with momentum", "s", rows(per_save)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
