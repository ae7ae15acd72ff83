"""What is asked for: cells, arms and seeds, the metric, named studies, the choice of learning rates."""
