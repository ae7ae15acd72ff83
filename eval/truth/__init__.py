"""Every estimator on samples whose mutual information is known.

python -m eval.truth --json docs/results/truth/truth.json --workers 2
"""
