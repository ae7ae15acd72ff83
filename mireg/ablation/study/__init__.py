"""Definition of a study: cells, arms and seeds, the metric, named studies, the choice of learning rates."""
