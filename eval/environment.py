"""The environment of a measurement."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
import sklearn
import torch

from mireg.ablation.storage.invocation import processor
from mireg.version import __version__


def environment(command: Sequence[str]) -> dict[str, Any]:
    """Describe the environment that a measurement depends on: command, versions, machine."""
    return {
        "command": " ".join(command),
        "mireg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
        "machine": f"{platform.machine()}, {processor()}, {platform.system()}",
    }
