"""The ETLs of a cluster: their life, their requests, their proofs and who watches them."""
