"""The process that loader workers are forked from. It needs no torch here, so that it can import torch at once."""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker

from sources.processes import signals_blocked

START_METHOD = "forkserver"
"""Named, not the platform's default: forking a process that has threads or a GPU context is not safe."""


_PRELOADED = {"aistore": ["aistore_data.dataset.remote"], "shards": ["sources.shards.reader"]}
"""Modules that the workers of a data source import, beside those that all workers import."""


def start_worker_server(source: str = "imagefolder") -> None:
    """Begin importing what workers of a data source need, while this process imports torch itself and builds the model.

    Does nothing where the server runs already.
    """
    modules = ["sources.samples", *_PRELOADED.get(source, ())]
    multiprocessing.get_context(START_METHOD).set_forkserver_preload(modules)
    for helper in (multiprocessing.resource_tracker, multiprocessing.forkserver):
        with signals_blocked():  # anew for each: the resource tracker unblocks some of them when it has started
            helper.ensure_running()
