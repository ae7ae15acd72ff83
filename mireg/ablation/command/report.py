"""``mireg report``: report on curves from anywhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mireg.ablation.errors import UserError, cannot_write
from mireg.ablation.storage.files import DamagedError


def parser(program: str) -> argparse.ArgumentParser:
    """The options of the command."""
    found = argparse.ArgumentParser(
        prog=program,
        description="Report on curves: tables, tests, charts and a page. Two studies are compared side by side.",
    )
    found.add_argument(
        "curves",
        nargs="+",
        help="a CSV file (study, arm, seed, step, METRIC[, seconds]), a folder of TensorBoard runs "
        "([STUDY/]ARM/seed-N), or a study's folder",
    )
    found.add_argument("--baseline", help="the arm with which the others are compared (default: none)")
    found.add_argument(
        "--goal", type=float, help="value of the metric to reach; without it, only the ends are compared"
    )
    found.add_argument("--metric", help="name of the column or tag, if there are several")
    found.add_argument(
        "--mode", choices=("max", "min"), help="whether higher or lower is better (default: by its name)"
    )
    found.add_argument("--out", type=Path, help="folder of the report (default: the study's, or out/NAME)")
    return found


def main(argv: Sequence[str] | None = None, program: str = "mireg report") -> int:
    """Run the command and return the exit status."""
    return report_on(parser(program).parse_args(argv), program)


def report_on(arguments: argparse.Namespace, program: str) -> int:
    """Report as the arguments ask, and return the exit status: 2 for curves that cannot be compared."""
    from mireg.ablation.report import print_places, print_table, report  # not for --help: SciPy and matplotlib
    from mireg.ablation.report.sources import destination

    names = ("baseline", "goal", "metric", "mode", "out")
    try:
        summary = report(*arguments.curves, **{name: getattr(arguments, name) for name in names})
    except (UserError, FileNotFoundError) as error:
        problem = str(error)
    except OSError as error:
        problem = cannot_write(error)
    except DamagedError as error:
        problem = f"{error}: give the study's command again, it repeats that run"
    else:
        print_table(summary, Console())
        print_places(destination(arguments.curves, arguments.out), Console())
        return 0
    print(f"{program}: {problem}", file=sys.stderr)
    return 2
