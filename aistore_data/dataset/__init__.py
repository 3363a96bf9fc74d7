"""A bucket as a data set: samples from the ETL, or made here of the objects' bytes."""
