"""The options of the ETLs of data=aistore: how they are called, and who starts and stops them."""

import re
from dataclasses import dataclass

from training.config.options import option, require


@dataclass
class EtlConfig:
    """The two ETLs of data=aistore."""

    train_name: str = option("imagenet-train", "name of the training ETL: 6 to 32 of a-z, 0-9 and -")
    val_name: str = option("imagenet-val", "name of the validation ETL")
    manage: str = option(
        "auto",
        "auto: start an ETL that is missing, which takes an administrator's rights|reuse: use running ETLs only",
        choices=("auto", "reuse"),
    )
    on_exit: str = option(
        "auto",
        "ETLs that this run has started: keep|stop; auto: stop them on the embedded server, keep them on a cluster",
        choices=("auto", "keep", "stop"),
    )
    image: str = option("", "container image built from etl/Dockerfile; empty: send the code to AIStore's own image")
    dependencies: list[str] = option(
        [], "packages that the pod installs, NAME==VERSION; empty: NumPy and Pillow in the versions installed here"
    )
    comm_type: str = option(
        "hpush",
        "how a pod gets an object: hpush (the storage node sends it)|hpull (the pod asks for it)",
        choices=("hpush", "hpull"),
    )
    num_workers: int | str = option("auto", "processes of each pod; auto: 4, or half of the CPUs embedded", low=1)
    init_timeout_s: int = option(300, "seconds to wait for an ETL to start", low=1)
    deadline_s: float = option(2.0, "seconds to wait for a sample before it is made here instead", above=0)
    adaptive_deadline: bool = option(True, "wait less for a storage node that is much slower than the others")

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        for name in ("train_name", "val_name"):
            value = getattr(self, name)
            require(
                re.fullmatch(r"[a-z0-9][-a-z0-9]{4,30}[a-z0-9]", value) is not None,
                f"data.etl.{name}={value} is not a name for an ETL: it takes 6 to 32 of a-z, 0-9 and -, "
                "without - at the ends.",
            )
        for dependency in self.dependencies:
            require("==" in dependency, f"data.etl.dependencies: {dependency} is not pinned: write NAME==VERSION.")
        require(self.train_name != self.val_name, "data.etl.train_name and val_name must differ: they are two ETLs.")
