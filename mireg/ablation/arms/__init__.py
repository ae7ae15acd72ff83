"""The arms by name, and the term that each adds to the loss."""

from mireg.ablation.arms.loss_term import LossTerm, Term
from mireg.ablation.arms.registry import ARMS, BASELINE, TERM, Arm, arm

__all__ = ["ARMS", "BASELINE", "TERM", "Arm", "LossTerm", "Term", "arm"]
