"""Transforms from bucket to bucket, and the jobs that do it."""

import json
from collections.abc import Iterator

import pytest
from aistore.sdk import Bucket, Client
from aistore.sdk.errors import AISError, ErrBckNotFound

from tests.conformance.conftest import AIS, new_name

WAIT_S = 60


@pytest.fixture
def destination(client: Client) -> Iterator[Bucket]:
    """A bucket that does not exist yet."""
    bucket = client.bucket(new_name("conf"))
    yield bucket
    bucket.delete(missing_ok=True)


def test_bucket_to_bucket(bucket: Bucket, destination: Bucket, upper: str, client: Client) -> None:
    names = [f"train/a/{number} ü+x.txt" for number in range(7)]
    for name in [*names, "other/1.txt"]:
        bucket.object(name).get_writer().put_content(b"hello")
    for _ in range(2):  # the second time over what is there
        job = client.job(bucket.transform(upper, destination, prefix_filter="train/", prepend="out/"))
        result = job.wait(timeout=WAIT_S, verbose=False)
        assert (result.success, result.error, result.job_id) == (True, "", job.job_id)
        assert [entry.name for entry in destination.list_all_objects()] == [f"out/{name}" for name in names]
        for name in names:
            data = destination.object(f"out/{name}").get_reader().read_all()
            assert data == f"HELLO|{bucket.name}/{name}||bytes".encode()
    snapshots = job.get_details().list_snapshots()
    assert {(snap.id, snap.kind, snap.aborted) for snap in snapshots} == {(job.job_id, "etl-bck", False)}
    assert {snap.source_bck.name for snap in snapshots} == {bucket.name}
    assert {snap.destination_bck.name for snap in snapshots} == {destination.name}
    assert sum(snap.stats.objects + snap.stats.out_objects for snap in snapshots) == len(names)


def test_an_object_that_fails_ends_the_job(bucket: Bucket, destination: Bucket, upper: str, client: Client) -> None:
    bucket.object("a/50%.txt").get_writer().put_content(b"hello")
    job = client.job(bucket.transform(upper, destination))
    result = job.wait(timeout=WAIT_S, verbose=False)
    assert not result.success and "invalid URL escape" in result.error
    assert job.status().aborted


def test_what_is_missing(ais: AIS, bucket: Bucket, destination: Bucket, upper: str, client: Client) -> None:
    with pytest.raises(AISError) as caught:
        bucket.transform("no-such-etl", destination)
    assert (caught.value.status_code, "ETL no-such-etl doesn't exist" in caught.value.message) == (404, True)
    with pytest.raises(ErrBckNotFound):
        destination.transform(upper, bucket)
    with pytest.raises(AISError) as caught:
        client.job("nope").status()
    assert (caught.value.status_code, "x-[nope] does not exist" in caught.value.message) == (404, True)
    answer = ais.request("GET", "/v1/cluster?what=qryxstats", json.dumps({"ID": "nope"}).encode())
    assert (answer.status, answer.json()["message"]) == (400, 'invalid xaction (job) UUID "nope"')
