"""Report on curves: those of a study's folder or archive, or from anywhere, as ``mireg report`` does.

python -m eval.report DIR
python -m eval.report FILE.csv --baseline ARM --goal G
python -m eval.report DIR --archive TARGET
python -m eval.report TARGET --page PAGE ...
python -m eval.report TARGET --unpack DIR --cells CELL ...
python -m eval.report TARGET --drop ARM ... --cells CELL ...
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from eval import archive, convergence, forecast
from eval.cells import CONVERGENCE
from eval.saved import with_steps_saved
from mireg.ablation.command import report as command
from mireg.ablation.report import print_table, tables
from mireg.ablation.report.sources import load_results, summary_of
from mireg.ablation.report.tables import as_markdown
from mireg.ablation.storage.files import DamagedError, read_json, write_bytes, write_json
from mireg.ablation.storage.provenance import RECORD


def write_tables(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write ``summary.json`` and ``report.md`` of a study's folder or archive, and return its runs and the summary."""
    results = load_results(folder)
    summary = summary_of(folder, results, read_json(folder / RECORD) or {"study": folder.name, "arms": []})
    write_json(folder / "summary.json", summary)
    write_bytes(folder / "report.md", as_markdown(summary).encode())
    return results, summary


def fill(folder: Path, *pages: Path) -> dict[str, Any]:
    """Write the tables of a study's folder or archive into pages, and return its summary.

    Each block goes between its markers, ``<!-- tables -->`` and ``<!-- /tables -->``, where a page has them. The
    convergence study also has the blocks ``story``, ``short``, ``overview``, ``bar`` and ``forecast``, and figures.

    Raises:
        ValueError: if a page has no markers.
    """
    results, summary = write_tables(folder)
    full = dict(summary)
    if summary["study"] == CONVERGENCE.name:
        full = convergence.judged(with_steps_saved(summary, results))
        convergence.write_pictures(folder, full, results)
    for page in pages:
        blocks = {"tables": tables(full, level=3)}
        if summary["study"] == CONVERGENCE.name:
            shares = read_json(folder / forecast.FILE) or {}
            blocks = convergence.blocks(full, results, convergence.relative(folder, page), shares)
        write_bytes(page, filled(page, blocks).encode())
    return summary


def filled(page: Path, blocks: Mapping[str, str]) -> str:
    """The text of a page with these blocks between its markers."""
    text, found = page.read_text(encoding="utf-8"), False
    for name, block in blocks.items():
        before, start, rest = text.partition(f"<!-- {name} -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if start and end:
            text, found = f"{before}{start}\n\n{block}\n{end}{after}", True
    if not found:
        names = " or ".join(f"<!-- {name} --> ... <!-- /{name} -->" for name in blocks)
        raise ValueError(f"{page} has no {names}: put these lines where the block belongs")
    return text


def main() -> int:
    """Run the command line and return the exit status."""
    parser = command.parser("python -m eval.report")
    parser.add_argument("--archive", type=Path, help="add the study's runs, compacted, to this folder")
    parser.add_argument("--page", nargs="+", type=Path, help="write the study's tables into these pages' markers")
    parser.add_argument("--unpack", type=Path, help="write cells of an archive to this new folder, to run more of them")
    parser.add_argument("--drop", nargs="+", help="remove these arms of cells from the archive")
    parser.add_argument("--cells", nargs="+", default=[], help="the cells of --unpack and --drop")
    arguments = parser.parse_args()
    if bool(arguments.unpack or arguments.drop) != bool(arguments.cells):
        parser.error("--unpack and --cells go together, and so do --drop and --cells")
    if not (arguments.archive or arguments.page or arguments.unpack or arguments.drop):
        return command.report_on(arguments, "eval.report")
    if len(arguments.curves) > 1:
        parser.error("--archive, --page, --unpack and --drop take the folder of one study")
    folder = Path(arguments.curves[0])
    try:
        if arguments.unpack:
            archive.unpack(folder, arguments.unpack, arguments.cells)
            print(f"{arguments.unpack} holds {', '.join(arguments.cells)}: train.py --out {arguments.unpack} goes on")
            return 0
        if arguments.drop:
            print(f"{archive.drop(folder, arguments.drop, arguments.cells)} runs removed from {folder}")
            return 0
        kept = arguments.archive or folder
        if arguments.archive:
            write_tables(folder)
            archive.add(folder, kept)
        summary = fill(kept, *arguments.page) if arguments.page else write_tables(kept)[1]
    except (OSError, ValueError, DamagedError) as error:
        print(f"eval.report: {error}", file=sys.stderr)
        return 2
    print_table(summary, Console())
    print(f"tables: {kept / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
