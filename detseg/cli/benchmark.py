"""`detseg benchmark`: the same run in every engine that is installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from detseg.exporters.measure import Comparison

FORMS: dict[str, tuple[str, bool]] = {
    "onnx": ("onnx", False),
    "openvino": ("openvino", False),
    "openvino int8": ("openvino", True),
    "torchscript": ("torchscript", False),
}


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
    from detseg.exporters.measure import validation_of
    from detseg.predict import load

    if config.images < 1:
        raise ValueError(f"--images must be at least 1, not {config.images}")
    console = Terminal()
    model = load(config.run)
    task, val = validation_of(config.run, Terminal(quiet=True))
    found: dict[str, Comparison] = {}
    left_out = []
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMS:
            try:
                found[name] = _measured(config, name, Path(folder), model, task, val, console)
            except ValueError as error:
                left_out.append(f"{name} is left out: {error}")
    if found:
        console.print(table_of(found))
        for name, one in found.items():
            print_line(console, f"{name}: largest difference {one.largest_difference:.4f}")
    for line in left_out:
        print_line(console, line)
    return 0


def _measured(config: Benchmark, name: str, folder: Path, model: Any, task: Any, val: Any, console: Any) -> Comparison:
    from detseg.exporters import EXPORTERS, export
    from detseg.exporters.measure import compare
    from detseg.runtime import load

    form, int8 = FORMS[name]
    options = {"int8": [str(path) for path in val.paths]} if int8 else {}
    path = export(config.run, form, folder / f"{name}.{EXPORTERS[form].ending}", **options)
    return compare(task, val, model, load(path), console, images=config.images)
