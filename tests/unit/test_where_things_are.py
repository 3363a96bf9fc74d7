"""A newcomer finds a concept by the README's list of files: it names each file of the product, in its folder, and no other."""

import re
from pathlib import Path

import pytest

from tests.conftest import PROJECT

FOLDERS = ("training", "aistore_data", "sources", "etl")


def named() -> dict[str, str]:
    """What the list says of each file: path → the words after its name."""
    section = (PROJECT / "README.md").read_text().split("## Where things are")[1].split("\n## ")[0]
    files: dict[str, str] = {}
    for folder, words in re.findall(r"^\| (?:\*\*)?`([a-z_/]+)/`(?:\*\*)? \| (.*) \|$", section, re.MULTILINE):
        for names, about in re.findall(r"((?:`[a-z_]+`(?:, )?)+) ?([^·`]*)", words):
            for name in re.findall(r"`([a-z_]+)`", names):
                files[f"{folder}/{name}.py"] = about.strip()
    return files


def present() -> set[str]:
    found = {str(path.relative_to(PROJECT)) for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py")}
    return {
        name
        for name in found
        if Path(name).stem not in ("__init__", "__main__") and not name.startswith("aistore_data/embedded/")
    }


def test_each_file_is_named_in_its_folder() -> None:
    listed = {name for name in named() if name.split("/")[0] in FOLDERS}
    assert listed == present()


CONCEPTS = {
    "the permutation of an epoch": "training/loader/order.py",
    "optimiser": "training/optim/optimizers.py",
    "learning rate": "training/optim/schedule.py",
    "from bytes to pixels": "etl/sample.py",
    "atomic": "training/run_dir/checkpoint.py",
    "SIGTERM": "training/processes/preemption.py",
    "exit code 85": "training/processes/preemption.py",
    "one run at a time": "sources/lease.py",
    "metrics, TensorBoard": "training/run_dir/records.py",
    "ranks": "training/processes/world.py",
    "where a run goes on": "training/state/resume.py",
    "a bucket's manifest": "aistore_data/bucket/listing.py",
    "deadline": "aistore_data/dataset/policy.py",
    "retry": "aistore_data/dataset/policy.py",
    "an ETL counts as broken": "aistore_data/dataset/breaker.py",
    "DDP": "training/engine/build.py",
    "data sources by name": "training/loader/open_data.py",
    "loss": "training/engine/objective.py",
    "weight decay": "training/optim/groups.py",
    "precision": "training/engine/numerics.py",
    "what a checkpoint holds": "training/state/train_state.py",
    "every option": "training/config/schema.py",
    "corrupt": "sources/substitutes.py",
    "every random stream": "sources/randomness.py",
    "the proof of its answer": "etl/request.py",
    "tokens and TLS": "aistore_data/client/credentials.py",
    "a copy in a bucket": "training/run_dir/mirror.py",
    "which node holds an object": "aistore_data/client/placement.py",
    "shared memory": "training/loader/ring.py",
    "mean": "training/model/bundle.py",
    "torchrun": "training/processes/launch.py",
}
"""Words for a concept → the file that has it."""


@pytest.mark.parametrize("words", CONCEPTS)
def test_a_concept_leads_to_its_file(words: str) -> None:
    parts = [part.strip() for part in words.split(",")]
    found = [
        name for name, about in named().items() if all(part.lower() in f"{name} {about}".lower() for part in parts)
    ]
    assert CONCEPTS[words] in found and len(found) <= 3, found
