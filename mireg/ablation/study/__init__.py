"""What a study is: cells, arms and seeds, the metric, named studies, the choice of learning rates."""
