"""Data sets without a network and without a trainer: manifests, folders, batches, and what the floors above share."""

import sys

if sys.platform != "linux":  # before epoll, memory without a name and signals of threads are asked for
    sys.exit(
        f"error: imagenet-ais runs on Linux alone, and this is {sys.platform}: use a Linux machine, WSL or a container."
    )
