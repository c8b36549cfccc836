"""Exported models at work, without torch: numpy, OpenCV and one engine do; Pillow reads files.

model = detseg.runtime.load("model.onnx")
(found,) = model.predict("image.jpg")
"""

from pathlib import Path
from typing import Any

from detseg.runtime.engines import ENGINES, open_engine
from detseg.runtime.predictor import ExportedClassifier, ExportedDetector, ExportedModel, ExportedSegmenter

__all__ = ["ENGINES", "ExportedClassifier", "ExportedDetector", "ExportedModel", "ExportedSegmenter", "load"]

_KINDS: dict[str, type[ExportedModel[Any]]] = {
    "detect": ExportedDetector,
    "localize": ExportedDetector,
    "segment": ExportedSegmenter,
    "classify": ExportedClassifier,
}


def load(path: str | Path, *, threads: int | None = None, exact: bool = False) -> ExportedModel[Any]:
    """A model that `detseg export` wrote, ready to predict; runs no Python code from the file.

    Args:
        path: of a .onnx, .xml or .torchscript file.
        threads: of the engine; by default as many as it takes.
        exact: float32 throughout; otherwise OpenVINO computes in bfloat16 on processors that are quick at it.

    Raises:
        ValueError: no such file, one that detseg did not write or that holds maps only (``--raw``), or its engine is
            not installed.
    """
    engine = open_engine(path, threads, exact=exact)
    if engine.description["raw"]:
        raise ValueError(f"{path}: holds a model without its selection (--raw), for other programs; export it without")
    model = _KINDS[engine.description["task"]](engine)
    model.source = str(path)
    return model
