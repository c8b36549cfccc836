"""match: hand-computed cases, laws, pycocotools' own matches as oracle; the kernels under it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from detseg.data.coco_json import quick_results, quick_truth
from detseg.metrics.detection.inputs import read_found, read_truth
from detseg.metrics.detection.layout import lay_out
from detseg.metrics.detection.loops import HIT, IGNORED, MISS
from detseg.metrics.detection.matching import find_pairs, match
from detseg.metrics.detection.records import positions
from tests.metrics.cases import case
from tests.metrics.coco_scenes import mask_scene, pycocotools_evaluation, scene


def matches_of(truth: dict, results: list, iou_type: str = "bbox", **options):
    checked = read_truth(truth, iou_type)
    return match(checked, read_found(results, checked, iou_type), iou_type, **options)


def make_image(objects: list, *, image: int = 4) -> dict:
    """Ground truth of one image: (xywh, category, crowd) of each object."""
    return {
        "images": [{"id": image, "width": 500, "height": 500}],
        "categories": [{"id": 9, "name": "b"}, {"id": 2, "name": "a"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": crowd}
            for n, (b, c, crowd) in enumerate(objects)
        ],
    }


def found(box, score: float, category: int = 9, image: int = 4) -> dict:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


# ------------------------------------------------------------------ by hand


def test_one_image_by_hand() -> None:
    truth = make_image(
        [([0, 0, 20, 20], 9, 0), ([100, 0, 50, 50], 9, 0), ([200, 0, 100, 100], 9, 1), ([0, 0, 20, 20], 2, 0)]
    )
    results = [
        found([0, 0, 20, 20], 0.5),  # the small object, but it is taken by a better one at IoU 0.5
        found([0, 0, 20, 15], 0.9),  # IoU 0.75 with the small object
        found([100, 0, 50, 26], 0.8),  # IoU 0.52 with the middle one
        found([210, 10, 5, 5], 0.7),  # inside the crowd
        found([220, 20, 5, 5], 0.6),  # inside the crowd as well
        found([400, 400, 9, 9], 0.4, category=2),  # nothing there
    ]
    found_all = matches_of(truth, results, iou_thresholds=[0.5, 0.75, 0.8])
    assert found_all.source.tolist() == [1, 2, 3, 4, 0, 5]
    assert found_all.label_start.tolist() == [0, 5, 6]
    assert found_all.rank.tolist() == [0, 1, 2, 3, 4, 0]
    assert found_all.scores.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert found_all.images.tolist() == [0] * 6
    assert (found_all.num_images, found_all.classes) == (1, 2)
    hit, miss, out = HIT, MISS, IGNORED
    assert found_all.status[0].tolist() == [
        [hit, hit, out, out, miss, miss],
        [hit, miss, out, out, miss, miss],
        [miss, miss, out, out, hit, miss],
    ]
    # Small: the middle object does not count, who finds it is not judged; who finds nothing and is not small
    # is not judged either.
    small = 1
    assert found_all.status[small].tolist() == [
        [hit, out, out, out, miss, miss],
        [hit, out, out, out, miss, miss],
        [miss, out, out, out, hit, miss],
    ]
    assert found_all.counted.tolist() == [
        [True, True, False, True],
        [True, False, False, True],
        [False, True, False, False],
        [False, False, False, False],
    ]
    assert found_all.object_labels.tolist() == [0, 0, 0, 1]
    assert found_all.object_counts().tolist() == [[2, 1], [1, 1], [1, 0], [0, 0]]


def test_a_real_object_goes_before_a_better_crowd() -> None:
    truth = make_image([([0, 0, 40, 40], 9, 1), ([0, 0, 40, 30], 9, 0)])
    results = [found([0, 0, 40, 40], 0.9)]  # IoU 1 with the crowd, 0.75 with the object
    assert matches_of(truth, results, iou_thresholds=[0.5, 0.75, 0.9]).status[0, :, 0].tolist() == [HIT, HIT, IGNORED]


def test_of_equal_overlaps_the_later_object_is_taken() -> None:
    # Both objects have IoU 1/2 with the first detection; the second detection only fits the first object.
    truth = make_image([([0, 0, 20, 20], 9, 0), ([20, 0, 20, 20], 9, 0)])
    results = [found([0, 0, 40, 20], 0.9), found([0, 0, 20, 20], 0.8), found([20, 0, 20, 20], 0.7)]
    assert matches_of(truth, results, iou_thresholds=[0.5]).status[0, 0].tolist() == [HIT, HIT, MISS]


def test_an_overlap_of_exactly_one_passes_the_threshold_one() -> None:
    truth = make_image([([0.1, 0.2, 0.3, 0.7], 9, 0)])
    assert matches_of(truth, [found([0.1, 0.2, 0.3, 0.7], 0.9)], iou_thresholds=[1.0]).status[0, 0, 0] == HIT


def test_ties_go_by_image_id_then_as_given() -> None:
    truth = make_image([])
    truth["images"] = [{"id": i, "width": 9, "height": 9} for i in (8, 3, 5)]
    results = [found([0, 0, 1, 1], 0.5, image=i) for i in (5, 8, 3, 5, 8, 3)] + [found([0, 0, 1, 1], 0.7, image=8)]
    assert matches_of(truth, results).source.tolist() == [6, 2, 5, 0, 3, 1, 4]
    assert matches_of(truth, results).images.tolist() == [0, 1, 1, 2, 2, 0, 0]
    assert matches_of(truth, results).rank.tolist() == [0, 0, 1, 0, 1, 1, 2]


def test_without_classes() -> None:
    truth = make_image([([0, 0, 20, 20], 9, 0), ([100, 0, 20, 20], 2, 0)])
    results = [found([100, 0, 20, 20], 0.9, category=9), found([0, 0, 20, 20], 0.8, category=2)]
    assert (matches_of(truth, results).status[0] == MISS).all()
    without = matches_of(truth, results, class_agnostic=True)
    assert (without.status[0] == HIT).all()
    assert (without.classes, without.object_labels.tolist(), without.label_start.tolist()) == (1, [0, 0], [0, 2])


@pytest.mark.parametrize(
    ("ranges", "message"),
    [([[0, 1, 2]], "must have shape"), ([], "must have shape"), ([[5, 4]], "lowest area must not be above")],
)
def test_bad_area_ranges_are_named(ranges, message: str) -> None:
    with pytest.raises(ValueError, match=f"area_ranges.*{message}"):
        matches_of(make_image([]), [], area_ranges=ranges)


def test_nothing_at_all() -> None:
    empty = matches_of(make_image([]), [])
    assert empty.status.shape == (4, 10, 0)
    assert empty.counted.shape == (4, 0)
    assert empty.label_start.tolist() == [0, 0, 0]


# ------------------------------------------------------------------ oracle and laws


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("most", [3, 100])
def test_every_match_equals_pycocotools(seed: int, most: int) -> None:
    truth, results = scene(seed, detections=60)
    ours = matches_of(truth, results, max_detections=(1, most))
    evaluator = pycocotools_evaluation(truth, results, maxDets=[1, 1, most])
    ids, categories = [i["id"] for i in truth["images"]], [c["id"] for c in truth["categories"]]
    labels = np.repeat(np.arange(ours.classes), np.diff(ours.label_start))
    ranges = [tuple(r) for r in ours.area_ranges]
    seen = np.zeros(ours.status.shape, bool)
    for entry in filter(None, evaluator.evalImgs):
        a = ranges.index(tuple(map(float, entry["aRng"])))
        mine = np.flatnonzero(
            (ours.images == ids.index(entry["image_id"])) & (labels == categories.index(entry["category_id"]))
        )
        mine = mine[np.argsort(ours.rank[mine])]
        assert (ours.source[mine] + 1).tolist() == entry["dtIds"]
        judged = np.where(entry["dtMatches"] > 0, HIT, MISS)
        assert (ours.status[a][:, mine] == np.where(entry["dtIgnore"], IGNORED, judged)).all()
        seen[a][:, mine] = True
    assert seen.all()
    assert {HIT, MISS, IGNORED} == set(ours.status.ravel().tolist())


def test_laws_of_matches() -> None:
    for seed in [3, 4]:
        with case(seed):
            truth, results = scene(seed)
            found_all = matches_of(truth, results)
            for k in range(found_all.classes):
                of_class = slice(found_all.label_start[k], found_all.label_start[k + 1])
                assert (np.diff(found_all.scores[of_class]) <= 0).all()
                hits = (found_all.status[:, :, of_class] == HIT).sum(axis=2)  # (A, T)
                assert (hits <= found_all.object_counts()[:, k, None]).all()
            order = np.random.default_rng(seed).permutation(len(results))
            distinct = [r | {"score": 0.1 + n / 1e4} for n, r in enumerate(results)]
            straight, mixed = matches_of(truth, distinct), matches_of(truth, [distinct[i] for i in order])
            assert (order[mixed.source] == straight.source).all()
            assert (mixed.status == straight.status).all()


def test_mask_overlaps_equal_pycocotools() -> None:
    truth, results = mask_scene(7)
    results += [r | {"segmentation": a["segmentation"]} for r, a in zip(results, truth["annotations"], strict=False)]
    checked = read_truth(truth, "segm")
    detections = read_found(results, checked, "segm")
    layout = lay_out(checked, detections)
    start, objects, ious = find_pairs(checked, detections, "segm", layout, 0.05)
    compared = 0
    for d, place in enumerate(layout.places):
        source = layout.source[place]
        same = [
            g
            for g, n in enumerate(layout.objects)
            if checked.object_images[n] == detections.image_ids[source]
            and checked.object_categories[n] == detections.category_ids[source]
        ]
        expected = {}
        if same:
            numbers = layout.objects[same]
            masks, crowd = [checked.masks[n] for n in numbers], [int(checked.iscrowd[n]) for n in numbers]
            theirs = coco_mask.iou([detections.masks[source]], masks, crowd)[0]
            expected = {g: iou for g, iou in zip(same, theirs, strict=True) if iou >= 0.05}
        pairs = slice(start[d], start[d + 1])
        assert dict(zip(objects[pairs].tolist(), ious[pairs].tolist(), strict=True)) == expected
        compared += len(expected)
    assert compared > 20


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_random_bitmaps_overlap_as_counted(seed: int, height: int, width: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    bitmaps = [rng.random((height, width)) < density for _ in range(2)]
    real, one = ({"size": [height, width], "counts": _counts(bitmap)} for bitmap in bitmaps)
    truth = make_image([([0, 0, 1, 1], 9, 0)])
    truth["images"][0] |= {"height": height, "width": width}
    truth["annotations"][0]["segmentation"] = real
    checked = read_truth(truth, "segm")
    detections = read_found([found([0, 0, 1, 1], 0.5) | {"segmentation": one}], checked, "segm")
    _, objects, ious = find_pairs(checked, detections, "segm", lay_out(checked, detections), 1e-9)
    both, either = (bitmaps[0] & bitmaps[1]).sum(), (bitmaps[0] | bitmaps[1]).sum()
    assert ious.tolist() == ([both / either] if both else [])
    assert objects.tolist() == ([0] if both else [])


def _counts(bitmap: np.ndarray) -> list[int]:
    values = bitmap.T.ravel()
    edges = np.flatnonzero(np.diff(np.r_[False, values]))
    return np.diff(np.r_[0, edges, values.size]).tolist()


# ------------------------------------------------------------------ the parts


def test_positions() -> None:
    for spread in [1, 10**15]:
        with case(spread):
            known = np.array([7, -3, 12, 0]) * spread
            ids = np.array([12, 5, -3, 7, 100, -100, 0]) * spread
            assert positions(ids, known).tolist() == [2, -1, 1, 0, -1, -1, 3]
            assert positions(ids[:0], known).tolist() == []
            assert positions(ids, known[:0]).tolist() == [-1] * 7
            assert positions(known, known).tolist() == [0, 1, 2, 3]


def test_many_pairs_outgrow_the_first_arrays() -> None:
    truth = make_image([([0, 0, 50, 50], 9, 0)] * 60)
    results = [found([0, 0, 50, 50], 0.5)] * 60
    checked = read_truth(truth, "bbox")
    detections = read_found(results, checked, "bbox")
    start, objects, ious = find_pairs(checked, detections, "bbox", lay_out(checked, detections), 0.5)
    assert start.tolist() == list(range(0, 3601, 60))
    assert objects.tolist() == list(range(60)) * 60
    assert (ious == 1).all()
    assert (matches_of(truth, results).status[0] == HIT).all()


def test_files_without_faults_are_read_the_quick_way() -> None:
    import json

    truth, results = mask_scene(2)
    for masks in (False, True):
        assert quick_truth(json.dumps(truth).encode(), masks) is not None
        assert quick_results(bytearray(json.dumps(results).encode()), masks) is not None
    for wrong in (results[0] | {"image_id": 2**70}, results[0] | {"bbox": [1, 2]}, {"image_id": 1}, 5):
        assert quick_results(bytearray(json.dumps([wrong]).encode()), False) is None
