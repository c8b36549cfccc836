"""AP level by level in a tree of classes: against COCO's evaluation of relabelled files; what objects come out as."""

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.data.annotations import Annotations, Category
from detseg.data.class_tree import SURE, ClassTree
from detseg.metrics.detection.inputs import Detections
from detseg.metrics.detection.levels import OUTCOMES, TreeDetections, TreeEvaluator, objects_at

# 4 > (0, 1), 5 > (2, 3); 6 is a root without children.
TREE = ClassTree((4, 4, 5, 5, -1, -1, -1))
NAMES = ("rose", "wild rose", "daisy", "sunflower", "Rosaceae", "Asteraceae", "lily")


def annotations(labels, images=6, seed=0, crowd=()):
    rng = np.random.default_rng(seed)
    index = np.sort(rng.integers(0, images, len(labels)))
    corner = rng.uniform(0, 60, (len(labels), 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 40, (len(labels), 2))], 1)
    return Annotations(
        categories=tuple(Category(10 + i, name) for i, name in enumerate(NAMES)),
        image_ids=np.arange(100, 100 + images),
        paths=np.array([f"{i}.jpg" for i in range(images)]),
        sizes=np.full((images, 2), 128, np.int32),
        image_index=index.astype(np.int32),
        boxes=boxes,
        labels=np.array(labels, np.int32),
        iscrowd=np.isin(np.arange(len(labels)), crowd),
        ids=np.arange(1, len(labels) + 1),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
    )


def detections(data, seed=1):
    """Of each image at each level: the objects a little moved, some with another node, all with random scores."""
    rng = np.random.default_rng(seed)
    found = []
    for image in range(len(data)):
        mine = data.objects(image)
        parts = []
        for level in (SURE, 1, 2):
            nodes = np.arange(7) if level == SURE else np.unique(TREE.cut(level))
            nodes = nodes[nodes >= 0]
            labels = np.where(rng.random(mine.stop - mine.start) < 0.6, data.labels[mine], -1)
            if level != SURE:
                labels = TREE.cut(level)[labels]
            labels = np.where(labels >= 0, labels, rng.choice(nodes, len(labels)))
            boxes = data.boxes[mine] + rng.normal(0, 3, (len(labels), 4))
            row = {"boxes": boxes, "labels": labels, "scores": rng.random(len(labels))}
            parts.append(row | {"level": np.full(len(labels), level)})
        found.append({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return found


def coco_ap(data, found, level, crowd):
    """pycocotools' AP of objects with other labels; `crowd` are (row, label) of regions to be ignored."""
    cut = TREE.cut(level)[data.labels]
    rows = [(row, int(label), bool(data.iscrowd[row])) for row, label in enumerate(cut) if label >= 0]
    rows += [(row, label, True) for row, label in crowd]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": int(i)} for i in data.image_ids],
        "categories": [{"id": k} for k in range(7)],
        "annotations": [
            {
                "id": i,
                "image_id": int(data.image_ids[data.image_index[row]]),
                "category_id": label,
                "iscrowd": int(ignored),
            }
            | {"bbox": [*data.boxes[row, :2], *(data.boxes[row, 2:] - data.boxes[row, :2])], "area": data.areas[row]}
            for i, (row, label, ignored) in enumerate(rows, 1)
        ],
    }
    truth.createIndex()
    results = [
        {"image_id": int(number), "category_id": int(label), "score": score}
        | {"bbox": [*box[:2], *(box[2:] - box[:2])]}
        for number, one in zip(data.image_ids, found, strict=True)
        for box, label, score, at in zip(*(one[n] for n in ("boxes", "labels", "scores", "level")), strict=True)
        if at == level
    ]
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def test_each_level_is_what_coco_says_of_relabelled_objects(capsys):
    data = annotations([0, 1, 2, 3, 6, 0, 1, 2, 4, 0, 5, 3, 6, 1, 0, 2] * 2, crowd=(3, 20))
    found = detections(data)
    evaluator = TreeEvaluator(data, TREE)
    evaluator.update(found, data.image_ids)
    metrics = evaluator.compute()
    unsure = {4: (0, 1), 5: (2, 3)}
    crowd = [(row, leaf) for row, label in enumerate(data.labels) for leaf in unsure.get(int(label), ())]
    assert metrics.at_level(1) == pytest.approx(coco_ap(data, found, 1, []), abs=1e-12)
    assert metrics.at_level(2) == metrics.map == pytest.approx(coco_ap(data, found, 2, crowd), abs=1e-12)
    assert [row.name for row in metrics.per_class] == list(NAMES), "every node has a row"
    assert metrics.per_class[4].ap == metrics.levels[0].per_class[4].ap > 0
    assert metrics.per_class[4].objects == int(np.isin(data.labels[~data.iscrowd], (0, 1, 4)).sum())
    assert metrics.per_class[0].objects == int((data.labels[~data.iscrowd] == 0).sum())
    figures = metrics.figures()
    assert list(figures)[-2:] == ["AP_level1", "AP_level2"] and figures["AP_level2"] == figures["AP"]
    assert metrics.to_dict()["levels"][0]["figures"]["AP"] == figures["AP_level1"]


def test_parts_of_the_images_merge_to_the_same():
    data = annotations([0, 1, 2, 3, 6, 4, 5, 0])
    found = detections(data)
    whole, parts = TreeEvaluator(data, TREE), [TreeEvaluator(data, TREE) for _ in range(2)]
    whole.update(found, None, data.image_ids)
    for part, rows in zip(parts, (slice(0, 4), slice(2, 6)), strict=True):  # two images came twice
        part.update(found[rows], None, data.image_ids[rows])
    parts[0].merge(parts[1])
    a, b = whole.compute(), parts[0].compute()
    assert a.figures() == pytest.approx(b.figures(), nan_ok=True)
    assert (a.outcomes.counts == b.outcomes.counts).all() and a.outcomes.counts.sum() == len(data.labels)


def test_objects_above_a_level_are_ignored_for_all_nodes_below_that_there_are():
    data = annotations([4, 0, 1, 6, 5], images=1)
    leaves = objects_at(data, TREE, 2)
    assert sorted(zip(leaves.labels.tolist(), leaves.iscrowd.tolist(), strict=True)) == [
        (0, False), (0, True), (1, False), (1, True), (6, False),
    ]  # fmt: skip
    assert objects_at(data, TREE, 1).labels.tolist() == [4, 4, 4, 6, 5]
    assert (objects_at(data, TREE, 1).boxes == data.boxes).all()


def test_objects_come_out_as_their_best_detection_by_hand():
    data = annotations([0, 0, 0, 4, 0, 0, 0], images=7)
    box = data.boxes
    labels = [0, 4, 2, 0, 0, 0, None]  # exact, above, wrong, below; then a low score, a loose box, nothing
    found = []
    for i, label in enumerate(labels):
        mine = data.objects(i)
        own = box[mine] + (40 if i == 5 else 0)
        count = len(own) if label is not None else 0
        row = {
            "boxes": own[:count],
            "labels": np.full(count, label or 0),
            "scores": np.full(count, 0.2 if i == 4 else 0.9),
        }
        found.append(row | {"level": np.full(count, SURE)})
    evaluator = TreeEvaluator(data, TREE)
    evaluator.update(found, data.image_ids)
    counts = evaluator.compute().outcomes.counts
    wanted = np.zeros((7, 5), np.int64)
    for image, label in enumerate(labels):
        for own in data.labels[data.objects(image)]:
            kind = "missed"
            if label is not None and image not in (4, 5):
                above = {0: 4, 1: 4, 2: 5}
                kind = "exact" if label == own else "above" if above.get(int(own)) == label else "wrong"
                kind = "below" if above.get(label) == own else kind
            wanted[own, list(OUTCOMES).index(kind)] += 1
    assert (counts == wanted).all()


def test_detections_of_a_run_hold_the_leaves_and_the_metrics():
    data = annotations([0, 1, 2])
    found = TreeDetections.of(detections(data), data, TREE)
    assert isinstance(found, Detections) and found.metrics.objects == 3
    assert set(found.category_ids.tolist()) <= {10, 11, 12, 13, 16}
