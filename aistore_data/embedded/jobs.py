"""Jobs: transforms from bucket to bucket, which run in the background and tell how far they are."""

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from aistore_data.embedded.errors import PROXY_ID, TARGET_ID, ApiError
from aistore_data.embedded.store import Bucket

ETL_BUCKET = "etl-bck"
_AT_A_TIME = 4
_PAGE = 1000


@dataclass
class Job:
    """One job; ``finished_ns`` is 0 while it runs."""

    kind: str
    source: str
    destination: str
    id: str = field(default_factory=lambda: secrets.token_urlsafe(6))
    started_ns: int = field(default_factory=time.time_ns)
    finished_ns: int = 0
    error: str = ""
    objects: int = 0
    bytes: int = 0


class Jobs:
    """All jobs of the server, also those that have finished."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def transform(
        self, source: Bucket, destination: Bucket, prefix: str, prepend: str, etl: Callable[[Bucket, str], bytes]
    ) -> str:
        """Start to put ``etl(source, name)`` into ``destination`` for each object below ``prefix``; the job's id."""
        job = Job(ETL_BUCKET, source.name, destination.name)
        self._jobs[job.id] = job
        threading.Thread(target=_run, args=(job, source, destination, prefix, prepend, etl), daemon=True).start()
        return job.id

    def status(self, id: str) -> dict[str, Any]:
        """As GET /v1/cluster?what=status answers. Raises ApiError 404."""
        job = self._jobs.get(id)
        if job is None:
            raise ApiError(404, f"p[{PROXY_ID}]: x-[{id}] does not exist", "ErrNotFound")
        return {
            "uuid": job.id,
            "kind": job.kind,
            "end_time": job.finished_ns,
            "aborted": bool(job.error),
            "err": job.error,
        }

    def snapshots(self, id: str) -> dict[str, list[dict[str, Any]]]:
        """As GET /v1/cluster?what=qryxstats answers, by target. Raises ApiError 400."""
        job = self._jobs.get(id)
        if job is None:
            raise ApiError(400, f'invalid xaction (job) UUID "{id}"')
        statistics = {"loc-objs": str(job.objects), "loc-bytes": str(job.bytes)}
        snapshot = {
            "id": job.id,
            "kind": job.kind,
            "start-time": _iso(job.started_ns),
            "end-time": _iso(job.finished_ns) if job.finished_ns else "0001-01-01T00:00:00Z",
            "bck": _bucket(job.destination),
            "src-bck": _bucket(job.source),
            "dst-bck": _bucket(job.destination),
            "stats": statistics,
            "aborted": bool(job.error),
            "abort-err": job.error,
            "is_idle": bool(job.finished_ns),
        }
        return {TARGET_ID: [snapshot]}


def _run(
    job: Job, source: Bucket, destination: Bucket, prefix: str, prepend: str, etl: Callable[[Bucket, str], bytes]
) -> None:
    """The first object that fails ends the job, as ``cont_on_err=False`` says."""
    counting = threading.Lock()

    def put(name: str) -> None:
        data = etl(source, name)
        destination.put(prepend + name, [data])
        with counting:
            job.objects += 1
            job.bytes += len(data)

    try:
        after = ""
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            while page := source.page(prefix, after, _PAGE):
                for _ in pool.map(put, [name for name, _ in page]):
                    pass
                after = page[-1][0]
    except (ApiError, OSError) as error:
        job.error = str(error)
    finally:
        job.finished_ns = time.time_ns()


def _iso(time_ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_ns / 1e9))


def _bucket(name: str) -> dict[str, Any]:
    return {"name": name, "provider": "ais", "namespace": {"uuid": "", "name": ""}}
