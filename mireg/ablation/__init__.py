"""Training with and without the term, paired by seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mireg.ablation.comparison import compare

__all__ = ["compare"]


def __getattr__(name: str) -> Any:
    # The trainer and its report are slow to import, and most of what is inside needs neither.
    if name == "compare":
        from mireg.ablation.comparison import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
