"""Random ground truth and results for the tests of the metrics, and pycocotools' answer to them."""

import contextlib
import copy
import io

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.data import Annotations, Category
from detseg.data.polygons import SegmentsBuilder
from detseg.metrics import Detections


def scene(seed: int, *, images: int = 12, categories=(3, 1, 90, 7), detections: int = 40) -> tuple[dict, list]:
    """Random ground truth and results: crowds, ties, id holes, images and classes without objects."""
    rng = np.random.default_rng(seed)
    image_ids = rng.choice(1000, images, replace=False).tolist()
    truth = {
        "images": [{"id": i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in image_ids],
        "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        "annotations": [],
    }
    results = []
    for image in image_ids:
        for _ in range(rng.integers(0, 9)):
            width, height = rng.choice([20, 60, 150]) * rng.uniform(0.6, 1.4, 2)
            box = [*rng.uniform(0, 300, 2), width, height]
            category = int(rng.choice(categories[:-1]))  # the last class has no objects
            truth["annotations"].append(
                {
                    "id": 7 + 3 * len(truth["annotations"]),
                    "image_id": image,
                    "category_id": category,
                    "bbox": [round(float(v), 2) for v in box],
                    "area": float(width * height * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
            for _ in range(rng.integers(0, 4)):
                jittered = np.array(box) + rng.normal(0, 6, 4)
                jittered[2:] = jittered[2:].clip(1)
                results.append((image, category, jittered))
        for _ in range(rng.integers(0, detections)):
            box = np.r_[rng.uniform(0, 300, 2), rng.uniform(5, 150, 2)]
            results.append((image, int(rng.choice(categories)), box))
    order = rng.permutation(len(results))
    return truth, [
        {
            "image_id": results[i][0],
            "category_id": results[i][1],
            "bbox": [float(v) for v in results[i][2]],
            "score": round(float(rng.random()), 1),
        }
        for i in order
    ]


def pycocotools_stats(truth: dict, results: list, iou_type: str = "bbox") -> np.ndarray:
    return pycocotools_evaluation(truth, results, iou_type).stats


def pycocotools_evaluation(truth: dict, results: list, iou_type: str = "bbox", **settings) -> COCOeval:
    """A COCOeval that has done its work; `settings` are attributes of its params."""
    truth, results = copy.deepcopy(truth), copy.deepcopy(results)
    with contextlib.redirect_stdout(io.StringIO()):
        side = COCO()
        side.dataset = truth
        side.createIndex()
        evaluator = COCOeval(side, side.loadRes(results), iou_type)
        for name, value in settings.items():
            setattr(evaluator.params, name, value)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def mask_scene(seed: int) -> tuple[dict, list]:
    """The random scene with an ellipse-like mask in every box: polygons, plain and compressed run lengths."""
    truth, results = scene(seed, images=5, detections=8)
    grid_y, grid_x = np.mgrid[:480, :640]

    def ellipse(box: list[float]) -> np.ndarray:
        x, y, width, height = box
        return ((grid_x - x - width / 2) / width) ** 2 + ((grid_y - y - height / 2) / height) ** 2 <= 0.25

    def packed(box: list[float]) -> dict:
        rle = coco_mask.encode(np.asfortranarray(ellipse(box).astype(np.uint8)))
        return {"size": rle["size"], "counts": rle["counts"].decode()}

    for number, annotation in enumerate(truth["annotations"]):
        x, y, width, height = annotation["bbox"]
        if annotation["iscrowd"]:
            values = ellipse(annotation["bbox"]).T.ravel()
            edges = np.flatnonzero(np.diff(np.r_[False, values, False]))
            annotation["segmentation"] = {
                "size": [480, 640],
                "counts": np.diff(np.r_[0, edges, values.size]).tolist(),
            }
        elif number % 2:
            annotation["segmentation"] = [[x, y, x + width, y, x + width / 2, y + height]]
        else:
            annotation["segmentation"] = packed(annotation["bbox"])
    for result in results:
        result["segmentation"] = packed(result["bbox"])
    return truth, results


def as_arrays(results: list, **more) -> Detections:
    boxes = np.array([r["bbox"] for r in results]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    columns = {f"{key}s": [r[key] for r in results] for key in ("image_id", "score")}
    return Detections(boxes=boxes, category_ids=[r["category_id"] for r in results], **columns, **more)


def as_annotations(truth: dict) -> Annotations:
    ids = [image["id"] for image in truth["images"]]
    labels = [category["id"] for category in truth["categories"]]
    objects = sorted(truth["annotations"], key=lambda a: ids.index(a["image_id"]))
    boxes = np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Annotations(
        categories=tuple(Category(c["id"], c["name"]) for c in truth["categories"]),
        image_ids=np.array(ids, dtype=np.int64),
        paths=np.array([i["file_name"] for i in truth["images"]]),
        sizes=np.array([[640, 480]] * len(ids), dtype=np.int32),
        image_index=np.array([ids.index(a["image_id"]) for a in objects], dtype=np.int32),
        boxes=boxes,
        labels=np.array([labels.index(a["category_id"]) for a in objects], dtype=np.int32),
        iscrowd=np.array([bool(a["iscrowd"]) for a in objects]),
        ids=np.array([a["id"] for a in objects], dtype=np.int64),
        areas=np.array([a["area"] for a in objects]),
        segments=segments_of(objects),
    )


def segments_of(objects: list[dict]):
    builder = SegmentsBuilder()
    for outline in (a.get("segmentation") for a in objects):
        if isinstance(outline, list):
            builder.add_polygons(outline)
        elif outline:
            builder.add_rle(*outline["size"], outline["counts"])
        else:
            builder.add_nothing()
    return builder.build()
