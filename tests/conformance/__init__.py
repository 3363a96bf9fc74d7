"""What a client relies on, in the same words for the embedded AIS and, with AIS_ENDPOINT set, for a real cluster."""
