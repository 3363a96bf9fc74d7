"""The samples that a rank has consumed: where they came from, what they were, and which were replaced by others."""

import torch

from sources.batch import Batch, Counts, Latencies
from sources.errors import UserError
from sources.substitutes import Substitution
from training.config.schema import Config
from training.loader.fingerprint import SampleFingerprint, codes_in_order, total_over_ranks
from training.processes.collectives import gather_objects, sum_over_ranks
from training.run_dir.records import Records
from training.state.progress import Progress

UNKNOWN = -1
"""``stream_total`` of an epoch in which hashes were lost with another process."""


class Consumed:
    """What this rank has consumed since the ranks last exchanged it, before it joins the run's progress and records."""

    def __init__(self, fingerprint: str) -> None:
        """``fingerprint``: which hashes are taken, as data.fingerprint says."""
        self.stream = SampleFingerprint(fingerprint)
        self.counts = Counts()
        self.latencies = Latencies()
        """How long this rank's requests have taken since the beginning of the epoch."""
        self._replaced: tuple[Substitution, ...] = ()
        self._last_reason = ""
        """Why a sample had to be replaced, if one had to since this process began."""

    def count(self, batch: Batch) -> None:
        """Add where the samples of another batch came from."""
        self.counts = Counts(*(a + b for a, b in zip(self.counts, batch.counts, strict=True)))
        if batch.latencies:
            self.latencies.add(Latencies.from_bytes(batch.latencies))
        self._replaced += batch.replaced

    def add(self, batch: Batch) -> None:
        """A batch that was trained on."""
        self.count(batch)
        self.stream.add(batch)

    def collect_counts(self, progress: Progress, records: Records) -> None:
        """Add the counts of all ranks to the run's, and list what was replaced on any rank; all ranks call it."""
        counts = Counts(*sum_over_ranks(torch.tensor(self.counts)).tolist())
        progress.counts = [a + b for a, b in zip(progress.counts, counts, strict=True)]
        self.counts = Counts()
        if counts.replaced:
            cases = sorted({case for cases in gather_objects(self._replaced) for case in cases})
            self._replaced, self._last_reason = (), cases[-1].reason
            progress.replaced = sorted({*progress.replaced, *(case.sample for case in cases)})
            records.replaced(cases)

    def collect_stream(self, progress: Progress, records: Records, samples: int, share: int) -> None:
        """Add the hashes of all ranks to the epoch's, and write the samples' codes.

        ``samples``: those of the whole run until now. ``share``: a rank's samples of a global batch.
        """
        if not self.stream.enabled:
            return
        total, codes = self.stream.take()
        total = total_over_ranks(total)
        if progress.stream_total != UNKNOWN:
            progress.stream_total = (progress.stream_total + total) % (1 << 128)
        in_order = codes_in_order(codes, share)
        if in_order is not None:
            records.stream(samples - len(in_order), in_order)

    def of_the_epoch(self, progress: Progress) -> tuple[Counts, Latencies]:
        """Counts of all ranks in this epoch, and their requests' times since it was begun or gone on with."""
        counts = Counts(*(a - b for a, b in zip(progress.counts, progress.counts_before, strict=True)))
        return counts, Latencies(sum_over_ranks(torch.from_numpy(self.latencies.counts.copy())).numpy())

    def check_replaced(self, progress: Progress, config: Config) -> None:
        """Raise UserError on all ranks if more different samples than data.max_replaced were replaced."""
        limit = config.data.max_replaced
        if self._last_reason and len(progress.replaced) > limit:
            raise UserError(
                f"{len(progress.replaced)} samples could not be read and were replaced by others, more than "
                f"data.max_replaced={limit}: {config.run_dir}/replaced.jsonl lists them. The last: {self._last_reason}."
            )
