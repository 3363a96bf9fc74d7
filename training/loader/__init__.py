"""From a data set to batches in memory: order, workers, the ring and fingerprints."""
