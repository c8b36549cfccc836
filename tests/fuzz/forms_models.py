"""Forms of runs and models: settings, files of options, descriptions, weights, states, metrics, exported files."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import detseg
from detseg.backbones import create_backbone, measure
from detseg.cli import _options
from detseg.exporters import export
from detseg.models import build_model, described_model, save_model
from detseg.report.plots.history import read_history
from detseg.runtime import load as load_exported
from detseg.runtime.engines import ENGINES, Kind, _parsed
from detseg.train.config import config_for, load_config
from detseg.train.extension import Extension, add_extension, last_extension
from detseg.train.log import RunLog
from detseg.train.resume import RESUME, load_state
from tests.fuzz.harness import Form
from tests.train.runs import tiny_trainer

CATEGORIES = [{"id": 7, "name": "rose"}, {"id": 3, "name": "daisy"}]
BOXES = [[[10.0, 12.0], [20.0, 16.0]]] * 3
SMALL = {"backbone": "test_efficientnet", "strides": [8, 16, 32], "num_classes": 2, "max_detections": 100}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "yolo": {"anchors": BOXES, "width": 8, "reach": 1.5, "folded": True, "calibration": [1.0, 0.5]},
    "ssd": {"shapes": BOXES + BOXES[:1], "coarser": [16], "lite": True, "atrous": False},
    "faster_rcnn": {"anchors": BOXES + BOXES[:1], "width": 8, "hidden": 16, "regions": 8},
    "mask_rcnn": {"anchors": BOXES + BOXES[:1], "width": 8, "hidden": 16, "mask_width": 8},
}
RUNS: dict[tuple[str, tuple[int, ...], int], tuple[measure.Run | None, str]] = {}
LENET = {"kind": "", "backbone": "lenet5", "num_classes": 2}
OTHERS: dict[str, dict[str, Any]] = {
    "classifier": {"dropout": 0.1, "head": [8]},
    "localizer": {"loss": "giou", "size": 32, "loss_weights": [0.8, 0.2], "objectness": True},
    "fcn": {
        "strides": [2, 4],
        "loss": "ce",
        "class_weights": [1.0, 0.5],
        "normalisation": {"mean": [0] * 3, "std": [1] * 3},
    },
}


@cache
def _architecture(kind: str) -> dict[str, Any]:
    own = ARCHITECTURES.get(kind)
    return LENET | OTHERS[kind] | {"kind": kind} if own is None else SMALL | own | {"kind": kind}


def make_model(kind: str, files: tuple[str, ...], folder: Path) -> list[Path]:
    torch.manual_seed(0)
    architecture = _architecture(kind)
    objects = {"sides": [4.0, 9.5, 30.0], "long_side": 64}
    training = {"images": 3, "date": "2026-01-01", "epoch": 1.0}
    description = {"architecture": architecture, "categories": CATEGORIES, "size": 32, "training": training}
    save_model(folder, build_model(architecture), description | {"objects": objects})
    return [folder / file for file in files]


@contextmanager
def measured_once() -> Iterator[None]:
    """Networks of the same layers are measured once: it takes most of the time, and no weights change what it tells."""

    def measured(net: torch.nn.Module, strides: tuple[int, ...], in_channels: int) -> tuple[measure.Run | None, str]:
        key = repr(net), strides, in_channels
        if key not in RUNS:
            RUNS[key] = original(net, strides, in_channels)
        return RUNS[key]

    original, measure._try = measure._try, measured
    try:
        yield
    finally:
        measure._try = original


@measured_once()
def read_description(folder: Path) -> None:
    described_model(folder)


@measured_once()
def read_model(folder: Path) -> None:
    predictor = detseg.load(folder)
    if predictor.size <= 128 and predictor.channels == 3:
        predictor.predict(np.zeros((20, 30, 3), np.uint8))


# ------------------------------------------------------------------ settings and options


def make_config(task: str, folder: Path, **options: Any) -> list[Path]:
    kind = config_for(task, options.pop("model", None))
    kind(data=folder, weights="none", size=64, freeze="all", minutes=3.5, augment=("zoom=1.1",), **options).save(folder)
    add_extension(folder, Extension(3, None, 12, 3.5))
    return [folder / "config.json"]


def read_config(task: str, folder: Path) -> None:
    load_config(folder, task)
    last_extension(folder)


def make_options(ending: str, folder: Path) -> list[Path]:
    content = {"data": "flowers", "model": "ssd", "batch-size": 4, "strides": [16, 32], "lr": 0.01, "flip": "none"}
    content |= {"multi_scale": False, "freeze": "all", "augment": ["zoom=1.1"], "minutes": None}
    file = folder / f"options.{ending}"
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in content.items()]
    file.write_text(json.dumps(content) if ending == "json" else "".join(lines))
    return [file]


def read_options(ending: str, folder: Path) -> None:
    try:
        _options("train detector", ["--config", str(folder / f"options.{ending}")])
    except SystemExit as error:
        if not isinstance(error.code, str):  # refused by the parser, which knows no file
            raise
        raise ValueError(error.code) from error


# ------------------------------------------------------------------ weights


def make_weights(name: str, folder: Path, *, legacy: bool = False) -> list[Path]:
    torch.manual_seed(0)
    state = create_backbone("lenet5", strides=(2, 4)).state_dict()
    if name.endswith(".safetensors"):
        from safetensors.torch import save_file

        save_file({f"module.{key}": value for key, value in state.items()}, folder / name)
    else:
        wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
        torch.save(wrapped, folder / name, _use_new_zipfile_serialization=not legacy)
    return [folder / name]


@measured_once()
def read_weights(name: str, folder: Path) -> None:
    create_backbone("lenet5", strides=(2, 4), pretrained=folder / name)


# ------------------------------------------------------------------ resuming


TINY = {"kind": "yolo", "backbone": "lenet5", "strides": [2, 4], "anchors": BOXES[:2], "num_classes": 2, "width": 4}


def make_state(folder: Path) -> list[Path]:
    tiny_trainer(folder, steps=1, model=build_model(TINY)).run()
    return [folder / RESUME]


@cache
def _trainer() -> Any:
    return tiny_trainer(Path(), model=build_model(TINY))


def read_state(folder: Path) -> None:
    trainer = _trainer()
    trainer.job.folder = folder
    trainer._restore(load_state(folder / RESUME))


def make_metrics(folder: Path) -> list[Path]:
    rows = [
        {"epoch": i / 2, "step": i, "seconds": 1.5 * i, "lr": 0.01, "loss": 1 / i, "map": i / 10} for i in range(1, 6)
    ]
    file = folder / "metrics.csv"
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return [file]


def read_metrics(folder: Path) -> None:
    read_history(folder / "metrics.csv")
    content = (folder / "metrics.csv").read_bytes()
    log = RunLog(folder, Console(file=io.StringIO()), {"map": "mAP"})
    log.rewind(3)
    log.validated({"epoch": 2, "step": 4, "seconds": 6.0, "lr": 0.1, "loss": 0.5, "map": 0.4})
    (folder / "metrics.csv").write_bytes(content)


# ------------------------------------------------------------------ exported files


def make_exported(form: str, folder: Path) -> list[Path]:
    """A file whose engine is installed."""
    make_model("classifier", (), folder)
    path = export(folder, form)
    return [path]


def read_exported(name: str, folder: Path) -> None:
    model = load_exported(folder / name, threads=1)
    if model.size <= 128 and model.channels == 3:
        model.predict(np.zeros((20, 30, 3), np.uint8))


class Told:
    """An engine that says of itself what stands in a file, and finds nothing."""

    def __init__(self, path: Path, *_: Any, **__: Any) -> None:
        self.description = _parsed(path.read_bytes().decode("utf-8", "surrogateescape"), path)

    def __call__(self, images: Any) -> dict[str, Any]:
        rows = {name: np.zeros(0, np.float32) for name in ("images", "scores", "labels")}
        return rows | {"boxes": np.zeros((0, 4), np.float32)}


def make_told(folder: Path) -> list[Path]:
    content = {
        **{"task": "detect", "categories": CATEGORIES, "size": 32, "any_size": True, "channels": 3, "input": "uint8"},
        **{"raw": False, "letterbox": False, "masks": False, "max_detections": 100, "outputs": ["images", "boxes"]},
        "objects": {"sides": [4.0, 9.5, 30.0], "long_side": 64},
    }
    (folder / "model.told").write_text(json.dumps(content))
    return [folder / "model.told"]


def read_told(folder: Path) -> None:
    ENGINES[".told"] = Kind(Told, "nothing")
    try:
        model = load_exported(folder / "model.told")
    finally:
        del ENGINES[".told"]
    if model.size <= 128:
        model.predict(np.zeros((20, 30, model.channels), np.uint8))


MODEL = "model.json", "model.safetensors"
FORMS = [
    *(
        Form(f"config-{task}", partial(make_config, task), partial(read_config, task), quick=250)
        for task in ("detector", "segmenter", "classifier", "localizer")
    ),
    *(Form(f"options-{e}", partial(make_options, e), partial(read_options, e), quick=60) for e in ("yaml", "json")),
    *(
        Form(f"model-{kind}", partial(make_model, kind, MODEL[:1]), read_description, quick=25)
        for kind in (*ARCHITECTURES, *OTHERS)
    ),
    *(
        Form(f"model-with-weights-{kind}", partial(make_model, kind, MODEL), read_model, quick=15)
        for kind in ("yolo", "mask_rcnn", *OTHERS)
    ),
    Form("model-safetensors", partial(make_model, "classifier", MODEL[1:]), read_model, quick=20),
    *(
        Form(
            f"weights-{name}",
            partial(make_weights, f"w.{ending}", **options),
            partial(read_weights, f"w.{ending}"),
            kind,
            100,
        )
        for name, ending, kind, options in (
            ("zip", "pth", "", {}),
            ("legacy", "pt", "bytes", {"legacy": True}),
            ("safetensors", "safetensors", "", {}),
            ("structure", "pth", "state", {}),
        )
    ),
    Form("state", make_state, read_state, quick=20),
    Form("state-structure", make_state, read_state, "state", quick=25),
    Form("metrics", make_metrics, read_metrics),
    Form("exported-description", make_told, read_told, "json", quick=250),
    *(
        Form(f"exported-{form}", partial(make_exported, form), partial(read_exported, f"model.{ending}"), kind, 12)
        for form, ending, kind, engine in (
            ("onnx", "onnx", "bytes", "onnxruntime"),
            ("openvino", "xml", "xml", "openvino"),
            ("torchscript", "torchscript", "zip", "torch"),
        )
        if find_spec(engine)
    ),
]
