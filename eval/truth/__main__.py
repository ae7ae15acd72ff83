"""Every estimator on samples whose mutual information is known.

python -m eval.truth --json docs/results/truth/truth.json --workers 2
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from eval.environment import environment
from eval.truth.claims import verdicts
from eval.truth.contenders import CONTENDERS, SAMPLES, judge
from eval.truth.tables import card, draw_figure, print_tables
from eval.truth.tasks import HELD_OUT, LISTED, tasks


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.truth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--json", type=Path, help="write the rows here, and the figure of all estimators next to them (.png)"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--tasks", default="", help="only tasks whose name contains this")
    labels = [contender.label for contender in CONTENDERS]
    parser.add_argument("--estimators", nargs="+", default=[], choices=labels, metavar="NAME", help="only these")
    parser.add_argument("--held-out", action="store_true", help="use tasks on which no setting was chosen")
    options = parser.parse_args(arguments)
    grid = HELD_OUT if options.held_out else LISTED
    names = [task.name for task in tasks(grid)]
    chosen = [index for index, name in enumerate(names) if options.tasks in name]
    if not chosen:
        parser.error(f"no task is named like {options.tasks!r}: " + "; ".join(names))
    console = Console(width=None if sys.stdout.isatty() else 140)
    command = ["python", "-m", "eval.truth", *(sys.argv[1:] if arguments is None else arguments)]
    record: dict[str, Any] = {**environment(command), "workers": options.workers, "claims": [], "rows": []}
    start = time.perf_counter()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        finished = pool.map(
            judge, chosen, *zip(*[(options.seeds, grid, options.estimators)] * len(chosen), strict=True)
        )
        for rows in track(finished, "tasks", total=len(chosen), console=Console(stderr=True), transient=True):
            record["rows"] += rows
            record["seconds"] = round(time.perf_counter() - start, 1)
            if options.json:  # after every task, so that an interrupted run keeps its results
                _write(options.json, record)
    if len(chosen) == len(names):
        record["claims"] = verdicts(record["rows"])
    print_tables(record["rows"], record["claims"], console)
    if options.json:
        _write(options.json, record)
        if options.estimators:
            print("", "For the card:", "", *card(record["rows"]), sep="\n")
        elif any(row["n"] == SAMPLES and row["bias"] is not None for row in record["rows"]):
            draw_figure(record["rows"]).savefig(options.json.with_suffix(".png"), dpi=150)
    return 0


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
