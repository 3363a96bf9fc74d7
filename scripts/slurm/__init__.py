"""Jobs on SLURM: the job script of a resolved configuration, and its submission."""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from copy import deepcopy
from pathlib import Path

from scripts.submission import Submission, SubmitConfig
from sources.errors import ClusterError, ConfigError
from training.config.options import require
from training.run_dir.run_id import own_directory

CHECKOUT = Path(__file__).resolve().parent.parent.parent
TEMPLATE = Path(__file__).with_name("job.sbatch")
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_SBATCH_TIMEOUT_S = 120
_MEETING_POINT = (
    'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) # no scontrol in images'
)


def submit(config: Submission, dry_run: bool) -> None:
    """Render, check and queue the job of a resolved configuration. Raises UserError."""
    config = with_absolute_paths(config)
    check(config)
    _check_run(config)
    if not dry_run:
        config = dataclasses.replace(config, run_dir=own_directory(config.run_dir))
    folder = Path(config.run_dir) / "submitted" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    script = render(config, folder)
    if dry_run:
        print(script, end="")
        return
    for tool in ("sbatch", "scontrol"):
        if shutil.which(tool) is None:
            raise ClusterError(f"there is no {tool} on the PATH: submit from a machine that has SLURM's commands.")
    from training.run_dir.records import config_yaml

    try:
        folder.mkdir(parents=True)
        (folder.parent.parent / "logs").mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(config_yaml(config.run), encoding="utf-8")
        (folder / "job.sbatch").write_text(script, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"run_dir={config.run_dir} cannot be written to: {error.strerror}.") from None
    try:
        job = _sbatch(folder / "job.sbatch")
    except ClusterError:
        shutil.rmtree(folder)
        raise
    nodes, processes = config.submit.nodes, config.submit.tasks_on_a_node
    print(
        f"submitted job {job}: {nodes} x {processes} processes, up to epoch {config.train.epochs}\n"
        f"  run directory  {config.run_dir}\n"
        f"  job script     {folder / 'job.sbatch'}\n"
        f"  state          squeue --job {job}\n"
        f"  follow         tail -F {shlex.quote(f'{config.run_dir}/logs/{job}.log')} "
        f"{shlex.quote(f'{config.run_dir}/logs/latest.log')}\n"
        f"  stop           scancel {job}; the same command goes on from the last checkpoint",
        flush=True,
    )


def with_absolute_paths(config: Submission) -> Submission:
    """A copy that means the same from anywhere, and without this shell's AIS_ENDPOINT."""
    config = deepcopy(config)
    data, model = config.data, config.model
    config.run_dir = str(Path(config.run_dir).absolute())
    for name in ("root", "train_shards", "val_shards"):
        if value := getattr(data, name):
            setattr(data, name, str(Path(value).absolute()))
    data.endpoint = data.endpoint or (os.environ.get("AIS_ENDPOINT", "") if data.source == "aistore" else "")
    if Path(model.weights).is_file():
        model.weights = str(Path(model.weights).absolute())
    return config


def check(config: Submission) -> None:
    """Raise ConfigError for what would fail in the queue, or on a node."""
    options = config.submit
    for name in ("partition", "account", "qos", "constraint", "mem"):
        value = getattr(options, name)
        require(
            re.fullmatch(r"[^\s#'\"\\]*", value) is not None,
            f"submit.{name}={value!r} cannot be a value of sbatch's --{name}: it holds a space, a quote or #.",
        )
    for line in options.extra:
        require(
            re.fullmatch(r"-[^\n]*", line) is not None,
            f"submit.extra: {line!r} is not an option of sbatch: write --exclusive, or --reservation=NAME.",
        )
    require(
        re.search(r"[\n\"\\]", config.run_dir) is None,
        f"run_dir={config.run_dir!r} cannot be written into a job script: it holds a quote, a backslash or a line end.",
    )
    limit = seconds(options.time)
    require(
        limit is None or limit > options.signal_s,
        f"submit.time={options.time} is not more than submit.signal_s={options.signal_s} s: each attempt would be "
        "asked to stop at once. sbatch reads 90 as minutes, and otherwise MM:SS, HH:MM:SS or DAYS-HH:MM:SS.",
    )
    require(
        config.device != "cuda" or options.gpus_per_node > 0,
        "device=cuda, but submit.gpus_per_node=0 asks for nodes without GPUs: set submit.gpus_per_node.",
    )
    require(
        config.device != "cpu" or options.gpus_per_node == 0,
        f"device=cpu would leave submit.gpus_per_node={options.gpus_per_node} idle: use submit.tasks_per_node.",
    )


def seconds(limit: str) -> int | None:
    """A time limit as sbatch reads it; None for no limit of ours. Raises ConfigError."""
    if limit.lower() in ("", "0", "infinite", "unlimited"):
        return None
    match = _TIME.fullmatch(limit)
    if match is None:
        raise ConfigError(f"submit.time={limit} is not a time limit: write MM:SS, HH:MM:SS or DAYS-HH:MM:SS.")
    days, *rest = match.groups()
    numbers = [int(number) for number in rest if number is not None]
    if days is None:  # minutes, minutes:seconds or hours:minutes:seconds
        numbers = [0, *numbers] if len(numbers) < 3 else numbers
    hours, minutes, secs = [*numbers, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs


def _check_run(config: Submission) -> None:
    """Raise ConfigError if ``run_dir`` holds something else or another run, or the model does not exist."""
    from training.model.bundle import builder
    from training.run_dir import records
    from training.state import compatibility  # here, so that a typing error need not wait for torch

    builder(config.model.name).require_model(config.model.name)
    records.require_ours(config)
    recorded = records.recorded(Path(config.run_dir))
    if recorded is None or config.allow_changes:
        return
    now = recorded | {"config": dataclasses.asdict(config.run)}
    if changes := compatibility.changes_of_result(recorded, now):
        listed = "".join(f"\n  {change}" for change in changes)
        raise ConfigError(
            f"the run in {config.run_dir} was begun with other options:{listed}\n"
            "Undo these changes, choose another run_dir, or accept them with allow_changes=true."
        )


def render(config: Submission, folder: Path) -> str:
    """The job script, which reads its configuration from ``folder``."""
    options = config.submit
    lines = [f"#SBATCH {option}" for option in [*_sbatch_options(options, config.run_dir), *options.extra]]
    srun_options = [f"--cpus-per-task={options.cpus_per_task}"]
    if options.container_image:
        shards = [
            re.split(r"[{*?\[]", path)[0].rpartition("/")[0]
            for path in (config.data.train_shards, config.data.val_shards)
        ]
        paths = dict.fromkeys(path for path in (str(CHECKOUT), config.run_dir, config.data.root, *shards) if path)
        srun_options += [
            f"--container-image={options.container_image}",
            f"--container-mounts={','.join(f'{path}:{path}' for path in paths)}",
            f"--container-workdir={CHECKOUT}",
        ]
    own_python = not options.setup and not options.container_image
    values = {
        "options": "\n".join(lines),
        "checkout": shlex.quote(str(CHECKOUT)),
        "run_dir": shlex.quote(config.run_dir),
        "submitted": shlex.quote(str(folder)),
        "python": shlex.quote(sys.executable) if own_python else "python",
        "max_restarts": str(options.max_restarts),
        "srun_options": shlex.join(srun_options),
        "setup": "\n".join([*options.setup, *([_MEETING_POINT] if options.container_image else [])]),
    }
    return re.sub(r"@(\w+)@", lambda match: values[match[1]], TEMPLATE.read_text(encoding="utf-8"))


def _sbatch_options(options: SubmitConfig, run_dir: str) -> list[str]:
    log = f"{run_dir}/logs".replace("%", "%%") + "/%j.log"
    words = [
        f"--job-name={options.name}",
        f"--nodes={options.nodes}",
        f"--ntasks-per-node={options.tasks_on_a_node}",
        f"--cpus-per-task={options.cpus_per_task}",
    ]
    if options.gpus_per_node:  # not per task: NCCL reaches a peer's GPU only if it sees it
        words.append(f"--gpus-per-node={options.gpus_per_node}")
    for name in ("mem", "time", "partition", "account", "qos", "constraint"):
        if value := getattr(options, name):
            words.append(f"--{name}={value}")
    return [*words, f"--signal=USR1@{options.signal_s}", "--requeue", "--open-mode=append", f'--output="{log}"']


def _sbatch(script: Path) -> str:
    """Queue a job; the answer is its id. Raises ClusterError with sbatch's own words."""
    command = ["sbatch", "--parsable", str(script)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_SBATCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ClusterError(f"sbatch did not answer in {_SBATCH_TIMEOUT_S} s: is SLURM's controller up?") from None
    said = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in process.stderr.splitlines()]
    if process.returncode:
        raise ClusterError(f"SLURM refused the job: {'; '.join(said) or f'exit code {process.returncode}'}.")
    if said:
        print("\n".join(said), file=sys.stderr)
    return process.stdout.strip().split(";")[0]
