"""Training runs with and without the term, paired by seed."""
