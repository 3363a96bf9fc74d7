"""The options of the data: where samples come from, what they look like, and who makes them."""

import re
from dataclasses import dataclass

from etl.policies import MOST_LAYERS, MOST_MAGNITUDE
from etl.spec import AUGMENTS
from sources.folds import HeldOut
from sources.splits import SplitOptions
from training.config.etl_options import EtlConfig
from training.config.options import free, group, option, require, where


@dataclass
class DataConfig:
    """Where samples come from and what they look like."""

    source: str = free(
        "imagefolder",
        "set by data=imagefolder|shards|aistore|synthetic",
        choices=("imagefolder", "shards", "aistore", "synthetic"),
    )
    root: str = free(
        "", "the folder that holds train/ and val/: imagefolder: with a folder for each class; shards: with tars"
    )
    train_shards: str = free(
        "", "shards: the training tars, as …/train-{000000..001023}.tar, a folder, or a list in JSON; empty: root/train"
    )
    val_shards: str = free("", "shards: the validation tars, in the same way; empty: root/val")
    label_field: str = free(
        "", "in tar shards: the field of each KEY.json that is the class number; empty: KEY.cls holds it"
    )
    layout: str = free(
        "objects",
        "aistore: objects|shards (tars below the prefixes, as data=shards reads them): how samples lie in the bucket",
        choices=("objects", "shards"),
    )
    order: str = option(
        "global",
        "global|blocks (data=shards: shards shuffled, samples within windows of block_shards): the order of an epoch",
        choices=("global", "blocks"),
    )
    block_shards: int = option(
        16, "order=blocks: shards of a window", low=1, changes_result=where("data.order", "blocks")
    )
    val_split: float = option(
        0.0,
        "one folder without val/: share of the samples to hold out for the validation, by their names",
        low=0,
        below=1,
    )
    fold: str = option("", "one folder without val/: hold out fold K of N instead, as 0/5, by the samples' names")
    classes: str = free(
        "", "a file with a class's name in each line, whose order the labels have; empty: folders' names, sorted"
    )
    labels: str = free(
        "", "imagefolder: a file with a photo's name and its class in each line, for a flat val/ or train/"
    )
    multilabel: bool = option(False, "data.labels has several classes for each photo, or none; needs train.loss=bce")
    endpoint: str = free(
        "", "aistore: the cluster's proxy, http://HOST:PORT; empty: AIS_ENDPOINT; embedded: none needed"
    )
    bucket: str = free("ais://imagenet", "aistore: the bucket: ais://NAME, s3://NAME, gs://NAME, ais://#NAMESPACE/NAME")
    val_bucket: str = free("", "aistore: the bucket of the validation split; empty: data.bucket holds both")
    train_prefix: str = free("train/", "aistore: what the names of training objects begin with")
    val_prefix: str = free("val/", "aistore: what the names of validation objects begin with")
    embedded_root: str = free("", "endpoint=embedded: the folder with train/ and val/ to serve; it is never changed")
    embedded_layout: str = free(
        "folders",
        "endpoint=embedded: folders (CLASS/x.JPEG)|pairs (0000353.jpg and .cls)",
        choices=("folders", "pairs"),
    )
    transform: str = free(
        "etl",
        "aistore: etl (the cluster makes the samples)|client (this machine does)|hybrid (some here, some there)",
        choices=("etl", "client", "hybrid"),
    )
    local_share: float = free(0.5, "transform=hybrid: share of the samples that this machine makes", low=0, high=1)
    wire: str = option(
        "raw", "raw (exact)|jpeg (a tenth of the bytes, lossy): how samples travel", choices=("raw", "jpeg")
    )
    etl: EtlConfig = group(EtlConfig, changes_result=False)
    train_samples: int = option(
        1281167, "synthetic: training samples in an epoch", low=1, changes_result=where("data.source", "synthetic")
    )
    val_samples: int = option(
        50000, "synthetic: validation samples", low=1, changes_result=where("data.source", "synthetic")
    )
    image_size: int = option(224, "side of a training sample in pixels (random resized crop, horizontal flip)")
    sizes: list[str] = option(
        [], "side of a training sample from an epoch on, as ['0:128','6:160','12:192']; empty: image_size"
    )
    val_image_size: int | None = option(
        None, "side of a validation sample in pixels (central crop); empty: 224, in mode=evaluate that of the weights"
    )
    val_resize: int | None = option(
        None,
        "short side of a validation image in pixels before the crop; empty: 256, or by the share of timm/NAME, in "
        "mode=evaluate that of the weights",
    )
    interpolation: str | None = option(
        None,
        "bilinear|bicubic, both antialiased; empty: bilinear, or that of timm/NAME, in mode=evaluate of the weights",
        choices=("bilinear", "bicubic"),
    )
    scale: list[float] = option([0.08, 1.0], "smallest and largest share of the image's area in a training crop")
    ratio: list[float] = option([0.75, 4 / 3], "smallest and largest width / height of a training crop")
    augment: str = option(
        "none",
        "none|ta_wide (TrivialAugment)|ra (RandAugment)|aa (AutoAugment)|3a (3-Augment)|ra_timm (timm's RandAugment)",
        choices=("none", *AUGMENTS),
    )
    augment_ops: int = option(
        2, "augment=ra: operations on each sample", low=1, high=MOST_LAYERS, changes_result=where("data.augment", "ra")
    )
    augment_magnitude: int = option(
        9,
        "augment=ra: their strength, to 30; augment=ra_timm: m of rand-m9-mstd0.5-inc1, to 10",
        low=0,
        high=MOST_MAGNITUDE,
        changes_result=where("data.augment", "ra", "ra_timm"),
    )
    augment_interpolation: str = option(
        "nearest",
        "nearest|bilinear: how a policy shears, rotates and moves a sample",
        choices=("nearest", "bilinear"),
        changes_result=where("data.augment", "ta_wide", "ra", "aa", "ra_timm"),
    )
    jitter: float = option(
        0.0, "by how much brightness, contrast and saturation of a training sample may differ from 1", low=0, high=1
    )
    balance: str = option(
        "none",
        "none|classes: an epoch has every sample once|as many samples of each class, those of small classes in views",
        choices=("none", "classes"),
    )
    workers: int | str = free(
        "auto", "loader processes of each training process; auto: one for each of its CPUs", low=0
    )
    prefetch: int = free(4, "batches that each worker makes ahead", low=1)
    index: str = free(
        "auto",
        "auto|off: keep where each JPEG can be entered, so that later epochs decode its crop alone",
        choices=("auto", "off"),
    )
    cache: str = free(
        "none",
        "none|decoded: keep decoded photos on a disk, so that later epochs cut their samples from them",
        choices=("none", "decoded"),
    )
    cache_dir: str = free(
        "", "cache=decoded: a folder on a local disk, in the ETL's pod for a bucket; empty: one that a line names"
    )
    cache_gb: float = free(0.0, "cache=decoded: GB of that disk, at most; all of ImageNet takes about 790", low=0)
    on_corrupt: str = option(
        "raise",
        "raise|replace: a training sample that is no image ends the run|is another one",
        choices=("raise", "replace"),
        changes_result=lambda values: bool(values.get("replaced")),  # until then both have made the same samples
    )
    max_replaced: int = free(100, "on_corrupt=replace: more different samples than this end the run", low=0)
    patience_s: float = free(
        600.0, "seconds to wait for a cluster or a disk that is gone before saving and giving up", low=0
    )
    audit_every: int = free(
        256, "aistore: compare one in so many of the ETL's samples with one made here; 0: none", low=0
    )
    fingerprint: str = option(
        "sampled",
        "off|sampled|full: hash what the model sees, pixels of one sample in 16|of all",
        choices=("off", "sampled", "full"),
        changes_result=lambda values: values.get("batches_done") != 0,  # an epoch's is of one kind
    )

    @property
    def split(self) -> SplitOptions:
        """How a folder's samples become splits and labels."""
        return SplitOptions(self.held_out, self.classes, self.labels, self.multilabel)

    @property
    def not_one_class(self) -> str:
        """Why a sample has not one class, in words; "" where it has."""
        if self.multilabel:
            return "with data.multilabel=true a photo has several"
        return "with data=synthetic labels are random" if self.source == "synthetic" else ""

    @property
    def in_shards(self) -> bool:
        """Whether the samples lie in tar shards."""
        return self.source == "shards" or self.layout == "shards"

    @property
    def held_out(self) -> HeldOut:
        """What of one folder is the validation; false where the data have one."""
        return HeldOut(self.val_split, self.fold)

    def settle(self, val_resize: int = 256, interpolation: str = "bilinear", val_image_size: int = 224) -> list[str]:
        """Take these over where nothing is said; answer what was taken of the first two, as options."""
        if self.val_image_size is None:
            self.val_image_size = val_image_size
        taken = []
        for name, value in (("val_resize", val_resize), ("interpolation", interpolation)):
            if getattr(self, name) is None:
                setattr(self, name, value)
                taken.append(f"data.{name}={value}")
        return taken

    @property
    def val_side(self) -> int:
        """Return ``val_image_size`` after the defaults have been filled in."""
        assert self.val_image_size is not None
        return self.val_image_size

    @property
    def making(self) -> tuple[int, str]:
        """Return (val_resize, interpolation) after the defaults have been filled in."""
        assert self.val_resize is not None and self.interpolation is not None
        return self.val_resize, self.interpolation

    def sides(self) -> list[tuple[int, int]]:
        """(first epoch, side in pixels) of each part of ``sizes``, in their order. Raises ConfigError."""
        found = []
        for text in self.sizes:
            match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
            require(match is not None, f"data.sizes takes EPOCH:SIDE, as in ['0:128','6:160'], and not {text!r}.")
            assert match is not None
            found.append((int(match[1]), int(match[2])))
        epochs = [epoch for epoch, _ in found]
        require(
            not epochs or epochs[0] == 0,
            f"data.sizes={self.sizes} does not say the side from epoch 0 on, when a run begins: put 0:SIDE in front.",
        )
        require(epochs == sorted(set(epochs)), f"data.sizes names epochs {epochs}, which must rise from part to part.")
        return found
