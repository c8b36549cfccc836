"""Exporters by name, and what `detseg export` and `detseg.export` do with one."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from detseg.files import make_folder, replacing_all, require_text
from detseg.predict import Predictor, load
from detseg.registry import Registry

# Writes the model of a predictor, with its names and size, to a path. What it takes by keyword are its options.
Write = Callable[..., None]


class Exporter(NamedTuple):
    """How a form is written, the extra of detseg that brings what it needs, and the ending of its files."""

    write: Write
    extra: str | None
    ending: str

    @property
    def options(self) -> set[str]:
        """Names of the keywords that `write` takes."""
        parameters = inspect.signature(self.write).parameters.values()
        return {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


EXPORTERS: Registry[Exporter] = Registry("export format")


def register_exporter(name: str, *, extra: str | None = None, ending: str | None = None) -> Callable[[Write], Write]:
    """Decorator: make a function known to `detseg export --format NAME`; ValueError where the name is taken.

    Args:
        name: of the form.
        extra: of detseg, ``pip install detseg[extra]``, that installs what the function imports.
        ending: of its files, without the dot; by default the name.
    """

    def register(write: Write) -> Write:
        EXPORTERS.register(name)(Exporter(write, extra, ending or name))
        return write

    return register


def export(run: str | Path, format: str, output: str | Path | None = None, **options: Any) -> Path:
    """Write the model of a run folder by a registered exporter; returns the path.

    Args:
        run: the folder.
        format: name of the exporter: "onnx", "openvino" or "torchscript".
        output: file to write; by default ``model.ENDING`` in the folder.
        options: of the exporter: ``raw=True``, the maps before any selection; ``floats=True``, images as float32 in
            [0, 1] in place of uint8; ``letterbox=True``, images of any size; ``int8=[images]`` of OpenVINO, images that
            the numbers are fitted to.

    Raises:
        ValueError: there is no such exporter or option, no model in the folder, or what the exporter needs is not
            installed.
    """
    exporter = EXPORTERS[format]
    unknown = sorted(set(options) - exporter.options)
    if unknown:
        raise ValueError(f"{format} has no option {unknown[0]}; it has {', '.join(sorted(exporter.options)) or 'none'}")
    predictor: Predictor = load(run)
    path = Path(run, f"model.{exporter.ending}") if output is None else Path(output)
    require_text(path)
    make_folder(path.parent)
    try:
        with replacing_all(path) as temporary:
            exporter.write(predictor, temporary, **options)
    except ModuleNotFoundError as error:
        if exporter.extra is None:
            raise
        raise ValueError(f"{format} needs {error.name}: pip install 'detseg[{exporter.extra}]'") from error
    return path
