"""ImageNet as people have it, as two splits of photos."""
