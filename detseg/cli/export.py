"""`detseg export`: write a trained model for other engines, and measure what was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detseg.exporters.measure import Comparison


@dataclass(frozen=True)
class Export:
    """Write the model of a run for another engine, final results included, and measure what was written.

        detseg export runs/detector-1 --format onnx
        detseg export runs/detector-1 --format openvino
        detseg export runs/detector-1 --format openvino --int8 --output small/model.xml

    The validation images of the run go through torch and through the file; the table and export.json beside the file
    tell the figure of both, the largest difference, and the time of an image. The file predicts without torch:

        detseg predict runs/detector-1/model.onnx photos/
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    format: str
    """onnx (needs detseg[onnx]), openvino (detseg[openvino]) or torchscript."""
    output: Path | None = None
    """File to write; by default model.onnx, model.xml or model.torchscript in the run folder."""
    int8: bool = False
    """OpenVINO: whole numbers of 8 bits in place of floats, fitted to validation images: smaller and quicker."""
    raw: bool = False
    """The plain maps, without selection, non-max suppression and masks, for programs that do these themselves."""
    floats: bool = False
    """Images as float32 in [0, 1], in place of uint8."""
    letterbox: bool = False
    """Detectors: fit images of any size in inside of the graph; boxes come in their own pixels."""
    tolerance: float = 0.005
    """Most that the figure (mAP, mean IoU, accuracy) may lose; more is an error, and the file is named .failed."""
    images: int | None = None
    """Validation images to measure with; by default all. 0: do not measure."""


def run(config: Export) -> int:
    """Export as `config` says; returns the exit code: 1 where the file loses more than it may.

    Raises:
        ValueError: there is no model in the folder, no such exporter or option, or the validation images are gone.
    """
    from detseg.cli.terminal import Terminal
    from detseg.console import print_line
    from detseg.exporters import EXPORTERS, export
    from detseg.exporters.measure import compare, validation_of
    from detseg.predict import load
    from detseg.runtime import load as load_exported

    console, exporter = Terminal(), EXPORTERS[config.format]
    if not config.tolerance >= 0 or (config.images or 0) < 0:  # nor is NaN
        raise ValueError("--tolerance and --images must not be negative")
    measured = config.images != 0 and not config.raw and f".{exporter.ending}" in _engines()
    options: dict[str, Any] = {name: True for name in ("raw", "floats", "letterbox") if getattr(config, name)}
    task = val = None
    if measured or config.int8:
        try:
            task, val = validation_of(config.run, Terminal(quiet=True))
        except (ValueError, OSError) as error:
            raise ValueError(f"{error}; without validation images nothing can be measured: --images 0") from error
    if config.int8:
        assert val is not None
        options["int8"] = [str(path) for path in val.paths]
    path = export(config.run, config.format, config.output, **options)
    print_line(console, f"{config.format}: {path} ({_megabytes(path):.1f} MB)")
    if not measured:
        return 0
    exported = load_exported(path)
    found = compare(task, val, load(config.run), exported, console, images=config.images)
    _print(console, config.format + (" int8" if config.int8 else ""), found)
    found.save(path.with_name("export.json"), format=config.format, file=path.name, int8=config.int8)
    print_line(console, f"the same is in {path.with_name('export.json')}")
    if found.lost <= config.tolerance:
        return 0
    failed = path.with_name(f"{path.stem}.failed{path.suffix}")
    for old in (path, path.with_suffix(".bin")):
        if old.exists() and (old == path or path.suffix == ".xml"):
            old.replace(old.with_name(f"{old.stem}.failed{old.suffix}"))
    raise ValueError(
        f"{path}: loses {found.lost:.4f} of {found.figure}, more than --tolerance {config.tolerance:g}; it is kept as "
        f"{failed.name}"
    )


def _engines() -> tuple[str, ...]:
    from detseg.runtime import ENGINES

    return tuple(ENGINES)


def _megabytes(path: Path) -> float:
    files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
    return sum(file.stat().st_size for file in files if file.exists()) / 1e6


def table_of(found: Mapping[str, Comparison]) -> Any:
    """A table of engines by name, one at least, torch first."""
    from rich.table import Table

    first = next(iter(found.values()))
    table = Table(title=f"{first.images} validation images")
    columns = (first.figure, "95 % interval", "ms an image", "times torch")
    table.add_column("engine")
    for column in columns:
        table.add_column(column, justify="right")
    sides = {"torch": (first.torch, "1.00")}
    sides |= {name: (one.exported, f"{one.torch.ms / one.exported.ms:.2f}") for name, one in found.items()}
    for name, (side, ratio) in sides.items():
        table.add_row(name, f"{side.value:.4f}", f"{side.low:.3f}-{side.high:.3f}", f"{side.ms:.1f}", ratio)
    return table


def _print(console: Any, name: str, found: Comparison) -> None:
    console.print(table_of({name: found}))
    alone = f"; {found.only_in_one} clear detections are found by one of them only" if found.only_in_one else ""
    console.print(f"largest difference {found.largest_difference:.4f}{alone}", highlight=False)
