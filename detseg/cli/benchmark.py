"""`detseg benchmark`: the same run in every engine that is installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from detseg.exporters.measure import Comparison


@dataclass(frozen=True)
class Benchmark:
    """Compare engines on a run: accuracy on its validation images, and time of an image, each beside torch.

        detseg benchmark runs/detector-1
        detseg benchmark runs/detector-1 --images 100

    The model is exported for every engine that is installed, into a temporary folder. torch and each engine look at the
    images in turn, so what else the machine does meets both.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    images: int = 50
    """Validation images to look at, spread over the set."""


def run(config: Benchmark) -> int:
    """Compare as `config` says; returns the exit code.

    Raises:
        ValueError: there is no model in the folder, or the validation images are gone.
    """
    import tempfile

    from detseg.cli.export import table_of
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line
    from detseg.exporters.measure import compare, validation_of
    from detseg.predict import load
    from detseg.runtime import load as load_exported

    if config.images < 1:
        raise ValueError(f"--images must be at least 1, not {config.images}")
    console = Terminal()
    model = load(config.run)
    task, val = validation_of(config.run, Terminal(quiet=True))
    found: dict[str, Comparison] = {}
    left_out = []
    with tempfile.TemporaryDirectory() as folder:
        for form, int8 in _forms():
            name = f"{form} int8" if int8 else form
            try:
                path = _exported(config, form, int8, Path(folder, name), val)
                found[name] = compare(task, val, model, load_exported(path), console, images=config.images)
            except ValueError as error:
                left_out.append(f"{name} is left out: {error}")
    if found:
        console.print(table_of(found))
        for name, one in found.items():
            print_line(console, f"{name}: largest difference {one.largest_difference:.4f}")
    for line in left_out:
        print_line(console, line)
    return 0


def _forms() -> list[tuple[str, bool]]:
    """Export formats that an engine here reads, in floats, and in whole numbers of 8 bits where there are such."""
    from detseg.exporters import EXPORTERS
    from detseg.runtime import ENGINES

    read = {name: exporter for name, exporter in EXPORTERS.items() if f".{exporter.ending}" in ENGINES}
    return [(name, int8) for name, e in read.items() for int8 in ((False, True) if "int8" in e.options else (False,))]


def _exported(config: Benchmark, form: str, int8: bool, folder: Path, val: Any) -> Path:
    from detseg.exporters import EXPORTERS, export

    options = {"int8": [str(path) for path in val.paths]} if int8 else {}
    return export(config.run, form, folder / f"model.{EXPORTERS[form].ending}", **options)
