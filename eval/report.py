"""Report on curves: those of a study's folder or archive, or from anywhere, as ``mireg report`` does.

python -m eval.report DIR
python -m eval.report FILE.csv --baseline ARM --goal G
python -m eval.report DIR --archive TARGET
python -m eval.report TARGET --page PAGE
python -m eval.report TARGET --unpack DIR --cells CELL ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from eval import archive, convergence
from eval.cells import CONVERGENCE
from eval.saved import with_steps_saved
from mireg.ablation.command import report as command
from mireg.ablation.report import print_table, tables, write, write_tables
from mireg.ablation.storage.files import DamagedError, write_bytes


def fill(page: Path, folder: Path) -> None:
    """Write the tables of a study's folder or archive into a page, between ``<!-- tables -->`` and its ``/tables``.

    The convergence study's page also has the bar and the figures, which are drawn into the folder, and, between
    ``<!-- overview -->`` and its ``/overview``, a line per cell.

    Raises:
        ValueError: if the page does not have these markers.
    """
    results, _, summary = write_tables(folder)
    if summary["study"] == CONVERGENCE.name:
        with_steps_saved(summary, results)
        convergence.write_pictures(folder, summary)
        blocks = convergence.blocks(summary, results, convergence.relative(folder, page))
    else:
        blocks = {"tables": tables(summary, level=3)}
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, start, rest = text.partition(first)
        _, end, after = rest.partition(last)
        if not (start and end):
            raise ValueError(f"{page} has no {first} ... {last}: put these lines where the {name} belong")
        text = f"{before}{start}\n\n{block}\n{end}{after}"
    write_bytes(page, text.encode())


def main() -> int:
    """Run the command line and return the exit status."""
    parser = command.parser("python -m eval.report")
    parser.add_argument("--archive", type=Path, help="add the study's runs, compacted, to this folder")
    parser.add_argument("--page", type=Path, help="write the study's tables into this page, between its markers")
    parser.add_argument("--unpack", type=Path, help="write cells of an archive to this new folder, to run more of them")
    parser.add_argument("--cells", nargs="+", default=[], help="the cells to unpack")
    arguments = parser.parse_args()
    if bool(arguments.unpack) != bool(arguments.cells):
        parser.error("--unpack and --cells go together")
    if not (arguments.archive or arguments.page or arguments.unpack):
        return command.report_on(arguments, "eval.report")
    if len(arguments.curves) > 1:
        parser.error("--archive, --page and --unpack take the folder of one study")
    folder = Path(arguments.curves[0])
    try:
        if arguments.unpack:
            archive.unpack(folder, arguments.unpack, arguments.cells)
            print(f"{arguments.unpack} holds {', '.join(arguments.cells)}: train.py --out {arguments.unpack} goes on")
            return 0
        summary = write(folder)
        if arguments.archive:
            archive.add(folder, arguments.archive)
            summary = write_tables(arguments.archive)[2]
        if arguments.page:
            fill(arguments.page, arguments.archive or folder)
    except (OSError, ValueError, DamagedError) as error:
        print(f"eval.report: {error}", file=sys.stderr)
        return 2
    print_table(summary, Console())
    print(f"report: {folder / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
