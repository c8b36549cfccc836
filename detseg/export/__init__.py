"""Trained models in other programs' forms: one file an exporter, a function with `@register_exporter`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from detseg.predict import Predictor, load
from detseg.registry import Registry

# Writes the model of a predictor, with its names and size, to a path.
Write = Callable[[Predictor, Path], None]


class Exporter(NamedTuple):
    """How a form is written, and the extra of detseg that brings what it needs."""

    write: Write
    extra: str | None


EXPORTERS: Registry[Exporter] = Registry("export format")


def register_exporter(name: str, *, extra: str | None = None) -> Callable[[Write], Write]:
    """Decorator: make a function known to `detseg export --format NAME`; ValueError where the name is taken.

    Args:
        name: of the form; also the ending of its files.
        extra: of detseg, ``pip install detseg[extra]``, that installs what the function imports.
    """

    def register(write: Write) -> Write:
        EXPORTERS.register(name)(Exporter(write, extra))
        return write

    return register


def export(run: str | Path, format: str, output: str | Path | None = None) -> Path:
    """Write the model of a run folder by a registered exporter, by default to ``model.FORMAT`` there; returns the path.

    ValueError: there is no such exporter, no model in the folder, or what the exporter needs is not installed.
    """
    exporter = EXPORTERS[format]
    predictor = load(run)
    path = Path(run, f"model.{format}") if output is None else Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        exporter.write(predictor, path)
    except ModuleNotFoundError as error:
        if exporter.extra is None:
            raise
        raise ValueError(f"{format} needs {error.name}: pip install 'detseg[{exporter.extra}]'") from error
    return path
