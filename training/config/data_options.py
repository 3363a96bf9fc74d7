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
    root: str = free("", "the folder with train/ and val/, which hold a folder for each class, or tars for data=shards")
    train_shards: str = free(
        "", "shards: the training tars: …/train-{000000..001023}.tar, a folder, or a JSON list; empty: root/train"
    )
    val_shards: str = free("", "shards: the validation tars, named in the same way; empty: root/val")
    label_field: str = free(
        "", "tar shards: the field of KEY.json that holds the class number; empty: KEY.cls holds it"
    )
    layout: str = free(
        "objects",
        "aistore: what lies below the prefixes: objects (a photo each)|shards (tars, as for data=shards)",
        choices=("objects", "shards"),
    )
    order: str = option(
        "global",
        "order of an epoch: global (any sample may follow any other)|blocks (tar shards: shuffled in windows)",
        choices=("global", "blocks"),
    )
    block_shards: int = option(
        16, "order=blocks: shards in a window", low=1, changes_result=where("data.order", "blocks")
    )
    val_split: float = option(
        0.0,
        "data without a validation split: share of the samples to hold out for it, chosen by their names",
        low=0,
        below=1,
    )
    fold: str = option("", "data without a validation split: hold out fold K of N instead, such as 0/5")
    classes: str = free(
        "",
        "a file with the name of a class in each line, in the order of their numbers; empty: folders, sorted by name",
    )
    labels: str = free(
        "", "imagefolder: a file with a photo's name and class in each line, for photos that lie in no class folders"
    )
    multilabel: bool = option(False, "a photo may have several classes, or none, in data.labels; needs train.loss=bce")
    endpoint: str = free(
        "", "aistore: the proxy, http://HOST:PORT|embedded: an AIStore on this machine; empty: AIS_ENDPOINT"
    )
    bucket: str = free("ais://imagenet", "aistore: the bucket: ais://NAME, s3://NAME, gs://NAME, ais://#NAMESPACE/NAME")
    val_bucket: str = free("", "aistore: the bucket of the validation split; empty: data.bucket holds both splits")
    train_prefix: str = free("train/", "aistore: what the names of training objects begin with")
    val_prefix: str = free("val/", "aistore: what the names of validation objects begin with")
    embedded_root: str = free("", "endpoint=embedded: the folder with train/ and val/ that it serves and never changes")
    embedded_layout: str = free(
        "folders",
        "endpoint=embedded: names of its objects: folders (CLASS/x.JPEG)|pairs (0000353.jpg and 0000353.cls)",
        choices=("folders", "pairs"),
    )
    transform: str = free(
        "etl",
        "aistore: who makes the samples: etl (the cluster)|client (this machine)|hybrid (both)",
        choices=("etl", "client", "hybrid"),
    )
    local_share: float = free(0.5, "transform=hybrid: share of the samples that this machine makes", low=0, high=1)
    wire: str = option(
        "raw", "aistore: how samples travel: raw (exact)|jpeg (lossy, a tenth of the bytes)", choices=("raw", "jpeg")
    )
    etl: EtlConfig = group(EtlConfig, changes_result=False)
    train_samples: int = option(
        1281167, "synthetic: training samples in an epoch", low=1, changes_result=where("data.source", "synthetic")
    )
    val_samples: int = option(
        50000, "synthetic: validation samples", low=1, changes_result=where("data.source", "synthetic")
    )
    image_size: int = option(
        224, "side of a training sample in pixels, after a random resized crop and a horizontal flip"
    )
    sizes: list[str] = option(
        [], "sides by the epoch that they begin with, such as ['0:128','6:160','12:192']; empty: image_size throughout"
    )
    val_image_size: int | None = option(
        None,
        "side of a validation sample in pixels (central crop); empty: 224, or what the weights of an evaluation expect",
    )
    val_resize: int | None = option(
        None,
        "short side of a validation photo in pixels before the crop; empty: 256, or what timm/NAME or the weights of "
        "an evaluation expect",
    )
    interpolation: str | None = option(
        None,
        "bilinear|bicubic, both antialiased; empty: bilinear, or what timm/NAME or the weights of an evaluation expect",
        choices=("bilinear", "bicubic"),
    )
    scale: list[float] = option([0.08, 1.0], "smallest and largest share of a photo's area that a training crop has")
    ratio: list[float] = option([0.75, 4 / 3], "smallest and largest ratio of width to height that a training crop has")
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
        "augment=ra: strength of the operations, to 30; augment=ra_timm: m of rand-m9-mstd0.5-inc1, to 10",
        low=0,
        high=MOST_MAGNITUDE,
        changes_result=where("data.augment", "ra", "ra_timm"),
    )
    augment_interpolation: str = option(
        "nearest",
        "interpolation by which a policy shears, rotates and shifts: nearest|bilinear",
        choices=("nearest", "bilinear"),
        changes_result=where("data.augment", "ta_wide", "ra", "aa", "ra_timm"),
    )
    jitter: float = option(
        0.0, "largest change of the brightness, contrast and saturation of a training sample, as a share", low=0, high=1
    )
    balance: str = option(
        "none",
        "none: each sample once in an epoch|classes: as many samples of each class, repeating those of small classes",
        choices=("none", "classes"),
    )
    workers: int | str = free("auto", "loader workers of each training process; auto: one for each of its CPUs", low=0)
    prefetch: int = free(4, "batches that each worker prepares ahead", low=1)
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
        "a training photo that cannot be decoded: raise (end the run)|replace (take another photo)",
        choices=("raise", "replace"),
        changes_result=lambda values: bool(values.get("replaced")),  # until then both have made the same samples
    )
    max_replaced: int = free(100, "on_corrupt=replace: photos that may be replaced before the run ends", low=0)
    patience_s: float = free(
        600.0, "seconds to wait for a cluster or a disk that has gone, before the run saves and ends", low=0
    )
    audit_every: int = free(256, "aistore: make one in N of the ETL's samples here too, and compare; 0: none", low=0)
    fingerprint: str = option(
        "sampled",
        "hash what the model sees: off|sampled (the pixels of one sample in 16)|full (all pixels)",
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
