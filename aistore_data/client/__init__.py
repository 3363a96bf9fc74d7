"""HTTP to a cluster: addresses, tokens, the SDK, one request at a time and many at a time."""
