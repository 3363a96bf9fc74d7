"""The splits of a data set before any photo is looked at, and what is known to be wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from aistore_data.bucket.store import AisStore
from scripts.inspect.findings import Finding
from scripts.inspect.photo import Reader
from scripts.inspect.readers import Member
from sources.disk import shown
from sources.errors import UserError
from sources.manifest import Manifest
from sources.shards.manifest import ShardManifest

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Split:
    """``name``: train, val, or "" for one folder of classes. The manifest's names begin with ``prefix``."""

    name: str
    manifest: Manifest
    reader: Reader
    prefix: str = ""

    def photo(self, index: int) -> tuple[Reader, str, int]:
        """What reads a photo, its name, and its bytes."""
        return self.reader, self.manifest.name(index), int(self.manifest.sizes[index])

    def shown(self, index: int) -> str:
        """A photo's name below the split, for people."""
        return shown(self.manifest.name(index).removeprefix(self.prefix))


@dataclass(frozen=True)
class ShardSplit:
    """The same of tar shards, of a folder or, with ``store``, of a bucket."""

    name: str
    manifest: ShardManifest
    store: AisStore | None = None

    def photo(self, index: int) -> tuple[Reader, str, int]:
        """As ``Split``."""
        place, shard = self.manifest.place(index), self.manifest.shard_of(index).name
        return Member(shard if self.store else place.path, place, self.store), self.manifest.name(index), place.size

    def shown(self, index: int) -> str:
        """As ``Split``: shard and member, since a name may be that of members of two shards."""
        shard = self.manifest.shard_of(index).name.removeprefix(f"{self.name}/" if self.store else "")
        return shown(f"{shard}/{self.manifest.name(index)}")


@dataclass
class DataSet:
    """What was found at ``where`` before any photo is looked at."""

    where: str
    splits: Sequence[Split | ShardSplit] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def classes(self) -> Sequence[str]:
        """In the order of their numbers, which all splits share."""
        return self.splits[0].manifest.classes if self.splits else ()

    def warn(self, line: str) -> None:
        """Add a warning that a scan has given."""
        self.findings.append(Finding("scan", "", "", "", line.removeprefix("warning: ")))

    def stop(self, error: UserError) -> None:
        """What would end a run before it begins."""
        self.findings.append(Finding("layout", "", "", "", str(error)))
