"""A single run: the training loop and its parts."""
