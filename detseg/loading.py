"""Models by path: run folders with torch, exported files without."""

from pathlib import Path
from typing import Any


def load(run: str | Path, *more: str | Path, threads: int | None = None) -> Any:
    """The model of a run folder, or of a file that `detseg export` wrote, ready to predict; runs no Python from them.

    Returns a `detseg.predict.Predictor`, or a `detseg.runtime.ExportedModel`, which predicts alike and needs no torch.
    Several runs of detectors become one that fuses what they find: see `detseg.predict.FusedDetector`. `threads` are
    those of an exported model's engine; torch has as many as it was told.

    Raises:
        ValueError: there is no model, it is damaged, or models cannot be fused.
    """
    files = [path for path in map(Path, (run, *more)) if path.is_file()]
    if files and more:
        raise ValueError(f"{files[0]}: only run folders can be fused, not exported files")
    if files:
        from detseg.runtime import load as load_file

        return load_file(run, threads=threads)
    from detseg.predict import load as load_runs

    return load_runs(run, *more)
