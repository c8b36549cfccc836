"""DetectionEvaluator: equals evaluate_detections however the images come, and names mistakes."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from detseg.metrics import DetectionEvaluator, Detections, evaluate_detections
from tests.metrics.cases import case
from tests.metrics.coco_scenes import as_annotations, mask_scene, scene

EMPTY = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, dtype=np.int64)}


def xyxy(boxes: list) -> np.ndarray:
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    array[:, 2:] += array[:, :2]
    return array


def by_image(truth: dict, results: list, *, masks: bool = False) -> tuple[list, list, list]:
    """Image ids, predictions and targets, one dict an image, in the order of the ground truth."""
    labels = {category["id"]: label for label, category in enumerate(truth["categories"])}
    ids, predictions, targets = [], [], []
    for image in (entry["id"] for entry in truth["images"]):
        found = [r for r in results if r["image_id"] == image]
        real = [a for a in truth["annotations"] if a["image_id"] == image]
        ids.append(image)
        predictions.append(
            {
                "boxes": xyxy([r["bbox"] for r in found]),
                "scores": np.array([r["score"] for r in found], dtype=np.float64),
                "labels": np.array([labels[r["category_id"]] for r in found], dtype=np.int64),
            }
        )
        targets.append(
            {
                "image_id": image,
                "boxes": xyxy([a["bbox"] for a in real]),
                "labels": np.array([labels[a["category_id"]] for a in real], dtype=np.int64),
                "iscrowd": np.array([a["iscrowd"] for a in real], dtype=bool),
                "area": np.array([a["area"] for a in real], dtype=np.float64),
            }
        )
        if masks:
            for side, entries in ((predictions, found), (targets, real)):
                side[-1]["masks"] = [run_lengths(entry["segmentation"]) for entry in entries]
    return ids, predictions, targets


def run_lengths(outline) -> dict:
    if isinstance(outline, list):
        return coco_mask.merge(coco_mask.frPyObjects(outline, 480, 640))
    return outline


def as_torch(rows: list[dict], dtype=torch.float64) -> list[dict]:
    return [
        {
            key: torch.as_tensor(value, dtype=dtype if value.dtype == np.float64 else None)
            if isinstance(value, np.ndarray)
            else torch.tensor([value])
            for key, value in row.items()
        }
        for row in rows
    ]


def categories(truth: dict) -> list:
    return [(entry["id"], entry["name"]) for entry in truth["categories"]]


# ------------------------------------------------------------------ equal to evaluate_detections


@pytest.mark.parametrize("known", [True, False])
def test_equals_evaluate_detections(known: bool) -> None:
    for kind in ["numpy", "torch"]:
        with case(kind):
            truth, results = scene(11)
            ids, predictions, targets = by_image(truth, results)
            if kind == "torch":
                predictions, targets = as_torch(predictions), as_torch(targets)
            evaluator = DetectionEvaluator(as_annotations(truth) if known else categories(truth))
            for start in range(0, len(ids), 5):
                batch = slice(start, start + 5)
                evaluator.update(predictions[batch], ids[batch] if known else targets[batch])
            assert len(evaluator) == len(ids)
            metrics, expected = evaluator.compute(), evaluate_detections(truth, results)
            np.testing.assert_allclose(metrics.stats, expected.stats, rtol=0, atol=1e-12)
            for row, other in zip(metrics.per_class, expected.per_class, strict=True):
                assert (row.name, row.category_id, row.objects, row.images) == (
                    other.name, other.category_id, other.objects, other.images
                )  # fmt: skip
            assert (metrics.images, metrics.objects, metrics.detections) == (
                expected.images, expected.objects, expected.detections
            )  # fmt: skip


@pytest.mark.parametrize("known", [True, False])
def test_parts_of_several_processes_are_exact(known: bool) -> None:
    for by_state in [True, False]:
        with case(by_state):
            truth, results = scene(13, images=11)
            ids, predictions, targets = by_image(truth, results)
            given = ids if known else targets
            ranks = [DetectionEvaluator(as_annotations(truth) if known else categories(truth)) for _ in range(4)]
            # As a distributed sampler has it: every fourth image, the first one repeated to fill up.
            for rank, evaluator in enumerate(ranks):
                mine = [i % len(ids) for i in range(rank, 12, 4)]
                for i in mine:
                    evaluator.update([predictions[i]], [given[i]])
            whole, *others = ranks
            for other in others:
                sent = pickle.loads(pickle.dumps(other.state() if by_state else other))
                whole.merge(sent)
            assert len(whole) == 11
            metrics = whole.compute()
            assert metrics.detections == len(results)
            np.testing.assert_allclose(metrics.stats, evaluate_detections(truth, results).stats, rtol=0, atol=1e-12)


@pytest.mark.parametrize("known", [True, False])
def test_masks(known: bool) -> None:
    for form in ["run lengths", "bitmaps", "tensor"]:
        with case(form):
            truth, results = mask_scene(15)
            ids, predictions, targets = by_image(truth, results, masks=True)
            for annotation in truth["annotations"]:
                annotation["segmentation"] = run_lengths(annotation["segmentation"])
            if form != "run lengths":
                for row in (*predictions, *targets):
                    row["masks"] = np.stack([np.zeros((480, 640), bool), *(decode(mask) for mask in row["masks"])])[1:]
                    if form == "tensor":
                        row["masks"] = torch.from_numpy(row["masks"])
            evaluator = DetectionEvaluator(truth if known else categories(truth), "segm")
            evaluator.update(predictions, ids if known else targets)
            expected = evaluate_detections(truth, results, "segm").stats
            np.testing.assert_allclose(evaluator.compute().stats, expected, rtol=0, atol=1e-12)


def decode(mask: dict) -> np.ndarray:
    plain = isinstance(mask["counts"], list)
    return coco_mask.decode(coco_mask.frPyObjects(mask, 480, 640) if plain else mask).astype(bool)


def test_ids_may_be_given_beside_the_targets() -> None:
    truth, results = scene(20)
    ids, predictions, targets = by_image(truth, results)
    expected = evaluate_detections(truth, results).stats
    without_ids = [{name: values for name, values in target.items() if name != "image_id"} for target in targets]
    for evaluator, given in (
        (DetectionEvaluator(truth), None),
        (DetectionEvaluator(truth), targets),
        (DetectionEvaluator(categories(truth)), without_ids),
        (DetectionEvaluator(categories(truth)), targets),
    ):
        evaluator.update(predictions, given, ids)
        np.testing.assert_allclose(evaluator.compute().stats, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="2 predictions for 1 image ids"):
        DetectionEvaluator(truth).update(predictions[:2], None, ids[:1])
    with pytest.raises(ValueError, match="targets are None, but the ground truth is not known"):
        DetectionEvaluator(categories(truth)).update(predictions, None, ids)
    with pytest.raises(ValueError, match=r"image_ids\[0\]: image id 100000: the ground truth lists no such image"):
        DetectionEvaluator(truth).update(predictions[:1], None, [100000])


def test_options_are_passed_on() -> None:
    truth, results = scene(16)
    ids, predictions, _ = by_image(truth, results)
    options = {"iou_thresholds": [0.3, 0.5], "max_detections": (2, 5), "class_agnostic": True}
    evaluator = DetectionEvaluator(truth, **options)
    evaluator.update(predictions, torch.tensor(ids))
    assert evaluator.compute().stats == evaluate_detections(truth, results, **options).stats


def test_half_precision_scores_are_accepted() -> None:
    evaluator = DetectionEvaluator(["a", "b"])
    boxes = torch.tensor([[0.0, 0, 10, 10]], requires_grad=True)
    prediction = {"boxes": boxes, "scores": torch.tensor([0.5], dtype=torch.bfloat16), "labels": torch.tensor([1])}
    evaluator.update([prediction], [{"image_id": 3, "boxes": boxes, "labels": torch.tensor([1])}])
    assert evaluator.compute().map == pytest.approx(1)
    assert evaluator.compute().figures()["AP_small"] == pytest.approx(1)  # the area of the box, where none is given


def test_more_may_follow_after_compute() -> None:
    truth, results = scene(17)
    ids, predictions, _ = by_image(truth, results)
    evaluator = DetectionEvaluator(truth)
    evaluator.update(predictions[:4], ids[:4])
    some = evaluator.compute(partial=True)
    few = truth | {
        "images": truth["images"][:4],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in ids[:4]],
    }
    assert some.stats == evaluate_detections(few, [r for r in results if r["image_id"] in ids[:4]]).stats
    with pytest.raises(ValueError, match=rf"8 of 12 images .* had no update, the first is image {ids[4]}"):
        evaluator.compute()
    evaluator.update(predictions[4:], ids[4:])
    np.testing.assert_allclose(evaluator.compute().stats, evaluate_detections(truth, results).stats, rtol=0, atol=1e-12)


@pytest.mark.gpu
def test_gpu_tensors() -> None:
    truth, results = scene(18)
    ids, predictions, _ = by_image(truth, results)
    evaluator = DetectionEvaluator(truth)
    moved = [{key: value.cuda() for key, value in row.items()} for row in as_torch(predictions)]
    evaluator.update(moved, torch.tensor(ids, device="cuda"))
    assert evaluator.compute().stats == pytest.approx(evaluate_detections(truth, results).stats, abs=1e-12)


@pytest.mark.slow
def test_two_processes_gather_what_one_would_see(tmp_path) -> None:
    """Real processes: each sends its evaluator through torch.distributed."""
    code = """
import sys, torch.distributed as dist
from tests.metrics.coco_scenes import scene
from tests.metrics.detection.test_evaluator import by_image, categories
from detseg.metrics import DetectionEvaluator, evaluate_detections
rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
truth, results = scene(19, images=7)
ids, predictions, targets = by_image(truth, results)
evaluator = DetectionEvaluator(categories(truth))
for i in ([0, 2, 4, 6], [1, 3, 5, 0])[rank]:
    evaluator.update([predictions[i]], [targets[i]])
parts = [None, None]
dist.all_gather_object(parts, evaluator)
whole = DetectionEvaluator(categories(truth))
for part in parts:
    whole.merge(part)
difference = [abs(a - b) for a, b in zip(whole.compute().stats, evaluate_detections(truth, results).stats)]
print(len(whole), max(difference) < 1e-12)
"""
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], cwd=root, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        assert process.communicate()[0].split() == ["7", "True"]


# ------------------------------------------------------------------ mistakes


GOOD = {"boxes": np.array([[0.0, 0, 9, 9]]), "scores": np.array([0.5]), "labels": np.array([0])}


def test_bad_predictions_are_named() -> None:
    for change, message in [
        (
            {"boxes": np.zeros((2, 4))},
            r"image 4: the prediction: boxes must have shape \(1, 4\) like the labels, got \(2, 4\)",
        ),
        ({"scores": np.zeros(3)}, r"image 4: the prediction: scores must have shape \(1,\)"),
        ({"labels": np.zeros((1, 1), int)}, r"image 4: the prediction: labels must have shape \(M,\), got \(1, 1\)"),
        ({"labels": np.array([2])}, r"image 4: the prediction, entry 0: label 2: it is outside 0\.\.1"),
        ({"labels": np.array([-1])}, r"label -1: it is outside 0\.\.1"),
        ({"labels": np.array([0.5])}, "labels must be whole numbers, got float64"),
        ({"scores": np.array([np.nan])}, r"image 4: the prediction, entry 0: score must be finite, got nan"),
        ({"boxes": np.array([[0, 0, np.inf, 9]])}, r"image 4: the prediction, entry 0: the box must be finite"),
        ({"boxes": np.array([[5, 5, 2, 9.0]])}, r"image 4: the prediction, entry 0: .*negative width"),
    ]:
        with case(change, message):
            evaluator = DetectionEvaluator(["a", "b"])
            good = GOOD | {"image_id": 3}
            with pytest.raises(ValueError, match=message):
                evaluator.update([GOOD, GOOD | change], [good, good | {"image_id": 4}])
            assert len(evaluator) == 0  # nothing of a bad batch stays


def test_mistakes_are_named() -> None:
    truth, _ = scene(1)
    known, unknown = DetectionEvaluator(truth), DetectionEvaluator([(5, "a"), (3, "b")])
    with pytest.raises(ValueError, match="2 predictions for 1 targets"):
        known.update([GOOD, GOOD], [1])
    with pytest.raises(ValueError, match=r"targets\[0\]: image id 100000: the ground truth lists no such image"):
        known.update([GOOD], [100000])
    with pytest.raises(ValueError, match=r"targets\[0\]: the image id must be one whole number"):
        known.update([GOOD], ["17"])
    with pytest.raises(ValueError, match="image 3: the target must be a dict, got int"):
        unknown.update([GOOD], [3])
    with pytest.raises(ValueError, match=r"targets\[0\] has no 'image_id'; it has boxes"):
        unknown.update([GOOD], [GOOD])
    with pytest.raises(ValueError, match="image 3: the target has no 'boxes'; it has image_id, labels"):
        unknown.update([GOOD], [{"image_id": 3, "labels": np.zeros(1, int)}])
    with pytest.raises(ValueError, match="image 3: the prediction has no 'scores'"):
        unknown.update([{k: v for k, v in GOOD.items() if k != "scores"}], [GOOD | {"image_id": 3}])
    for evaluator in (known, unknown):
        with pytest.raises(ValueError, match="no images to evaluate: call update first"):
            evaluator.compute()
    with pytest.raises(ValueError, match="differ in category_ids"):
        unknown.merge(DetectionEvaluator(["a", "b"]))
    with pytest.raises(ValueError, match="the list of categories is empty"):
        DetectionEvaluator([])
    with pytest.raises(ValueError, match="ids of the categories must differ"):
        DetectionEvaluator([(1, "a"), (1, "b")])
    with pytest.raises(ValueError, match="iou_type must be"):
        DetectionEvaluator(["a"], "mask")


def test_what_is_merged_must_be_of_the_same_ground_truth() -> None:
    truth, results = scene(3)
    ids, predictions, targets = by_image(truth, results)
    others = truth | {
        "images": [image | {"id": image["id"] + 5000} for image in truth["images"]],
        "annotations": [a | {"image_id": a["image_id"] + 5000} for a in truth["annotations"]],
    }
    whole, other = DetectionEvaluator(truth), DetectionEvaluator(others)
    other.update(predictions, [i + 5000 for i in ids])
    message = rf"the other state's image_ids\[0\]: image id {ids[0] + 5000}: the ground truth lists no such image"
    for part in (other, other.state()):
        with pytest.raises(ValueError, match=message):
            whole.merge(part)
    good = DetectionEvaluator(truth)
    good.update(predictions, ids)
    for label in (-1, len(truth["categories"])):
        state = good.state()
        state["labels"] = np.where(np.arange(len(results)) == 2, label, state["labels"])
        with pytest.raises(ValueError, match=rf"the other state's labels\[2\]: label {label}: it is outside 0\.\.\d"):
            whole.merge(state)
    collected = DetectionEvaluator(categories(truth))
    collected.update(predictions, targets)
    state = collected.state()
    with pytest.raises(ValueError, match="differ in known_ground_truth"):
        whole.merge(state)
    state["object_labels"] = state["object_labels"] + 100
    with pytest.raises(ValueError, match=r"the other state's object_labels\[0\]: label 10\d"):
        collected.merge(state)
    renamed = DetectionEvaluator([(id, f"other {name}") for id, name in categories(truth)])
    renumbered = DetectionEvaluator([(id + 1, name) for id, name in categories(truth)])
    for stranger in (renamed, renumbered):
        with pytest.raises(ValueError, match=r"differ in (names|category_ids) cannot be merged"):
            collected.merge(stranger.state())
    assert len(whole) == 0


def test_categories_in_their_forms() -> None:
    as_pairs = DetectionEvaluator([(3, "rose"), (5, "tulip")])
    as_pairs.merge(DetectionEvaluator([{"id": 3, "name": "rose"}, {"id": 5, "name": "tulip"}]))
    with pytest.raises(ValueError, match=r"categories\[1\] = 7 is no name, no pair of id and name"):
        DetectionEvaluator(["rose", 7])


def test_what_is_merged_must_have_the_same_options() -> None:
    for option in [{"iou_thresholds": [0.5]}, {"max_detections": (1, 10, 300)}, {"class_agnostic": True}]:
        with case(option):
            truth, results = scene(3)
            ids, predictions, _ = by_image(truth, results)
            whole, other = DetectionEvaluator(truth, **option), DetectionEvaluator(truth)
            other.update(predictions, ids)
            with pytest.raises(ValueError, match=f"differ in {next(iter(option))} cannot be merged"):
                whole.merge(other)
            same = DetectionEvaluator(truth, iou_thresholds=np.linspace(0.5, 0.95, 10))
            same.merge(other)
            assert same.compute().stats == other.compute().stats


def test_masks_of_other_sizes_are_named() -> None:
    truth, _ = mask_scene(2)
    evaluator = DetectionEvaluator(truth, "segm")
    ids = [image["id"] for image in truth["images"]]
    wrong = GOOD | {"masks": np.ones((1, 9, 9), bool)}
    evaluator.update([wrong] + [EMPTY | {"masks": []}] * (len(ids) - 1), ids)
    with pytest.raises(
        ValueError, match=rf"image {ids[0]}: a prediction: the mask is \[9, 9\] .* its image \[480, 640\]"
    ):
        evaluator.compute()
    with pytest.raises(ValueError, match=r"masks must be bool .* got float64 .*cut probabilities"):
        evaluator.update([GOOD | {"masks": np.full((1, 480, 640), 0.5)}], ids[:1])
    collected = DetectionEvaluator(categories(truth), "segm")
    target = {"image_id": 41, "boxes": GOOD["boxes"], "labels": GOOD["labels"], "masks": np.ones((1, 9, 8), bool)}
    collected.update([wrong], [target])
    with pytest.raises(ValueError, match=r"image 41: two of its masks have the sizes \(9, 8\) and \(9, 9\)"):
        collected.compute()
    with pytest.raises(ValueError, match="2 masks for 1 labels"):
        evaluator.update([GOOD | {"masks": np.ones((2, 480, 640), bool)}], ids[:1])


def test_numbers_that_no_float_holds_are_named() -> None:
    truth = {
        "images": [{"id": 1, "width": 99, "height": 99}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
    }
    huge = 10**400
    for change in ({"score": huge}, {"bbox": [0, 0, 9, huge]}):
        found = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5} | change
        with pytest.raises(ValueError, match=r"detections\[0\]: \w+ must be"):
            evaluate_detections(truth, [found])
    for change in ({"scores": [huge]}, {"boxes": [[0, 0, huge, 9]]}):
        row = {"boxes": [[0, 0, 9, 9]], "scores": [0.5], "labels": [0]} | change
        for take in (
            lambda row: Detections.from_predictions([row], [1], [1]),
            lambda row: DetectionEvaluator(truth).update([row], [1]),
        ):
            with pytest.raises(ValueError, match=r"image 1: the prediction, entry 0: .* must be a number"):
                take(row)


def test_lists_in_place_of_ids_are_named() -> None:
    row = {"boxes": [[0, 0, 9, 9]], "scores": [0.5], "labels": [0]}
    for ids in ([[1]], np.array([[1]]), [[]], [[1, 2]], [[1], [2, 3]]):
        with pytest.raises(ValueError, match=r"image_ids\[0\]: an id must be a whole number, got "):
            Detections.from_predictions([row], ids, [1])
    with pytest.raises(ValueError, match=r"Detections.image_ids\[0\]: an id must be a whole number, got \[1\]"):
        Detections([[1]], [1], [[0, 0, 9, 9]], [0.5])
    with pytest.raises(ValueError, match="image_ids must be a list of whole numbers, got 1"):
        Detections(1, [1], [[0, 0, 9, 9]], [0.5])
