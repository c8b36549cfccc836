"""mAP in large images with small objects: at once, in tiles, and by SAHI around the same detector.

    python benchmarks/tiles.py [--run RUN] [--minutes 5] [--scenes 20] [--threads N]

Draws training images of 320 px with small flowers, and scenes of 1920 x 1440 px of such flowers, with some that are two
and four times as large. Trains the default detector on the former for `--minutes`, unless a run is given, and looks for
flowers in the latter: at once; in the tiles of `--tiles auto`; in these with NMS in place of what `detseg.tiled` does
at their borders; and by SAHI, in slices of the same side and overlap: with NMS, which it chooses where low scores are
asked for, as mAP needs them, and with its default, which joins boxes. Figures are those of `detseg evaluate`, seconds
those of an image.

SAHI is MIT and no dependency of detseg; without it its rows are missing. It wants a package of OpenCV that does not go
with that of detseg, so: pip install --no-deps sahi shapely fire termcolor
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import detseg
from detseg.data.images import read_image
from detseg.data.tiles import lay_tiles
from detseg.flowers.dataset import SPECIES
from detseg.flowers.scenes import draw_scene
from detseg.metrics import DetectionEvaluator
from detseg.predict.detector import Detector
from detseg.sources import in_batches
from detseg.tiled import Tiled, merge
from detseg.train.data import read_split

CELL = 160  # pixels: a scene is laid of small ones of this side, and of larger ones
LOWEST = 0.01  # score
LIMITS = (1, 10, 500)  # detections of an image, for AR and AP

Find = Callable[[Any], dict[str, Any]]


def scene(seed: int, columns: int, rows: int, large: bool) -> tuple[np.ndarray, list[tuple[list[float], int]]]:
    """An image of `columns` x `rows` cells of `CELL` pixels, and its objects: box xyxy and label."""
    rng = np.random.default_rng((seed, columns))
    image = np.zeros((rows * CELL, columns * CELL, 3), np.uint8)
    free, objects = np.ones((rows, columns), bool), []
    sides = [*([4, 4, 2, 2, 2, 2] if large else []), *[1] * (rows * columns)]
    for number, side in enumerate(sides):
        places = [
            (y, x)
            for y in range(rows - side + 1)
            for x in range(columns - side + 1)
            if free[y : y + side, x : x + side].all()
        ]
        if not places:
            continue
        y, x = places[0] if side == 1 else places[int(rng.integers(len(places)))]
        free[y : y + side, x : x + side] = False
        drawn = draw_scene(seed * 1000 + number, (side * CELL, side * CELL))
        image[y * CELL : (y + side) * CELL, x * CELL : (x + side) * CELL] = drawn.image
        moved = drawn.boxes + np.array([x, y, x, y]) * CELL
        objects += list(zip(moved.tolist(), drawn.labels.tolist(), strict=True))
    return image, objects


def write(folder: Path, split: str, count: int, columns: int, rows: int, first: int, large: bool = False) -> None:
    """Write scenes as a COCO file and JPEGs."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    content: dict[str, list[Any]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": name} for k, name in enumerate(SPECIES, 1)],
    }
    with ThreadPoolExecutor() as pool:
        drawn = pool.map(lambda seed: scene(seed, columns, rows, large), range(first, first + count))
        for number, (image, objects) in enumerate(drawn, 1):
            name = f"{split}{number:04}.jpg"
            cv2.imwrite(str(folder / "images" / name), image[..., ::-1])
            size = {"width": columns * CELL, "height": rows * CELL}
            content["images"].append({"id": number, "file_name": name, **size})
            for (x1, y1, x2, y2), label in objects:
                box = [x1, y1, x2 - x1, y2 - y1]
                entry = {"bbox": box, "area": box[2] * box[3], "category_id": label + 1, "iscrowd": 0}
                content["annotations"].append({"id": len(content["annotations"]) + 1, "image_id": number, **entry})
    (folder / f"{split}.json").write_text(json.dumps(content))


def plain_nms(detector: Detector, tiled: Tiled) -> Find:
    """Tiles and the whole image, and nothing but NMS between them."""

    def find(image: np.ndarray) -> dict[str, Any]:
        size = image.shape[1], image.shape[0]
        rectangles = np.vstack([lay_tiles(*size, *tiled.tiling[:2]), [[0, 0, *size]]])
        views = []
        for some in in_batches(rectangles.tolist(), 8):
            crops = [image[y:v, x:u] for x, y, u, v in some]
            for (x, y, _, _), found in zip(some, detector.stream(crops, score_threshold=LOWEST), strict=True):
                views.append({**found, "boxes": found.boxes + np.array([x, y, x, y], np.float32)})
        return merge(views, rectangles, [np.zeros(len(view["scores"]), bool) for view in views])

    return find


def sahi(detector: Detector, side: int, overlap: float, *, joins: bool) -> Find:
    """SAHI around the detector: with NMS, as it chooses for low scores, or joining boxes, as for others."""
    from sahi.models.base import DetectionModel
    from sahi.predict import get_sliced_prediction
    from sahi.prediction import ObjectPrediction

    class Model(DetectionModel):
        def set_model(self, model: Detector, **_: Any) -> None:
            self.model = model
            self.category_mapping = {str(i): name for i, name in enumerate(model.names)}

        def perform_inference(self, image: np.ndarray) -> None:
            self.perform_batch_inference([image])

        def perform_batch_inference(self, images: list[np.ndarray]) -> None:
            crops = [np.ascontiguousarray(image) for image in images]
            self._original_predictions = list(self.model.stream(crops, score_threshold=LOWEST, batch_size=8))

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = ((0, 0),), full_shape_list: Any = None
        ) -> None:
            shifts = [shift_amount_list] if isinstance(shift_amount_list[0], int) else shift_amount_list
            shapes = [full_shape_list] if full_shape_list and isinstance(full_shape_list[0], int) else full_shape_list
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        bbox=box,
                        category_id=label,
                        category_name=self.model.names[label],
                        score=score,
                        shift_amount=list(shifts[i]),
                        full_shape=None if shapes is None else list(shapes[i]),
                    )
                    for box, label, score in zip(
                        found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
                    )
                ]
                for i, found in enumerate(self._original_predictions)
            ]

    model = Model(model=detector, confidence_threshold=LOWEST, device="cpu")

    def find(image: np.ndarray) -> dict[str, Any]:
        cut: dict[str, Any] = {"slice_height": side, "slice_width": side, "auto_slice_resolution": False}
        cut |= {"overlap_height_ratio": overlap, "overlap_width_ratio": overlap}
        kind = {"postprocess_type": "GREEDYNMM", "postprocess_match_metric": "IOS"}
        kind = kind if joins else {"postprocess_type": "NMS", "postprocess_match_metric": "IOU"}
        options: dict[str, Any] = {"force_postprocess_type": True, "verbose": 0, "batch_size": 8}
        result = get_sliced_prediction(image, model, **cut, **kind, **options)
        every = sorted(result.object_prediction_list, key=lambda one: -one.score.value)
        return {
            "boxes": np.array([one.bbox.to_xyxy() for one in every], np.float32).reshape(-1, 4),
            "scores": np.array([one.score.value for one in every], np.float32),
            "labels": np.array([one.category.id for one in every], np.int64),
        }

    return find


def contenders(detector: Detector) -> Iterator[tuple[str, Find]]:
    """Names and what finds objects in an image."""
    tiled = Tiled(detector)
    tile, overlap = tiled.tiling[:2]
    options = {"score_threshold": LOWEST}
    next(detector.stream([np.zeros((tile, tile, 3), np.uint8)]))  # what is set up once
    yield "at once", lambda image: next(detector.stream([image], **options))
    yield f"tiles of {tile} px, overlap {overlap}", lambda image: next(tiled.stream([image], **options))
    yield "these with NMS alone", plain_nms(detector, tiled)
    if importlib.util.find_spec("sahi") is None:
        print("without SAHI: it is not installed", file=sys.stderr)
        return
    yield "SAHI, the same slices, NMS", sahi(detector, tile, overlap / tile, joins=False)
    yield "SAHI, the same slices, GREEDYNMM", sahi(detector, tile, overlap / tile, joins=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=None)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    table = Table(title=f"{options.scenes} scenes of {12 * CELL} x {9 * CELL} px")
    for column in ("", "mAP", "AP50", "small", "medium", "large", "s an image"):
        table.add_column(column, justify="right" if column else "left")
    with tempfile.TemporaryDirectory() as name:
        folder, run = Path(name), options.run
        write(folder / "large", "val", options.scenes, 12, 9, 2_000_000, large=True)
        if run is None:
            run = folder / "run"
            write(folder / "small", "train", options.images, 2, 2, 0)
            write(folder / "small", "val", max(4, options.images // 8), 2, 2, 1_000_000)
            command = [sys.executable, "-m", "detseg", "train", "detector", "--data", folder / "small"]
            command += ["--minutes", options.minutes, "--output", run]
            subprocess.run(list(map(str, command)), check=True)
        data = read_split(folder / "large/val.json", "val")
        for contender, find in contenders(detseg.load(run)):
            metric, seconds = DetectionEvaluator(data, max_detections=LIMITS), 0.0
            for path, number in zip(data.paths.tolist(), data.image_ids, strict=True):
                image = read_image(path)
                started = time.perf_counter()
                found = find(image)
                seconds += time.perf_counter() - started
                metric.update([{n: found[n] for n in ("boxes", "scores", "labels")}], None, [number])
            m = metric.compute()
            figures = [m.coco(name) for name in ("AP", "AP50", "AP_small", "AP_medium", "AP_large")]
            table.add_row(contender, *(f"{value:.3f}" for value in figures), f"{seconds / len(data):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
