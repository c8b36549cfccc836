"""`python -m tests.fuzz --count 2000 --seed 7 [--form voc]` prints what came of damaged files of every form.

`--index I` with `--form` and `--seed` repeats one, with its traceback; `--write FOLDER` leaves it there.
"""

import argparse
import faulthandler
import sys
import traceback
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.fuzz.harness import COLUMNS, FAILURES, Form, Outcome, forms, run_apart, try_reading, write_mutant

SHOWN = 20  # failures of a form; others arise at the same lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="damaged files of each form")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other damage")
    parser.add_argument("--form", action="append", help="only forms whose names begin so; may be given again")
    parser.add_argument("--index", type=int, help="only the damage of this number, with its traceback")
    parser.add_argument("--write", type=Path, help="with --index: leave the damaged example in this folder")
    options = parser.parse_args()
    faulthandler.enable()
    chosen = [form for name, form in forms().items() if not options.form or name.startswith(tuple(options.form))]
    if options.index is not None:
        return _repeat(chosen[0], options.seed, options.index, options.write)
    outcomes = []
    for form in chosen:
        outcomes.append(run_apart(form, options.count, options.seed))
        print(f"{form.name}: {outcomes[-1].seconds:.0f} s", file=sys.stderr, flush=True)
        _tell(outcomes[-1])
    console = Console(width=120)
    console.print(table(outcomes))
    return any(outcome.failures for outcome in outcomes)


def table(outcomes: list[Outcome]) -> Table:
    """Forms in rows, what came of their files in columns."""
    table = Table("form", "files", *COLUMNS, "s")
    for column in table.columns[1:]:
        column.justify = "right"
    for outcome in outcomes:
        counts = [outcome.counts[column] for column in COLUMNS]
        table.add_row(outcome.form, str(sum(counts)), *(str(n or "") for n in counts), f"{outcome.seconds:.1f}")
    sums = [sum(outcome.counts[column] for outcome in outcomes) for column in COLUMNS]
    table.add_section()
    table.add_row("all", str(sum(sums)), *map(str, sums), f"{sum(o.seconds for o in outcomes):.0f}")
    return table


def _tell(outcome: Outcome) -> None:
    for failure in outcome.failures[:SHOWN]:
        print(repr(str(failure))[1:400], flush=True)
    if len(outcome.failures) > SHOWN:
        print(f"... and {len(outcome.failures) - SHOWN} more", flush=True)


def _repeat(form: Form, seed: int, index: int, folder: Path | None) -> int:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        file = write_mutant(form, seed, index, folder)
        column, said = try_reading(form, folder, file.name)
        print(f"{column}: {file}: {said!r}")
        try:
            form.read(folder)
        except Exception:
            traceback.print_exc()
    return column in FAILURES


if __name__ == "__main__":
    sys.exit(main())
