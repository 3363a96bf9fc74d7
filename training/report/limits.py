"""What sets an epoch's pace, decided from its counts alone; importing this imports no torch."""

from collections.abc import Mapping

WAITING = 0.05
"""A share of the time that is spent waiting for data; below it the model sets the pace."""

_BROKEN = 0.05
"""A share of the samples that the ETL should have made and did not."""

LIMITS = {
    "model": "the model",
    "cpus": "this machine's CPUs make the samples: more data.workers, or data.transform=etl",
    "etl": "the ETL's workers or the way to them are busy: more of them, data.workers or data.transform=hybrid",
    "faults": "the ETL failed or was late, so this machine made samples",
}
"""What can limit an epoch, in words that say what to do."""


def limited_by(counts: Mapping[str, float], data_wait: float) -> str:
    """What set an epoch's pace, as a key of ``LIMITS``.

    ``counts`` has samples by the names of ``sources.batch.Counts``. ``data_wait`` is the share of the time, 0 to 1, in
    which steps waited for data.
    """
    if data_wait < WAITING:
        return "model"
    local, etl, fallbacks = (counts.get(name, 0) for name in ("local", "etl", "fallbacks"))
    if fallbacks > _BROKEN * (etl + local):
        return "faults"
    return "etl" if etl > local - fallbacks else "cpus"
