"""What an epoch's samples took, and what limited it, in one line."""

from sources.batch import SOURCES, Counts, Latencies
from training.report.limits import LIMITS, WAITING, limited_by


def data_figures(counts: Counts, latencies: Latencies) -> dict[str, float]:
    """Return figures for metrics.jsonl and TensorBoard: counts, bytes, and milliseconds that requests took."""
    figures: dict[str, float] = {f"data_{name}": value for name, value in counts._asdict().items() if value}
    for source in SOURCES:
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            if latencies.quantile(source, share):
                figures[f"{source}_{name}_ms"] = round(1e3 * latencies.quantile(source, share), 2)
    return figures


def data_sentence(counts: Counts, latencies: Latencies, img_per_s: float, data_wait: float) -> str:
    """Say where an epoch's samples came from and what limited it; "" if there is nothing to say."""
    total = counts.etl + counts.local
    parts = []
    for source, made, what in (("etl", counts.etl, "by the ETL"), ("object", counts.local, "here")):
        if made:
            p50, p99 = (1e3 * latencies.quantile(source, share) for share in (0.5, 0.99))
            parts.append(
                f"{100 * made / total:.0f} % {what}" + (f" (p50 {p50:.0f} ms, p99 {p99:.0f} ms)" if p50 else "")
            )
    if counts.cache:
        parts.append(f"{100 * counts.cache / total:.0f} % from decoded photos that are kept")
    if counts.etl == 0 and data_wait < WAITING and not (counts.replaced or counts.retries or counts.odd):
        return ""
    trouble = {"retries": counts.retries, "fallbacks": counts.fallbacks, "replaced": counts.replaced}
    trouble["odd files"] = counts.odd
    parts += [f"{value:,} {name}" for name, value in trouble.items() if value]
    return f"samples {', '.join(parts)}; {_limit(counts, img_per_s, data_wait)}"


def _limit(counts: Counts, img_per_s: float, data_wait: float) -> str:
    limit = limited_by(counts._asdict(), data_wait)
    if limit == "model":
        return f"limited by {LIMITS[limit]}, {img_per_s:,.0f} img/s"
    model = img_per_s / max(1e-9, 1 - data_wait)
    return f"data {img_per_s:,.0f} img/s < model {model:,.0f} img/s: {LIMITS[limit]}"
