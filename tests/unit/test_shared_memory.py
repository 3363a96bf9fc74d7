"""A manifest in shared memory."""

import multiprocessing
from multiprocessing.connection import Connection

from sources.manifest import Manifest
from sources.shared_memory import share


def answer_labels(manifest: Manifest, pipe: Connection) -> None:
    """A worker: the labels and the first name, each time that it is asked."""
    while pipe.recv():
        pipe.send((manifest.labels.tolist(), manifest.name(0), manifest.classes))


def test_a_worker_sees_the_memory_of_the_manifest_and_no_copy() -> None:
    manifest = Manifest.build([(b"a", 3, 7), (b"b", 4, 8)], ["x", "y"])
    shared = share(manifest)
    assert shared.sha256() == manifest.sha256() and shared.sizes.tolist() == [7, 8]
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    worker = context.Process(target=answer_labels, args=(shared, theirs))
    worker.start()
    theirs.close()
    for label in (3, 5):
        shared.labels[0] = label
        ours.send(True)
        assert ours.recv() == ([label, 4], "a", ("x", "y"))
    ours.send(False)
    worker.join()
    assert worker.exitcode == 0 and manifest.labels.tolist() == [3, 4]
