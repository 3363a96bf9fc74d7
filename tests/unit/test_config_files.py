"""A configuration file of one's own or of somebody else: options are taken, anything else is a sentence."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from sources.errors import ConfigError
from tests.conftest import PROJECT
from training.config.compose import EXPECTED_ERRORS, check, explain, register
from training.config.files import check_words, load_file
from training.config.options import MOVED, options_of, with_present_names
from training.config.schema import Config
from training.run_dir.files import MARK
from training.run_dir.records import config_yaml

HEADER = """\
defaults:
- /schema
- _self_
- override /hydra/job_logging: none
- override /hydra/hydra_logging: none
hydra:
  run:
    dir: .
  output_subdir: null
"""


def sentence(folder: Path, *overrides: str, name: str = "config") -> str:
    """What is said of ``folder``'s configuration; empty if it is taken."""
    register()
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            check(compose(name, overrides=["data.root=/data", *overrides]))
    except EXPECTED_ERRORS as error:
        return explain(error)
    return ""


def write(folder: Path, content: str | bytes, name: str = "config.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_what_a_run_records_is_taken(tmp_path: Path) -> None:
    write(tmp_path, config_yaml(Config()))
    assert sentence(tmp_path) == ""


def with_schema(content: str | bytes) -> bytes:
    return b"defaults: [/schema, _self_]\n" + (content if isinstance(content, bytes) else content.encode())


FORMER = "train: {lr: 0.3, schedule: cosine, epochs: 7}\nsubmit: {nodes: 2, setup: ['echo \\${x}'], k8s: {image: a}}\n"
"""As versions recorded it that had these options in a run's configuration."""


def recorded(content: str) -> bytes:
    return f"{MARK}: python train.py\n".encode() + with_schema(content)


def test_what_an_older_version_recorded_is_read_by_todays_names(tmp_path: Path) -> None:
    path = write(tmp_path, recorded(FORMER))
    assert sentence(tmp_path) == "" and sentence(tmp_path, "train.lr=1") == "train.lr is called optim.lr now."
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = check(compose("config", overrides=["data.root=/data"]))
    assert (config.optim.lr, config.optim.schedule, config.train.epochs) == (0.3, "cosine", 7)
    record = load_file(path)
    assert record["optim"] == {"lr": 0.3, "schedule": "cosine"} and record["train"] == {"epochs": 7}
    assert "submit" not in record


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (with_schema("train: {lr: 0.3}\n"), "train.lr is called optim.lr now."),
        (with_schema("submit: {nodes: 2}\n"), "submit.… is of a job and not of a run"),
        (recorded("train: {lrr: 0.3}\n"), "there is no option train.lrr"),
        (recorded("train: {lr: {a: 1}}\n"), "optim.lr: "),
        (recorded("train: {lr: many}\n"), "optim.lr: Value 'many'"),
        (recorded("optim: 5\ntrain: {lr: 1}\n"), "optim is a group of options"),
    ],
)
def test_a_file_is_a_record_only_if_it_says_so(tmp_path: Path, content: bytes, expected: str) -> None:
    write(tmp_path, content)
    said = sentence(tmp_path)
    assert expected in said and len(said.splitlines()) == 1


def test_present_names_stay_and_what_is_no_group_does_too() -> None:
    present = {"optim": {"lr": 1}, "train": {"epochs": 2}, "seed": 0}
    assert with_present_names(present) == present
    assert with_present_names({"train": {"lr": 1}, "optim": 5}) == {"train": {}, "optim": 5}
    assert with_present_names({"train": [1], "submit": 3, 4: "x"}) == {"train": [1], 4: "x"}
    before = {"train": {"lr": 1}}
    assert with_present_names(before) == {"train": {}, "optim": {"lr": 1}} and before == {"train": {"lr": 1}}
    names = {item.name for item in options_of(Config)}
    assert not names & set(MOVED) and set(MOVED.values()) <= names


CODE = {
    "an environment variable": "hydra:\n  job:\n    env_set:\n      LD_PRELOAD: /tmp/x.so\n",
    "copied variables": "hydra:\n  job:\n    env_copy: [AIS_AUTHN_TOKEN]\n",
    "a callback": "hydra:\n  callbacks:\n    x:\n      _target_: os.system\n",
    "a launcher": "hydra:\n  launcher:\n    _target_: os.system\n",
    "a sweeper": "hydra:\n  sweeper:\n    _target_: os.system\n",
    "a search path": "hydra:\n  searchpath: [file:///tmp]\n",
    "a folder for Hydra's files": "hydra:\n  output_subdir: .hydra\n",
    "another folder": "hydra:\n  run:\n    dir: /tmp/x\n",
    "a folder to change to": "hydra:\n  job:\n    chdir: true\n",
    "a help text": "hydra:\n  help:\n    template: ${oc.env:AIS_AUTHN_TOKEN}\n",
    "logging": "hydra:\n  job_logging:\n    version: 1\n    formatters:\n      x:\n        (): os.system\n",
    "another mode": "hydra:\n  mode: MULTIRUN\n",
    "by a merge": "x: &x\n  job:\n    env_set: {LD_PRELOAD: x}\nhydra:\n  <<: *x\n",
    "a group's choice": "defaults: [/schema, _self_, {override /hydra/launcher: joblib}]\n",
    "another logging": "defaults: [/schema, _self_, {override /hydra/job_logging: default}]\n",
    "a callback's file": "defaults: [/schema, _self_, /hydra/callbacks/x]\n",
    "a package": "defaults: [/schema, _self_, {data@hydra.job: imagefolder}]\n",
    "a package in the header": "# @package hydra.job\nenv_set: {LD_PRELOAD: x}\n",
    "a global package in the header": "# @package _global_.hydra.job\nenv_set: {LD_PRELOAD: x}\n",
}


@pytest.mark.parametrize("content", CODE.values(), ids=CODE.keys())
@pytest.mark.parametrize("place", ["config", "experiment"])
def test_settings_of_hydra_are_refused_before_it_acts_on_them(tmp_path: Path, content: str, place: str) -> None:
    name = "config.yaml" if place == "config" else "experiment/mine.yaml"
    if place == "experiment":
        write(tmp_path, "defaults: [schema, _self_, experiment: null]\n")
        content = content if content.startswith("#") else f"# @package _global_\n{content}"
    path = write(tmp_path, content, name)
    said = sentence(tmp_path, *(["experiment=mine"] if place == "experiment" else []))
    assert str(path) in said and ", line " in said and len(said.splitlines()) == 1


def test_files_of_hydras_own_groups_are_refused(tmp_path: Path) -> None:
    write(tmp_path, HEADER.replace("job_logging: none", "job_logging: evil"))
    write(tmp_path, "version: 1\n", "hydra/job_logging/evil.yaml")
    assert "is not taken" in sentence(tmp_path)


@pytest.mark.parametrize(
    "word",
    [
        *("hydra.job.env_set.LD_PRELOAD=x", "+hydra.job.env_set={LD_PRELOAD:x}", "hydra/launcher=joblib"),
        *("++hydra.callbacks.x._target_=os.system", "hydra.searchpath=[file:///tmp]", "~hydra.job", "hydra=x"),
        *("+data@hydra.job=imagefolder", "hydra/job_logging=default", "hydra.sweeper.params=x", "hydra.sweep.dir=/x"),
        *("--experimental-rerun=x.pickle", "--experimental-rerun"),
    ],
)
def test_words_that_make_hydra_run_something_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="runs? code"):
        check_words(["data.root=/x", word])


def test_other_words_are_left_alone() -> None:
    words = ["hydra.mode=MULTIRUN", "hydra.verbose=true", "--multirun", "data.root=/hydra/x.y", "run_dir=hydra"]
    check_words([*words, "--config-path", "/runs/hydra.x", "seed=0,1"])


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


WRONG: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "holds no options"),
    "comments alone": ("# nothing\n", "holds no options"),
    "null": ("null\n", "line 1: options are written as name: value"),
    "a list": ("- seed: 1\n", "line 1: options are written as name: value"),
    "text": ("hello\n", "line 1: options are written as name: value"),
    "a tab": ("train:\n\tlr: 0.1\n", "line 2: a tab begins the line"),
    "a tab after spaces": ("train:\n  \tlr: 0.1\n", "line 2: "),
    "cut in a bracket": ("seed: 0\ndata:\n  scale: [0.08,", "line 3: not YAML"),
    "cut in quotes": ('seed: 0\nrun_dir: "runs/', "line 2: not YAML"),
    "a colon in a value": ("run_dir: a: b\n", "line 1: not YAML"),
    "indented askew": ("train:\n    lr: 1\n  epochs: 2\n", "line 3: not YAML"),
    "twice": ("seed: 1\ntrain: {lr: 1}\nseed: 2\n", "line 3: seed stands there twice"),
    "twice inside": ("train:\n  lr: 1\n  lr: 2\n", "line 3: lr stands there twice"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "line 2: not YAML"),
    "code": ("seed: !!python/object/apply:os.system ['x']\n", "line 1: tag:yaml.org,2002:python"),
    "a tag": ("seed: !mine 5\n", "line 1: !mine is not a type"),
    "binary": ("run_dir: !!binary aGVsbG8=\n", "is not a type"),
    "a set": ("seed: !!set {a, b}\n", "is not a type"),
    "a list as a name": ("[a, b]: 1\n", "the name of an option is plain text"),
    "not UTF-8": (b"seed: 1\nrun_dir: \xff\xfe\n", "line 2: not UTF-8"),
    "NUL": (b"seed: 1\x00\n", "not YAML"),
    "anchors": (laughs(9), "anchors that stand for more than 10,000 values"),
    "many anchors": (laughs(60), "anchors that stand for more than 10,000 values"),
    "an anchor of itself": ("seed: &a [*a]\n", "an anchor that stands for itself"),
    "an anchor that is not": ("seed: *nothing\n", "line 1: not YAML"),
    "deep": ("seed: " + "[" * 5000 + "]" * 5000 + "\n", "line 1: more or deeper nested values"),
    "deep maps": ("{a: " * 900 + "1" + "}" * 900, "line 1: more or deeper nested values"),
    "deep lines": ("".join(f"{' ' * n}a:\n" for n in range(900)), "more or deeper nested values"),
    "long": ("seed: [" + "1," * 100_000 + "]\n", "more or deeper nested values"),
    "large": (b"#" * (2 << 20), "is larger than 1 MB"),
    "misspelt": ("train:\n  epochs: 1\n  bach_size: 5\n", "line 3: there is no option train.bach_size: did you mean"),
    "misspelt group": ("trian:\n  epochs: 1\n", "line 1: there is no option trian"),
    "an option of options": ("seed:\n  a: 1\n", "line 1: seed is an option, and takes a value"),
    "a group's value": ("train: 5\n", "line 1: train is a group of options"),
    "a wrong type": ("train: {epochs: many}\n", "train.epochs: Value 'many'"),
    "a secret": ("run_dir: ${oc.env:AIS_AUTHN_TOKEN}\n", "its value would be recorded"),
    "a hidden secret": ("run_dir: ${${data.bucket}:HOME}\ndata: {bucket: oc.env}\n", "its value would be recorded"),
    "a secret with a default": ("data: {etl: {dependencies: ['a==${oc.env:B,x}']}}\n", "its value would be recorded"),
    "decoded": ("optim: {lr: '${oc.decode:0.5}'}\n", "its value would be recorded"),
    "an unknown resolver": ("run_dir: ${evil:x}\n", "evil"),
    "a missing value": ("run_dir: ${nothing}\n", "nothing"),
}


@pytest.mark.parametrize("case", WRONG.keys())
def test_what_is_wrong_with_a_file_is_a_sentence(tmp_path: Path, case: str) -> None:
    content, expected = WRONG[case]
    begin = time.process_time()
    path = write(tmp_path, content if case in NO_SCHEMA else with_schema(content))
    shown = sentence(tmp_path)
    assert expected in (shown if case in NO_SCHEMA else lines_shifted(shown))
    assert "Traceback" not in shown and len(shown.splitlines()) <= 2
    assert ", line " not in shown or str(path) in shown
    assert time.process_time() - begin < 30, "it was unfolded"


NO_SCHEMA = {
    *("empty", "comments alone", "null", "a list", "text", "code", "large", "deep maps", "not UTF-8", "NUL"),
    *("two documents", "twice", "twice inside", "deep lines"),
}


def lines_shifted(said: str) -> str:
    """Line numbers as if the first line was not there."""
    before, mark, after = said.partition(", line ")
    number, colon, rest = after.partition(":")
    return f"{before}{mark}{int(number) - 1}{colon}{rest}" if mark else said


def test_anchors_that_stand_for_little_are_taken(tmp_path: Path) -> None:
    write(tmp_path, with_schema("data: &d {scale: [0.5, 1.0]}\nmodel: {name: resnet18}\n"))
    assert sentence(tmp_path) == ""


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[[str], tuple[Path, str]]:
    conf = tmp_path / "conf"
    shutil.copytree(PROJECT / "conf", conf)

    def call(content: str) -> tuple[Path, str]:
        path = write(conf, content, "experiment/mine.yaml")
        return path, sentence(conf, "experiment=mine")

    return call


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("# @package _global_\noptim:\n\tlr: 0.1\n", "line 3: a tab begins the line"),
        (
            "# @package _global_\ntrain:\n  keep: 1\n  epoch: 1\n",
            "line 4: there is no option train.epoch: did you mean",
        ),
        (
            "optim:\n  lr: 0.1\n",
            "line 1: its options would be those of a group experiment, which there is not. Make the",
        ),
        ("# @package _global_\noptim:\n  lr: 0.1\n", ""),
        ("# @package _global_\ntrain:\n  lr: 0.1\n", "line 3: train.lr is called optim.lr now."),
        ("# @package _global_\nsubmit: {nodes: 2}\n", "line 2: submit.… is of a job and not of a run"),
        ("# @package optim\nlr: 0.1\n", ""),
        ("# @package train\nlr: 0.1\n", "line 2: train.lr is called optim.lr now."),
        ("# @package optim\nlrr: 0.1\n", "line 2: there is no option optim.lrr"),
    ],
)
def test_an_experiment_of_ones_own(experiment: Callable[[str], tuple[Path, str]], content: str, expected: str) -> None:
    path, said = experiment(content)
    assert expected in said and (str(path) in said) == bool(expected) and len(said.splitlines()) <= 1


def test_reading_a_file_of_a_run_is_as_careful(tmp_path: Path) -> None:
    path = write(tmp_path, laughs(30))
    with pytest.raises(ConfigError, match="anchors"):
        load_file(path)
    with pytest.raises(ConfigError, match="is not a file"):
        load_file(tmp_path)
    write(tmp_path, config_yaml(Config()))
    assert load_file(path)["seed"] == 0


@pytest.mark.parametrize(
    "word", ["run_dir=${oc.env:HOME}", "+data.etl.dependencies=['${oc.env:HOME}']", "seed=${oc.decode:1}"]
)
def test_secrets_are_refused_on_the_command_line(word: str) -> None:
    assert "its value would be recorded" in sentence(PROJECT / "conf", word)
