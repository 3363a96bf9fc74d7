"""Networks, their preprocessing and their pretrained weights."""
