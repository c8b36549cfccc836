"""The 12 COCO figures: detseg against pycocotools, faster-coco-eval, hotcoco and torchmetrics.

    python benchmarks/evaluation.py [--images 2000 5000] [--iou-types bbox segm] [--rounds 7]

On generated data: 80 classes, 7 objects and 100 detections an image. Libraries that are not installed are left
out (`pip install faster-coco-eval hotcoco torchmetrics`). The figures are compared before the time: a library
whose figures differ from pycocotools' by more than 1e-12 is marked.

Each library gets the data in the form it likes best: from memory (its own object of the ground truth, made
before, and the detections as arrays or dicts, whatever is quickest) and from two JSON files. They take turns
inside every round; those that need many seconds run once. Memory is the peak of a process that reads the files
and computes the figures, beyond what its imports took.
"""

import contextlib
import copy
import importlib.util
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.table import Table

SLOW = ("pycocotools", "torchmetrics", "faster-coco-eval")  # many seconds: one round tells enough
MODULES = {
    "detseg": "detseg",
    "hotcoco": "hotcoco",
    "faster-coco-eval": "faster_coco_eval",
    "pycocotools": "pycocotools",
    "torchmetrics": "torchmetrics",
}


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    images: tuple[int, ...] = (2000, 5000)
    iou_types: tuple[str, ...] = ("bbox", "segm")
    sources: tuple[str, ...] = ("memory", "files")
    libraries: tuple[str, ...] = tuple(MODULES)
    classes: int = 80
    objects: int = 7
    """Objects an image."""
    detections: int = 100
    """Detections an image: some near each object, the rest anywhere."""
    rounds: int = 7
    memory: bool = True
    """Measure the peak memory too."""


@dataclass(frozen=True)
class Data:
    """Ground truth and results in COCO form, and where they lie as files."""

    truth: dict[str, Any]
    results: list[dict[str, Any]]
    files: tuple[str, str]
    iou_type: str


# ------------------------------------------------------------------ the data


def generate(settings: Settings, images: int, masks: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results in COCO form; masks are outlines of 24 points."""
    rng = np.random.default_rng(0)
    total = images * settings.objects
    owners = np.repeat(np.arange(images), settings.objects)
    categories = rng.integers(1, settings.classes + 1, total)
    sizes = np.exp(rng.uniform(np.log(8), np.log(300), (total, 2)))
    boxes = np.concatenate([rng.uniform(0, 340, (total, 2)), sizes], axis=1)
    truth = {
        "images": [{"id": i + 1, "file_name": f"{i}.jpg", "width": 640, "height": 640} for i in range(images)],
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(settings.classes)],
        "annotations": [
            {
                "id": n + 1,
                "image_id": int(owners[n]) + 1,
                "category_id": int(categories[n]),
                "bbox": boxes[n].tolist(),
                "area": float(sizes[n].prod()),
                "iscrowd": int(n % 100 == 0),
            }
            for n in range(total)
        ],
    }
    near = np.repeat(np.arange(total), settings.detections // 2 // settings.objects)
    jittered = boxes[near] + rng.normal(0, 0.1, (len(near), 4)) * boxes[near][:, [2, 3, 2, 3]]
    jittered[:, 2:] = np.abs(jittered[:, 2:])
    rest = images * settings.detections - len(near)
    columns = (
        np.concatenate([owners[near], rng.integers(0, images, rest)]) + 1,
        np.concatenate([categories[near], rng.integers(1, settings.classes + 1, rest)]),
        np.concatenate([jittered, rng.uniform(5, 300, (rest, 4))]),
        np.concatenate([rng.beta(4, 2, len(near)), rng.beta(1, 4, rest)]),
    )
    keys = ("image_id", "category_id", "bbox", "score")
    rows = zip(*(c.tolist() for c in columns), strict=True)
    results = [dict(zip(keys, row, strict=True)) for row in rows]
    if masks:
        for entry in (*truth["annotations"], *results):
            entry["segmentation"] = outline(entry["bbox"])
    return truth, results


_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)


def outline(box: list[float]) -> dict[str, Any]:
    """Run lengths of the ellipse in a box, cut at the border of the image."""
    x, y, width, height = box
    points = np.stack([x + width / 2 * (1 + np.cos(_ANGLES)), y + height / 2 * (1 + np.sin(_ANGLES))], axis=1)
    drawn = coco_mask.frPyObjects([points.clip(0, 640).ravel().tolist()], 640, 640)[0]
    return {"size": drawn["size"], "counts": drawn["counts"].decode()}


# ------------------------------------------------------------------ the libraries


def detseg(data: Data, source: str) -> Callable[[], Any]:
    from detseg.data import read_annotations
    from detseg.metrics import Detections, evaluate_detections

    if source == "files":
        return lambda: evaluate_detections(*data.files, data.iou_type).stats
    truth = data.truth if data.iou_type == "segm" else read_annotations(data.files[0])
    boxes = np.array([r["bbox"] for r in data.results])
    boxes[:, 2:] += boxes[:, :2]
    columns = [np.array([r[key] for r in data.results]) for key in ("image_id", "category_id", "score")]
    masks = [r["segmentation"] for r in data.results] if data.iou_type == "segm" else None

    def run() -> Any:
        detections = Detections(columns[0], columns[1], boxes, columns[2], masks)
        return evaluate_detections(truth, detections, data.iou_type).stats

    return run


def pycocotools(data: Data, source: str) -> Callable[[], Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _like_pycocotools(COCO, COCOeval, data, source)


def faster_coco_eval(data: Data, source: str) -> Callable[[], Any]:
    from faster_coco_eval import COCO, COCOeval_faster

    return _like_pycocotools(COCO, COCOeval_faster, data, source)


def _like_pycocotools(coco: Any, evaluation: Any, data: Data, source: str) -> Callable[[], Any]:
    def run() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = coco(data.files[0]) if side is None else side
            found = truth.loadRes(data.files[1] if source == "files" else results)
            evaluator = evaluation(truth, found, data.iou_type)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        return evaluator.stats[:12]

    side, results = None, copy.deepcopy(data.results)  # it writes into them
    if source == "memory":
        with contextlib.redirect_stdout(io.StringIO()):
            side = coco()
            side.dataset = copy.deepcopy(data.truth)
            side.createIndex()
    return run


def hotcoco(data: Data, source: str) -> Callable[[], Any]:
    from hotcoco import COCO, COCOeval

    rows: Any = data.results
    if source == "memory" and data.iou_type == "bbox":  # the form it reads fastest: image, box, score, class
        rows = np.array([[r["image_id"], *r["bbox"], r["score"], r["category_id"]] for r in data.results])
    side = COCO(data.truth) if source == "memory" else None

    def run() -> Any:
        truth = COCO(data.files[0]) if side is None else side
        evaluator = COCOeval(truth, truth.load_res(data.files[1] if source == "files" else rows), data.iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        with _silence():
            evaluator.summarize()
        return evaluator.stats

    return run


def torchmetrics(data: Data, source: str) -> Callable[[], Any]:
    """It takes tensors, a dict an image, and computes in float32; it does not read files."""
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    if source == "files" or data.iou_type == "segm":
        raise NotImplementedError

    def of_images(entries: list[dict[str, Any]], columns: dict[str, str]) -> list[dict[str, Any]]:
        groups: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in data.truth["images"]}
        for entry in entries:
            groups[entry["image_id"]].append(entry)
        return [
            {
                "boxes": torch.tensor([e["bbox"] for e in group], dtype=torch.float64).reshape(-1, 4),
                **{name: torch.tensor([e[key] for e in group]) for name, key in columns.items()},
            }
            for group in groups.values()
        ]

    found = of_images(data.results, {"scores": "score", "labels": "category_id"})
    real = of_images(data.truth["annotations"], {"labels": "category_id", "iscrowd": "iscrowd", "area": "area"})

    def run() -> Any:
        metric = MeanAveragePrecision(box_format="xywh")
        metric.warn_on_many_detections = False
        metric.update(found, real)
        result = metric.compute()
        names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
        recalls = ("mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large")
        return [float(result[name]) for name in (*names, *recalls)]

    return run


LIBRARIES: dict[str, Callable[[Data, str], Callable[[], Any]]] = {
    "detseg": detseg,
    "hotcoco": hotcoco,
    "faster-coco-eval": faster_coco_eval,
    "pycocotools": pycocotools,
    "torchmetrics": torchmetrics,
}


@contextlib.contextmanager
def _silence() -> Any:
    """Nothing on stdout, from compiled code neither."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


# ------------------------------------------------------------------ measuring


def measure(data: Data, source: str, settings: Settings) -> dict[str, tuple[float, float]]:
    """Median seconds and largest difference from the reference figures, by library."""
    runs: dict[str, Callable[[], Any]] = {}
    for name in settings.libraries:
        if importlib.util.find_spec(MODULES[name]):
            with contextlib.suppress(NotImplementedError):
                runs[name] = LIBRARIES[name](data, source)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    figures: dict[str, Any] = {}
    for number in range(settings.rounds + 1):
        for name, run in runs.items():
            if name in SLOW and seconds[name]:
                continue
            start = time.perf_counter()
            figures[name] = run()
            if number or name in SLOW:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    expected = np.asarray(figures.get("pycocotools", figures["detseg"]))
    return {
        name: (statistics.median(times), float(np.abs(np.asarray(figures[name]) - expected).max()))
        for name, times in seconds.items()
    }


def peak_memory(data: Data, name: str) -> float:
    """MB beyond the imports, of a process that goes from the files to the figures."""
    command = [sys.executable, __file__, "--child", name, data.iou_type, *data.files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def child(name: str, iou_type: str, *files: str) -> None:
    run = LIBRARIES[name](Data({}, [], (files[0], files[1]), iou_type), "files")
    before = peak()
    run()
    print(peak() - before)


def peak() -> float:
    """Highest memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # resource would tell the parent's peak, where that was higher
        (line,) = (row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def show(settings: Settings, images: int, iou_type: str, folder: Path) -> Table:
    truth, results = generate(settings, images, iou_type == "segm")
    files = (str(folder / "truth.json"), str(folder / "results.json"))
    for file, content in zip(files, (truth, results), strict=True):
        Path(file).write_text(json.dumps(content))
    data = Data(truth, results, files, iou_type)
    table = Table(
        title=f"{iou_type}: {images} images, {len(truth['annotations'])} objects, {len(results)} detections",
        caption="seconds to the 12 figures (median); ratio = seconds / detseg's",
    )
    for column in ("from", "library", "seconds", "ratio", "MB", "figures"):
        table.add_column(column, justify="left" if column in ("from", "library", "figures") else "right")
    for source in settings.sources:
        rows = measure(data, source, settings)
        for name, (seconds, difference) in rows.items():
            memory = f"{peak_memory(data, name):.0f}" if settings.memory and source == "files" else ""
            equal = "equal" if difference <= 1e-12 else f"differ by {difference:.0e}"
            table.add_row(source, name, f"{seconds:.3f}", f"{seconds / rows['detseg'][0]:.2f}", memory, equal)
    table.add_row("matches", "detseg: intervals of 1000 resamples", f"{resample(data):.3f}", "", "", "")
    return table


def resample(data: Data) -> float:
    """Seconds that intervals by 1000 resamples take, once detections are matched."""
    from detseg.metrics import bootstrap_detection, evaluate_detections

    matches = evaluate_detections(data.truth, data.results, data.iou_type).matches
    bootstrap_detection(matches, resamples=10)  # compiles
    begun = time.perf_counter()
    bootstrap_detection(matches)
    return time.perf_counter() - begun


def main(settings: Settings) -> None:
    settings = replace(settings, libraries=tuple(dict.fromkeys(("detseg", *settings.libraries))))
    for iou_type in settings.iou_types:
        for images in settings.images:
            with tempfile.TemporaryDirectory() as folder:
                Console().print(show(settings, images, iou_type, Path(folder)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main(tyro.cli(Settings, description=__doc__))
