"""What nearly all objects have in common; sound sets, of all sizes, are never accused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detseg.data.annotations import Annotations, Category, Problem
from detseg.data.checks.validate import AnnotationError, checked, repair, validate
from detseg.data.formats import read_coco
from detseg.data.formats.assemble import Assembler
from tests.cases import case
from tests.data.annotation_samples import coco_content, make, write_json, write_picture

SIZES = (1, 2, 3, 4, 8, 30, 300)


def sound(seed: int, objects: int) -> Annotations:
    """Objects of all sizes from 2 px to the whole image, some a pixel over the border, in a few images."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(8, 1000, (draw.integers(1, objects + 1), 2))
    index = np.sort(draw.integers(0, len(sizes), objects))
    room = sizes[index].astype(float)
    sides = np.maximum(draw.uniform(0.02, draw.choice([0.2, 1.0]), (objects, 2)) * room, 2)
    corners = draw.uniform(0, 1, (objects, 2)) * (room - sides) + draw.choice([-1, 0, 1], (objects, 1))
    boxes = np.concatenate([corners, corners + sides], axis=1)
    if seed % 3 == 0:
        boxes[:, :2], boxes[:, 2:] = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
        boxes = np.clip(boxes, -1, np.tile(room, 2) + 1)
    return make(boxes, draw.integers(0, draw.integers(1, 4), objects), index, sizes)


def as_written(data: Annotations, numbers: np.ndarray) -> Annotations:
    """The set as a reader of x, y, width, height gets it from these numbers (M, 4)."""
    return replace(data, boxes=np.concatenate([numbers[:, :2], numbers[:, :2] + numbers[:, 2:]], axis=1))


def causes(data: Annotations) -> list[Problem]:
    return [problem for problem in validate(data, check_images=False) if problem.kind == "common-cause"]


def test_sound_sets_are_never_accused():
    for objects in SIZES:
        for seed in range(100 if objects < 100 else 10):
            with case(objects, seed):
                assert causes(sound(seed, objects)) == []


def test_an_empty_set_is_not_accused():
    assert causes(make()) == []
    assert causes(make([[0.1, 0.1, 0.4, 0.5]], sizes=[(0, 0)])) == [], "of an unknown size nothing is known"


def test_a_few_faults_stay_single_ones():
    for seed in range(100):
        data = sound(seed, 20)
        boxes = data.boxes.copy()
        boxes[:4, 2:] += data.sizes[data.image_index[:4]]
        assert causes(replace(data, boxes=boxes)) == [], seed


def test_shares_of_the_image():
    for objects in SIZES:
        for seed in range(10):
            data = sound(seed, objects)
            boxes = data.boxes / np.tile(data.sizes, 2)[data.image_index]
            (cause,) = causes(replace(data, boxes=boxes))
            assert "seem to be shares of the image" in cause.what and "multiply x and width" in cause.remedy
            assert cause.severity == "error" and not cause.repairable
    # One box in pixels shows that the others are small.
    assert causes(make([[0.1, 0.1, 0.4, 0.5], [3, 4, 20, 30]])) == []


def test_corners_where_sizes_belong():
    for objects in SIZES[4:]:
        for seed in range(30):
            with case(objects, seed):
                data = sound(seed, objects)
                boxes = np.clip(data.boxes, 0, np.tile(data.sizes, 2)[data.image_index])
                (cause,) = causes(as_written(data, boxes))
                assert "nearly all fit if read as x1, y1, x2, y2" in cause.what
                assert cause.remedy.startswith("write x, y, width, height")


def test_corners_where_centres_and_sizes_belong():
    data = make([[4, 8, 40, 40], [10, 4, 50, 44], [30, 10, 60, 40], [2, 2, 30, 20]])
    x1, y1, x2, y2 = data.boxes.T
    wrong = replace(data, boxes=np.stack([x1 - x2 / 2, y1 - y2 / 2, x1 + x2 / 2, y1 + y2 / 2], axis=1))
    (cause,) = causes(wrong)
    assert cause.remedy.startswith("write centre x, centre y, width, height")


def test_sizes_where_corners_belong():
    data = make([[4, 8, 40, 40], [30, 24, 50, 44], [50, 30, 60, 40], [22, 22, 30, 30]])
    wrong = replace(data, boxes=np.concatenate([data.boxes[:, :2], data.boxes[:, 2:] - data.boxes[:, :2]], axis=1))
    (cause,) = causes(wrong)
    assert cause.what == "3 of 4 boxes are reversed, and nearly all fit if read as x, y, width, height"
    assert cause.remedy.startswith("write x1, y1, x2, y2")


def test_what_a_cause_explains_is_neither_listed_nor_repaired(tmp_path):
    boxes = np.array([[12, 13, 52, 37], [30, 20, 60, 40], [20, 11, 51, 43], [40, 30, 60, 46]], float)
    wrong = as_written(make(boxes, ids=np.array([1, 2, 3, 3])), boxes)
    problems = validate(wrong, check_images=False)
    assert [problem.kind for problem in problems] == ["common-cause", "duplicate-object-id"]
    repaired, done = repair(wrong, problems)
    assert len(done) == 1 and "new ids" in done[0]
    assert repaired.boxes.tolist() == wrong.boxes.tolist()
    there = replace(wrong, paths=np.array([str(write_picture(tmp_path / "a.jpg"))]))
    for repairing in (False, True):
        with pytest.raises(AnnotationError, match="--repair cannot repair these") as error:
            checked(there, None, repairing=repairing, print_line=print)
        assert "1 error in the annotations" in str(error.value)


def of_classes(classes: tuple[int, ...]) -> Annotations:
    """Objects of these classes of a list of two, as a reader of class numbers gives them."""
    assembler = Assembler()
    assembler.add_image("a.jpg", "a.txt", (64, 48))
    for row, number in enumerate(classes):
        if number > 1:
            what = f"class {number} is not among the 2 classes"
            assembler.add_problem(what, "correct it", "unknown-category", of_next_object=True, category=number)
        assembler.add_object([row, 1, row + 20, 30], number if number < 2 else -1)
    return assembler.build([Category(0, "rose"), Category(1, "daisy")], Path("data.yaml"))


def test_classes_counted_from_1():
    for classes, expected in (
        ((1, 2, 2, 1), True),
        ((2, 2), True),
        ((0, 1, 2, 2), False),  # the first class occurs
        ((1, 2, 3, 3), False),  # two classes are beyond the list
        ((1, 1, 2), False),  # a slip
        ((0, 1), False),
    ):
        with case(classes):
            data = of_classes(classes)
            found = causes(data)
            assert len(found) == expected
            problems = validate(data, check_images=False)
            if expected:
                assert "and none is of class 0 ('rose'): counted from 1, where the list counts from 0?" in found[0].what
                assert found[0].remedy.startswith("subtract 1 from every object's class")
                assert [p.kind for p in problems] == ["common-cause"]
            data.boxes[0, 2] = 80  # another repair does not make it forget
            assert len(causes(repair(data, validate(data, check_images=False))[0])) == expected


def test_categories_counted_from_another_number_than_the_list(tmp_path):
    for first, shift, word in ((0, 1, "subtract 1"), (1, -1, "add 1"), (5, 1, "subtract 1")):
        content = coco_content()
        content["categories"] = [{"id": first + row, "name": name} for row, name in enumerate("abc")]
        for row, item in enumerate(content["annotations"]):
            item["category_id"] = first + (0, 2, 2, 0)[row] + shift if shift > 0 else first + (0, 0, 1, 2)[row] + shift
        (cause,) = causes(read_coco(write_json(tmp_path / "train.json", content)))
        assert cause.remedy.startswith(word) and cause.file.endswith("train.json")
    content["categories"][0]["id"] = 90  # with holes nothing can be said
    assert causes(read_coco(write_json(tmp_path / "train.json", content))) == []


def test_objects_that_cannot_be_read_are_no_object_less(tmp_path):
    content = coco_content()
    for item in content["annotations"]:
        item["bbox"] = {"x": 1, "y": 2}
    data = read_coco(write_json(tmp_path / "train.json", content))
    (cause,) = problems = [p for p in validate(data, check_images=False) if p.severity == "error"]
    assert cause.what.startswith("4 of 4 objects cannot be read, the first: annotations[0] is malformed: Expected")
    assert repair(data, problems)[1] == []


def test_classes_whose_objects_are_mostly_ignored_are_told(tmp_path):
    boxes = [[i, 1, i + 9, 9] for i in range(12)]
    labels = np.repeat([0, 1, 2], 4)
    for ignored, expected in (
        ([1] * 12, "'rose' 4 of 4, 'daisy' 4 of 4, 'water lily' 4 of 4"),
        ([1, 1, 0, 0] + [0] * 8, "'rose' 2 of 4"),
        ([1, 0, 0, 0] * 3, None),
        ([0] * 12, None),
    ):
        data = make(boxes, labels, iscrowd=np.array(ignored, bool))
        found = validate(data, check_images=False)
        assert [(p.kind, p.severity) for p in found] == [("mostly-ignored", "warning")] * (expected is not None)
        assert expected is None or found[0].what.endswith(f"so they are ignored: {expected}")
    few = make(boxes[:3], iscrowd=np.ones(3, bool), categories=(Category(1, "rose"),))
    assert validate(few, check_images=False) == []


def test_regions_that_are_ignored_for_every_class_are_no_doubt():
    """KITTI's DontCare is an ignored object of each class."""
    boxes = [[1, 1, 9, 9], *[[i, 20, i + 9, 30] for i in range(4) for _ in range(3)]]
    labels, ignored = np.array([0, *range(3)] + [*range(3)] * 3), np.array([False] + [True] * 12)
    assert validate(make(boxes, labels, iscrowd=ignored), check_images=False) == []
