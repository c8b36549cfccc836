"""Random data sets in COCO's form, and what pycocotools says about them."""

import contextlib
import copy
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CATEGORIES = (3, 1, 90, 7)  # the last one has no objects


def random_scene(seed: int, *, images: int = 15, crowd: float = 0.15, distinct: bool = True) -> tuple[dict, list]:
    """Ground truth and results with every kind of mistake in them; all scores differ if they are to be `distinct`."""
    rng = np.random.default_rng(seed)
    images = rng.choice(1000, images, replace=False).tolist()
    annotations, results = [], []

    def find(image, category, box):
        box = np.array(box)
        box[2:] = box[2:].clip(1)
        results.append({"image_id": image, "category_id": int(category), "bbox": box.tolist()})

    for image in images:
        for _ in range(rng.integers(0, 7)):
            box = np.r_[rng.uniform(0, 250, 2), rng.choice([30, 70, 150]) * rng.uniform(0.6, 1.4, 2)]
            category = int(rng.choice(CATEGORIES[:-1]))
            annotations.append(
                {
                    "id": 7 + 3 * len(annotations),
                    "image_id": image,
                    "category_id": category,
                    "bbox": box.round(2).tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(rng.random() < crowd),
                }
            )
            for spread in rng.choice([2, 8, 25], rng.integers(0, 4)):
                find(image, category if rng.random() < 0.7 else rng.choice(CATEGORIES), box + rng.normal(0, spread, 4))
        for _ in range(rng.integers(0, 4)):
            find(image, rng.choice(CATEGORIES), np.r_[rng.uniform(0, 300, 2), rng.uniform(5, 150, 2)])
    scores = rng.permutation(len(results)) / len(results)
    for result, score in zip(results, scores.tolist(), strict=True):
        result["score"] = score if distinct else round(score, 1)
    truth = {
        "images": [{"id": i, "width": 640, "height": 480} for i in images],
        "categories": [{"id": c, "name": f"class {c}"} for c in CATEGORIES],
        "annotations": annotations,
    }
    return truth, [results[i] for i in rng.permutation(len(results))]


def with_masks(truth: dict, results: list) -> tuple[dict, list]:
    """The same with a triangle in every box as its mask; crowd regions keep their box as run lengths."""
    from pycocotools import mask as coco_mask

    def triangle(entry):
        x, y, w, h = entry["bbox"]
        rle = coco_mask.frPyObjects([[x, y, x + w, y, x, y + h]], 480, 640)[0]
        return entry | {"segmentation": {"size": [480, 640], "counts": rle["counts"].decode()}}

    truth = truth | {"annotations": [triangle(a) for a in truth["annotations"]]}
    # Results with masks alone: with a box beside it COCO would take the area from the box.
    return truth, [{k: v for k, v in triangle(r).items() if k != "bbox"} for r in results]


def coco_precision(truth: dict, results: list, iou_type: str = "bbox", thresholds: list | None = None) -> np.ndarray:
    """(T, R, K) of pycocotools for all sizes and 100 detections; -1 for nothing; classes by rising id."""
    truth, results = copy.deepcopy(truth), copy.deepcopy(results)
    with contextlib.redirect_stdout(io.StringIO()):
        side = COCO()
        side.dataset = truth
        side.createIndex()
        found = side.loadRes(results) if results else COCO()
        evaluator = COCOeval(side, found, iou_type)
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        if thresholds is not None:
            evaluator.params.iouThrs = np.array(thresholds)
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"][:, :, :, 0, -1]


def coco_ap50(truth: dict, results: list, iou_type: str = "bbox") -> float:
    """Mean over the classes with objects."""
    precision = coco_precision(truth, results, iou_type, [0.5])
    return float(precision[precision > -1].mean())


def repeated(truth: dict, results: list, counts: list[int]) -> tuple[dict, list]:
    """The data set with each image in it as often as `counts` says; copies follow each other by id."""
    order = sorted(image["id"] for image in truth["images"])
    count = {image["id"]: n for image, n in zip(truth["images"], counts, strict=True)}

    def copies(image):
        return [1000 * (1 + order.index(image)) + copy_ for copy_ in range(count[image])]

    annotations = [a | {"image_id": i} for a in truth["annotations"] for i in copies(a["image_id"])]
    return (
        truth
        | {
            "images": [image | {"id": i} for image in truth["images"] for i in copies(image["id"])],
            "annotations": [a | {"id": n} for n, a in enumerate(annotations, start=1)],
        },
        [r | {"image_id": i} for r in results for i in copies(r["image_id"])],
    )


def one_class(objects: list[tuple], found: list[tuple], images: int = 2) -> tuple[dict, list]:
    """Objects (image, box) and detections (image, box, score) of a single class, by hand."""
    return classes_of([(i, 1, box) for i, box in objects], [(i, 1, box, s) for i, box, s in found], ("rose",), images)


def classes_of(objects: list[tuple], found: list[tuple], names: tuple[str, ...], images: int = 1) -> tuple[dict, list]:
    """Objects (image, class, box[, crowd]) and detections (image, class, box, score); both count from 1."""
    truth = {
        "images": [{"id": i, "width": 400, "height": 400} for i in range(1, images + 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": k, "bbox": list(box), "iscrowd": int(bool(crowd))}
            for n, (i, k, box, *crowd) in enumerate(objects, start=1)
        ],
    }
    return truth, [{"image_id": i, "category_id": k, "bbox": list(box), "score": s} for i, k, box, s in found]
