"""k-means anchors: the laws any such method must keep, and Darknet's published anchors as the mark to reach."""

import itertools

import numpy as np
import pytest

from detseg.data.dataset import scaled_sizes
from detseg.data.formats import read_annotations
from detseg.detect import anchors as module
from detseg.detect.anchors import fit_anchors, fit_of, kmeans_anchors
from tests.mistakes import assert_named

# Darknet's cfg files (yolov2-voc, yolov2: cells of 32 pixels; yolov3: pixels), all for inputs of 416 pixels.
YOLOV2_VOC = np.array(
    [[1.3221, 1.73145], [3.19275, 4.00944], [5.05587, 8.09892], [9.47112, 4.84053], [11.2364, 10.0071]]
)
YOLOV2_COCO = np.array(
    [[0.57273, 0.677385], [1.87446, 2.06253], [3.33843, 5.47434], [7.88282, 3.52778], [9.77052, 9.16828]]
)
YOLOV3 = np.array(
    [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]], np.float64
)
PUBLISHED = {"v2-voc": YOLOV2_VOC * 32, "v2-coco": YOLOV2_COCO * 32, "v3": YOLOV3}


def natural(count=1500):
    """Sizes as data sets have them: many small ones, all shapes."""
    rng = np.random.default_rng(1)
    area, shape = rng.lognormal(4.2, 0.9, count), rng.lognormal(0, 0.5, count)
    return np.stack([area * shape, area / shape], 1).clip(2, 416)


def clustered(centres=YOLOV3, count=1500):
    """Sizes scattered round given ones, which are near the best anchors for them therefore."""
    rng = np.random.default_rng(2)
    return centres[rng.integers(len(centres), size=count)] * rng.lognormal(0, 0.15, (count, 2))


def slim():
    rng = np.random.default_rng(3)
    return np.stack([rng.uniform(2, 8, 800), rng.uniform(100, 400, 800)], 1)


DATA = {"natural": natural, "clustered": clustered, "slim": slim}


def size_iou(sizes, anchors):
    """IoU (M, A) of boxes and anchors laid on the same centre: 4x2 and 2x4 share 2x2, 4 / (8 + 8 - 4)."""
    overlap = np.minimum(sizes[:, None], anchors).prod(-1)
    return overlap / (sizes.prod(1)[:, None] + anchors.prod(1) - overlap)


@pytest.mark.parametrize("name", DATA)
def test_mean_iou_rises_with_k(name):
    sizes = DATA[name]()
    quality = [kmeans_anchors(sizes, k).mean_iou for k in (1, 2, 3, 5, 9)]
    assert all(a < b for a, b in itertools.pairwise(quality)), quality


def test_as_many_anchors_as_distinct_sizes_fit_perfectly():
    distinct = np.array([[10, 20], [10, 21], [20, 10], [300, 5], [5, 300], [10.5, 20]])
    fit = kmeans_anchors(np.repeat(distinct, [5, 1, 3, 1, 2, 9], 0), len(distinct))
    assert fit.mean_iou == 1.0
    assert fit.best_recall == 1.0
    assert sorted(fit.anchors.tolist()) == sorted(distinct.tolist())


def test_anchors_scale_with_the_boxes():
    sizes = natural(400)
    plain = kmeans_anchors(sizes, 5)
    for scale in (1 / 416, 0.37, 3, 1e4):
        scaled = kmeans_anchors(sizes * scale, 5)
        np.testing.assert_allclose(scaled.anchors, plain.anchors * scale, rtol=1e-9, err_msg=f"scale {scale}")
        assert scaled.mean_iou == pytest.approx(plain.mean_iou, rel=1e-12), scale


def test_same_seed_same_anchors_and_order_of_boxes_does_not_matter():
    sizes = natural(400)
    shuffled = np.random.default_rng(0).permutation(sizes)
    np.testing.assert_array_equal(kmeans_anchors(sizes, 6, seed=3).anchors, kmeans_anchors(sizes, 6, seed=3).anchors)
    np.testing.assert_allclose(kmeans_anchors(sizes, 6).anchors, kmeans_anchors(shuffled, 6).anchors, rtol=1e-12)


def test_repeating_every_box_changes_nothing():
    sizes = natural(300)
    once, thrice = kmeans_anchors(sizes, 4), kmeans_anchors(np.repeat(sizes, 3, 0), 4)
    np.testing.assert_allclose(thrice.anchors, once.anchors, rtol=1e-9)


@pytest.mark.parametrize("published", PUBLISHED)
def test_at_least_as_good_as_darknets_anchors(published):
    theirs = PUBLISHED[published]
    for name, sizes in {"natural": natural(), "clustered": clustered(), "round theirs": clustered(theirs)}.items():
        assert kmeans_anchors(sizes, len(theirs)).mean_iou >= fit_of(sizes, theirs).mean_iou, name


def test_at_least_as_good_as_darknets_anchors_on_real_boxes(flowers_det):
    sizes = scaled_sizes(read_annotations(flowers_det, "train"), 416)
    for theirs in PUBLISHED.values():
        assert kmeans_anchors(sizes, len(theirs)).mean_iou > fit_of(sizes, theirs).mean_iou


def test_clusters_that_run_empty_do_no_harm():
    # Two far groups and k = 4: starts that put three anchors into one group leave some without boxes.
    sizes = np.concatenate([np.full((50, 2), 10.0) + np.arange(50)[:, None] * 1e-3, [[400, 400], [1, 400]]])
    fit = kmeans_anchors(sizes, 4)
    assert np.isfinite(fit.anchors).all()
    assert fit.mean_iou > 0.99


def test_each_box_goes_to_the_anchor_that_its_iou_says():
    for name, make in DATA.items():
        sizes = make()
        anchors = np.concatenate([sizes[:7], sizes[:2], YOLOV3])  # some twice: the first of equals
        nearest, best = module._nearest(np.ascontiguousarray(sizes.T), sizes.prod(1), anchors)
        iou = size_iou(sizes, anchors)
        np.testing.assert_array_equal(nearest, iou.argmax(1), err_msg=name)
        np.testing.assert_array_equal(best, iou.max(1), err_msg=name)  # to the last bit


@pytest.mark.parametrize("data", DATA)
def test_of_many_sizes_a_part_finds_the_way_and_all_decide(monkeypatch, data):
    sizes = DATA[data]()
    whole = kmeans_anchors(sizes, 9)
    monkeypatch.setattr(module, "_ENOUGH", 300)
    part = kmeans_anchors(sizes, 9)
    assert part.mean_iou > whole.mean_iou - 0.01
    shuffled = np.random.default_rng(0).permutation(np.repeat(sizes, 2, 0)) * 3
    np.testing.assert_allclose(kmeans_anchors(shuffled, 9).anchors, part.anchors * 3, rtol=1e-9)
    # The last run sees every box: one more round of k-means from its result finds nothing better.
    again = module._run(sizes, np.ones(len(sizes), int), part.anchors)
    assert again[1] == pytest.approx(part.mean_iou, abs=1e-9)
    distinct = np.unique(sizes[:400], axis=0)
    assert kmeans_anchors(distinct, len(distinct), restarts=1).mean_iou == 1.0  # more than are enough otherwise


def full_images_of_one_shape():
    """As `scaled_sizes` gives boxes that fill images of 4 to 3: sizes that differ by rounding alone."""
    widths = np.arange(100, 3000, 7) * 4.0
    boxes = np.stack([widths, widths * 0.75], 1)
    return boxes * (320 / boxes.max(1))[:, None]


def test_sizes_that_differ_by_rounding_alone_are_one():
    sizes = full_images_of_one_shape()
    assert len(np.unique(sizes, axis=0)) > 2
    anchors = fit_anchors(sizes, 3, 3).reshape(-1, 2)
    assert np.isclose(anchors, [320, 240], rtol=1e-9).all(1).sum() == 1
    assert len(np.unique(anchors.round(2), axis=0)) == 9, "the others are larger and smaller ones"
    with pytest.raises(ValueError, match="the 2 distinct box sizes, got 3"):
        kmeans_anchors(np.concatenate([sizes, [[10, 10]]]), 3)
    fit = kmeans_anchors(np.concatenate([sizes, [[10, 10]]]), 2)
    assert fit.mean_iou == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(fit.anchors, [[10, 10], [320, 240]], rtol=1e-9)


def test_a_start_among_boxes_that_are_alike_takes_none_twice():
    """Sizes too near each other for IoU to tell them apart."""
    sizes = np.full((4, 2), 320.0)
    sizes[:, 0] += np.arange(4) * np.spacing(320.0)
    for k in (1, 3, 4):
        start = module._spread_start(sizes, np.array([1, 5, 1, 1]), k, np.random.default_rng(0))
        assert len(np.unique(start, axis=0)) == k


def test_fit_reports_what_it_says():
    fit = fit_of([[10, 10], [10, 10], [40, 10], [100, 100]], [[100, 100], [10, 10]])
    assert fit.anchors.tolist() == [[10, 10], [100, 100]]  # smallest first
    assert fit.mean_iou == pytest.approx((1 + 1 + 0.25 + 1) / 4)
    assert fit.best_recall == 0.75


def test_more_anchors_than_sizes_is_an_error():
    with pytest.raises(ValueError, match="between 1 and the 2 distinct box sizes, got 3"):
        kmeans_anchors([[1, 2], [1, 2], [3, 4]], 3)
    with pytest.raises(ValueError, match="got 0"):
        kmeans_anchors([[1, 2]], 0)


def test_bad_sizes_are_named():
    for sizes, message in [
        (np.zeros((0, 2)), r"got \(0, 2\)"),
        ([1, 2], r"got \(2,\)"),
        ([[1, 2, 3]], r"got \(1, 3\)"),
        ([[1, 2], [0, 4]], r"box 1 is \[0.0, 4.0\]"),
        ([[1, -2]], "box 0"),
        ([[1, np.nan]], "box 0"),
        ([[1, 1], [np.inf, 1]], "box 1"),
    ]:
        assert_named(message, kmeans_anchors, sizes, 1)


def test_levels_get_anchors_by_size():
    anchors = fit_anchors(natural(), 3, 3)
    assert anchors.shape == (3, 3, 2)
    areas = anchors.prod(-1).ravel()
    assert (np.diff(areas) >= 0).all()


def test_few_distinct_sizes_are_padded_with_other_scales():
    for distinct in (1, 2, 5):
        sizes = np.stack([np.arange(1, distinct + 1) * 10.0, np.full(distinct, 15.0)], 1)
        anchors = fit_anchors(np.repeat(sizes, 4, 0), 3, 3).reshape(-1, 2)
        assert len(np.unique(anchors, axis=0)) == 9, distinct
        assert (anchors > 0).all(), distinct
        for size in sizes:
            assert (anchors == size).all(1).any(), "every size of the data is an anchor itself"
        assert fit_of(sizes, anchors).mean_iou == 1.0, distinct
