"""A run as trackers see it, without training."""

from dataclasses import dataclass
from types import SimpleNamespace

from detseg.metrics.figure import Figure


@dataclass
class Options:
    epochs: int = 3
    lr: float | None = None
    strides: tuple = (8, 16)


class Task:
    name = "detector"
    FIGURES = (
        Figure("AP", "mAP", "", lambda metrics: metrics["AP"]),
        Figure("AP50", "mAP@.50", "", lambda m: m["AP50"]),
    )


def followed(folder):
    """A run in a folder; the file of its model is there."""
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "metrics.csv", "model.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return SimpleNamespace(
        folder=folder,
        task=Task(),
        config=Options(),
        train=range(8),
        val=range(4),
        data=SimpleNamespace(categories=[1, 2]),
        figures={"map": "mAP", "map50": "mAP@.50"},
        column={"AP": "map", "AP50": "map50"}.get,
        goal="map",
        interrupted=False,
        metrics=None,
    )


def row(step, score=0.25, other=float("nan")):
    return {"epoch": step / 3, "step": step, "seconds": 6.0, "lr": 0.1, "loss": 1.5, "map": score, "map50": other}
