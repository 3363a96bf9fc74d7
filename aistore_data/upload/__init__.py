"""Upload a folder of photos to a bucket: ``python -m aistore_data.upload``."""
