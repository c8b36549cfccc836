"""COCO metrics: evaluate_detections against pycocotools called directly, on a generated data set.

    python benchmarks/evaluation.py [--pictures 500] [--rounds 3]

Both start from records in memory and from JSON files. Time ratio = pycocotools / detseg, above 1 is faster.
The 12 figures are compared first; the benchmark stops if they differ by more than 1e-12.
"""

import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.table import Table

from detseg.metrics import Detections, evaluate_detections


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    pictures: int = 500
    classes: int = 80
    objects: int = 7
    """Objects a picture."""
    detections: int = 100
    """Detections a picture: some near each object, the rest anywhere."""
    rounds: int = 3


def generate(settings: Settings) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results in COCO form."""
    rng = np.random.default_rng(0)
    total = settings.pictures * settings.objects
    owners = np.repeat(np.arange(settings.pictures), settings.objects)
    categories = rng.integers(1, settings.classes + 1, total)
    sizes = np.exp(rng.uniform(np.log(8), np.log(300), (total, 2)))
    boxes = np.concatenate([rng.uniform(0, 340, (total, 2)), sizes], axis=1)
    truth = {
        "images": [{"id": i + 1, "width": 640, "height": 640} for i in range(settings.pictures)],
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
    rest = settings.pictures * settings.detections - len(near)
    columns = (
        np.concatenate([owners[near], rng.integers(0, settings.pictures, rest)]) + 1,
        np.concatenate([categories[near], rng.integers(1, settings.classes + 1, rest)]),
        np.concatenate([jittered, rng.uniform(5, 300, (rest, 4))]),
        np.concatenate([rng.beta(4, 2, len(near)), rng.beta(1, 4, rest)]),
    )
    keys = ("image_id", "category_id", "bbox", "score")
    rows = zip(*(c.tolist() for c in columns), strict=True)
    return truth, [dict(zip(keys, row, strict=True)) for row in rows]


def pycocotools(truth: Any, results: Any) -> np.ndarray:
    """The 12 figures from pycocotools; file names or records."""
    with contextlib.redirect_stdout(io.StringIO()):
        side = COCO(truth) if isinstance(truth, str) else COCO()
        if not isinstance(truth, str):
            side.dataset = truth
            side.createIndex()
        evaluator = COCOeval(side, side.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return np.asarray(evaluator.stats)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(settings: Settings) -> None:
    truth, results = generate(settings)
    boxes = np.array([r["bbox"] for r in results])
    boxes[:, 2:] += boxes[:, :2]
    arrays = Detections(
        image_ids=np.array([r["image_id"] for r in results]),
        category_ids=np.array([r["category_id"] for r in results]),
        boxes=boxes,
        scores=np.array([r["score"] for r in results]),
    )
    table = Table(
        title=f"12 COCO figures of {settings.pictures} pictures, {len(truth['annotations'])} objects, "
        f"{len(results)} detections, {settings.classes} classes",
        caption="seconds (median); ratio = pycocotools / detseg, above 1 is faster",
    )
    for name in ("from", "detseg", "pycocotools", "ratio"):
        table.add_column(name, justify="left" if name == "from" else "right")
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "truth.json", Path(folder) / "results.json"
        for path, content in zip(paths, (truth, results), strict=True):
            path.write_text(json.dumps(content))
        names = [str(path) for path in paths]
        expected = pycocotools(*names)
        np.testing.assert_allclose(evaluate_detections(*paths).stats, expected, rtol=0, atol=1e-12)
        cases: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "JSON files": (lambda: evaluate_detections(*paths), lambda: pycocotools(*names)),
            "arrays (pycocotools: dicts)": (
                lambda: evaluate_detections(truth, arrays),
                lambda: pycocotools(truth, results),
            ),
        }
        for name, (ours, theirs) in cases.items():
            times = [(seconds(ours), seconds(theirs)) for _ in range(settings.rounds)]
            mine, other = (statistics.median(column) for column in zip(*times, strict=True))
            ratio = statistics.median(b / a for a, b in times)
            table.add_row(name, f"{mine:.2f}", f"{other:.2f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
