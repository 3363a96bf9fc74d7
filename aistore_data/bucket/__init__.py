"""What lies in a bucket: names, layouts, listings and manifests."""
