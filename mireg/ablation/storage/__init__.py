"""Storage of a study: files, checkpoints, locks, provenance, curves for TensorBoard."""
