"""Whether a data set is fit to be trained on: what lies in it, what is odd about it, and what the trainer will do."""
