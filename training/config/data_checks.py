"""Which options of the data make sense together, each with a sentence that says what to do where they do not."""

from etl.policies import MOST_MAGNITUDE, MOST_MAGNITUDE_OF_TIMM
from training.config.data_options import DataConfig
from training.config.options import require


def check_data(data: DataConfig) -> None:
    """Raise ConfigError for values that make no sense."""
    data.etl.check()
    data.sides()
    _check_parts(data)
    _check_cache(data)
    if data.source == "aistore" and data.endpoint == "embedded":
        require(
            data.embedded_root != "",
            "data.embedded_root is not set: data.endpoint=embedded serves a folder that holds train/ and val/.",
        )
    if data.source == "aistore":
        _check_buckets(data)
    if data.source == "imagefolder":
        require(data.root != "", "data.root is not set: give the folder that holds train/ and val/, data.root=PATH.")
    _check_shards(data)
    require(
        data.augment != "ra_timm" or data.augment_magnitude <= MOST_MAGNITUDE_OF_TIMM,
        f"data.augment_magnitude={data.augment_magnitude} is too much: data.augment=ra_timm has magnitudes from 0 "
        f"to {MOST_MAGNITUDE_OF_TIMM}, data.augment=ra to {MOST_MAGNITUDE}.",
    )
    for name in ("scale", "ratio"):
        require(len(getattr(data, name)) == 2, f"data.{name} takes two numbers, [low,high], not {getattr(data, name)}.")


def _check_cache(data: DataConfig) -> None:
    if data.cache == "none":
        return
    require(
        data.cache_gb > 0,
        "data.cache=decoded needs data.cache_gb, the GB that decoded photos may take: data.cache_gb=N. All of "
        "ImageNet takes about 790, and a part of it helps by its share.",
    )
    require(
        data.source != "synthetic",
        "data.cache=decoded keeps photos, and data=synthetic has none: leave it out.",
    )
    require(
        data.source != "aistore" or data.transform != "client",
        "data.cache=decoded keeps the photos of a bucket in the ETL's pods, and data.transform=client asks none: "
        "use data.transform=etl, or leave it out.",
    )
    require(
        data.source != "aistore" or data.etl.comm_type == "hpush",
        "data.cache=decoded keeps the photos of files that a pod reads, and with data.etl.comm_type=hpull it reads "
        "none: use hpush.",
    )
    require(
        data.source != "aistore" or data.endpoint == "embedded" or data.cache_dir[:1] in ("", "/"),
        f"data.cache_dir={data.cache_dir} is a folder in the ETL's pods: its path begins with /.",
    )


def _check_shards(data: DataConfig) -> None:
    if data.source == "shards":
        require(
            data.root != "" or data.train_shards != "" or data.val_shards != "",
            "data.root is not set: give the folder that holds train/*.tar and val/*.tar, data.root=PATH, or name "
            "the tars by data.train_shards and data.val_shards.",
        )
    elif data.source != "synthetic":  # which has no use for any place
        names = ("train_shards", "val_shards") if data.in_shards else ("train_shards", "val_shards", "label_field")
        for name in names:
            value = getattr(data, name)
            wanted = "data.layout=shards" if data.source == "aistore" and name == "label_field" else "data=shards"
            require(value == "", f"data.{name}={value} is for tar shards: add {wanted}, or leave it out.")
    require(
        data.layout == "objects" or data.source == "aistore",
        f"data.layout={data.layout} is for samples in a bucket, and data={data.source} has none: leave it out.",
    )
    require(
        not (data.source == "aistore" and data.in_shards and data.endpoint == "embedded"),
        "data.layout=shards reads tar shards of a bucket, and data.endpoint=embedded serves a folder of photos: "
        "use data=shards for tars on this machine.",
    )
    require(
        data.order == "global" or data.in_shards,
        f"data.order={data.order} is for tar shards, and data={data.source} has none: leave it out.",
    )
    require(
        data.order == "global" or data.balance == "none",
        f"data.order={data.order} and data.balance={data.balance} each say which samples follow each other: leave "
        "one of them out.",
    )


def _check_parts(data: DataConfig) -> None:
    data.held_out.check()
    require(
        not data.held_out or data.source != "synthetic",
        f"{data.held_out} divides samples by their names, and those of data=synthetic have none: leave it out.",
    )
    require(
        not (data.held_out and data.val_bucket),
        f"{data.held_out} divides the objects below data.train_prefix, and data.val_bucket={data.val_bucket} names "
        "another validation: leave one of them out.",
    )

    require(
        data.labels == "" or data.source not in ("aistore", "shards"),
        f"data.labels={data.labels} is for the photos of a folder, and those of "
        f"{'a bucket' if data.source == 'aistore' else 'shards'} have their labels there: leave it out.",
    )
    require(
        not data.multilabel or data.labels != "",
        "data.multilabel=true needs data.labels, a file with the classes of each photo: data.labels=FILE.",
    )
    require(
        data.balance == "none" or not data.not_one_class,
        f"data.balance={data.balance} needs one class for each sample, and {data.not_one_class}: leave it out.",
    )


def _check_buckets(data: DataConfig) -> None:
    from aistore_data.bucket.uri import parse_bucket  # here, so that a folder needs no SDK

    train = parse_bucket(data.bucket, "data.bucket=")
    val = parse_bucket(data.val_bucket, "data.val_bucket=") if data.val_bucket else train
    for name in ("train_prefix", "val_prefix"):
        prefix = getattr(data, name)
        require(
            prefix == "" or (prefix.endswith("/") and not prefix.startswith("/")),
            f"data.{name}={prefix} must be empty or end in a slash, and not begin with one, such as train/.",
        )
    apart = not (data.train_prefix.startswith(data.val_prefix) or data.val_prefix.startswith(data.train_prefix))
    require(
        train != val or apart,
        f"data.train_prefix={data.train_prefix} and data.val_prefix={data.val_prefix} overlap in {data.bucket}: "
        "the splits need prefixes of their own, or buckets of their own by data.val_bucket.",
    )
