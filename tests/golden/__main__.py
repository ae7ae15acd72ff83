"""Measures the golden losses again, and shows what changed: python -m tests.golden"""

from __future__ import annotations

import torch

from tests.golden.losses import FILE, measure, read, write

if __name__ == "__main__":
    torch.set_num_threads(1)
    before = read() if FILE.exists() else {"estimators": {}, "arms": {}}
    write(measure())
    after = read()
    for kind, losses in after.items():
        changed = [name for name in losses if losses[name] != before[kind].get(name)]
        print(f"{kind}: {len(losses)} measured, changed: {', '.join(changed) or 'none'}")
