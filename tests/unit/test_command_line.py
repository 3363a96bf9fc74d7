"""The command line: frozen names and defaults, composed configurations, and a sentence for each mistake."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scripts.submission import Submission
from sources.errors import ConfigError
from tests.conftest import PROJECT
from training.config.compose import EXPECTED_ERRORS, check, explain, option_help, register
from training.config.schema import Config, describe_options
from training.run_dir.records import config_yaml

FROZEN = Path(__file__).parent / "command_line.txt"


def composed(
    *overrides: str, folder: Path = PROJECT / "conf", name: str = "config", schema: type[Config] = Config
) -> Config:
    register(schema)
    with initialize_config_dir(str(folder), version_base="1.3"):
        return check(compose(name, overrides=list(overrides)))


def sentence(*overrides: str) -> str:
    try:
        composed(*overrides)
    except ConfigError as error:
        return str(error)
    except EXPECTED_ERRORS as error:
        return explain(error)
    raise AssertionError("nothing was wrong")


def test_names_and_defaults_are_frozen() -> None:
    now = "".join(f"{name}={default}\n" for name, default, _ in describe_options(Submission))
    assert now == FROZEN.read_text(), "the command line changed: say so in CHANGELOG.md and update command_line.txt"


def test_help_explains_every_option() -> None:
    text = option_help()
    for name, _, help_text in describe_options():
        assert name in text
        assert help_text, f"{name} has no help"


@pytest.mark.parametrize("path", sorted((PROJECT / "conf" / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_composes_and_says_how_to_run_it(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"train.py experiment={path.stem}" in line for line in header)
    assert any("Expected:" in line for line in header)
    composed(f"experiment={path.stem}", "data.root=/data", "data.embedded_root=/data")


@pytest.mark.parametrize("source", ["imagefolder", "aistore", "synthetic"])
def test_every_source_composes(source: str) -> None:
    assert composed(f"data={source}", "data.root=/data").data.source == source


def test_the_published_defaults_of_pytorch_examples() -> None:
    config = composed("experiment=pytorch_example", "data.root=/data")
    train, optim = config.train, config.optim
    assert (config.model.name, train.epochs, train.batch_size, optim.lr) == ("resnet18", 90, 256, 0.1)
    assert (optim.momentum, optim.nesterov, optim.weight_decay, optim.decay_norms_and_biases) == (
        0.9,
        False,
        1e-4,
        True,
    )
    assert (optim.schedule, optim.step_epochs, optim.step_gamma, optim.warmup_epochs) == ("step", 30, 0.1, 0.0)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lr=1", "train.lr is called optim.lr now."),
        ("data.augment=trivial", "data.augment must be one of none, ta_wide, ra, aa, 3a, ra_timm, not 'trivial'."),
        ("data.augment=ra data.augment_magnitude=31", "data.augment_magnitude=31 must be from 0 to 30."),
        ("data.augment=ra_timm data.augment_magnitude=11", "data.augment=ra_timm has magnitudes from 0 to 10"),
        ("data.augment=ra data.augment_ops=0", "data.augment_ops=0 must be from 1 to 10."),
        ("data.augment_interpolation=bicubic", "data.augment_interpolation must be one of nearest, bilinear, not"),
        ("data.jitter=1.5", "data.jitter=1.5 must be from 0 to 1."),
        ("data.jitter=nan", "data.jitter=nan must be from 0 to 1."),
        ("+train.step_gamma=1", "train.step_gamma is called optim.step_gamma now."),
        (
            "submit.nodes=2",
            "submit.… is of a job and not of a run: leave it out, or python -m scripts.submit slurm|k8s",
        ),
        ("+submit.nodez=2", "submit.… is of a job and not of a run"),
        ("train.lrr=1", "there is no option train.lrr: did you mean optim.lr?"),
        ("trian.lr=1", "there is no option trian: did you mean one of the group train, such as train.epochs?"),
        ("+train.foo=1", "there is no option train.foo"),
        ("+foo.bar=1", "there is no option foo"),
        ("batch_size=3", "did you mean train.batch_size"),
        ("optim.lr=high", "optim.lr: Value 'high' of type 'str' could not be converted to Float"),
        ("train.epochs=1.5", "train.epochs: Value '1.5'"),
        ("train.epochs=0", "train.epochs must be 1 or more, not 0."),
        ("train.mixup=1.5", "train.mixup=1.5 must be 0, which is off, or an alpha from 0.01 to 1."),
        ("data.sizes=['0:32','x']", "data.sizes takes EPOCH:SIDE, as in ['0:128','6:160'], and not 'x'."),
        ("data.sizes=['1:32']", "data.sizes=['1:32'] does not say the side from epoch 0 on"),
        ("data.sizes=['0:32','5:48','5:64']", "data.sizes names epochs [0, 5, 5], which must rise from part to part."),
        ("data.sizes=['0:32','3:48'] train.epochs=3", "has samples from epoch 3 on, and train.epochs=3 ends before"),
        (
            "train.repeated_augmentation=3 train.batch_size=32",
            "train.batch_size=32 cannot hold train.repeated_augmentation=3 views of each of several images: choose a "
            "multiple of 3, 6 or more.",
        ),
        ("train.repeated_augmentation=4 train.batch_size=4", "choose a multiple of 4, 8 or more."),
        ("train.loss=mse", "train.loss must be one of ce, bce, not 'mse'."),
        ("train.batch_size=0", "train.batch_size must be 1 or more, not 0."),
        ("optim.schedule=cosin", "optim.schedule must be one of step, cosine, linear, constant, not 'cosin'."),
        ("optim.nesterov=true optim.momentum=0", "needs optim.momentum above 0"),
        (
            "optim.name=adam",
            "optim.name must be one of sgd, adamw, nadamw, rmsprop, muon, lamb, or timm/NAME for another one of timm's,"
            " not 'adam'.",
        ),
        ("optim.name='sgd,lamb'", "Several values are a sweep: add --multirun."),
        ("optim.layer_decay=1.5", "optim.layer_decay=1.5 must be from 0 to 1."),
        ("optim.betas=[0.9]", "optim.betas takes two numbers from 0 to below 1, such as [0.9,0.999], not [0.9]."),
        ("optim.betas=[0.9,1]", "optim.betas takes two numbers from 0 to below 1"),
        ("optim.min_lr=0.2", "optim.min_lr=0.2 must not be more than the peak, optim.lr=0.1."),
        ("optim.warmup_start=0.2", "optim.warmup_start=0.2 must not be more than the peak, optim.lr=0.1."),
        ("optim.clip_norm=-1", "optim.clip_norm must be 0 or more, not -1"),
        ("model=resnet50", "model is a group of options: set model.name"),
        ("data=bucket", "there is no data=bucket: choose one of aistore, imagefolder, shards, synthetic."),
        ("experiment=none", "there is no experiment=none: choose one of"),
        ("resnet50", "'resnet50' is not of the form name=value"),
        ("data.workers=many", "data.workers must be auto or a number"),
        ("data.scale=[1]", "data.scale takes two numbers"),
        ("seed=-1", "seed must be from 0"),
        ("precision=tf32", "precision must be one of fp32, bf16, fp16"),
        ("mode=evaluate", "mode=evaluate needs model.weights"),
        ("run_dir=", "run_dir is empty"),
    ],
)
def test_a_mistake_is_a_sentence(override: str, expected: str) -> None:
    message = sentence("data.root=/data", *override.split())
    assert expected in message
    assert "Traceback" not in message and len(message.splitlines()) == 1


def test_a_missing_root_is_named() -> None:
    assert "data.root is not set" in sentence()


def test_a_recorded_configuration_composes_to_itself(tmp_path: Path) -> None:
    config = composed("experiment=smoke", "run_dir=/runs/a", "data.scale=[0.3,0.9]", "threads=3", "optim.lr=0.25")
    config.data.etl.dependencies = ["export PATH=${HOME}/bin:$PATH==1"]
    (tmp_path / "config.yaml").write_text(config_yaml(config))
    assert composed(folder=tmp_path) == config
    assert composed("run_dir=NEW", folder=tmp_path).run_dir == "NEW"
    with pytest.raises(EXPECTED_ERRORS):
        composed("train.lrr=1", folder=tmp_path)


def test_the_default_run_directory_has_a_stable_id(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUN_ID", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert composed("data=synthetic").run_dir == composed("data=synthetic").run_dir
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abc")
    assert composed("data=synthetic").run_dir == "runs/torchrun-abc"
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert composed("data=synthetic").run_dir == "runs/slurm-17"
    monkeypatch.setenv("RUN_ID", "mine")
    assert composed("data=synthetic").run_dir == "runs/mine"


def test_hydra_is_told_to_write_nothing() -> None:
    hydra = OmegaConf.load(PROJECT / "conf" / "config.yaml")["hydra"]
    assert (hydra.run.dir, hydra.output_subdir, hydra.job.chdir) == (".", None, False)
