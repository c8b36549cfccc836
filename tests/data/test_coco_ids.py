import copy
import json
import re

import numpy as np
import pytest

from detseg.data.annotations import AnnotationError
from detseg.data.checks.validate import repair, validate
from detseg.data.coco_ids import MISSING, NUMBERS, TextIds
from detseg.data.formats import read_coco, write_coco
from detseg.metrics import evaluate_detections
from detseg.metrics.detection.inputs import read_found, read_truth
from tests.cases import case
from tests.data.annotation_samples import by_image, coco_content, write_json

NAMES = {5: "img-b", 0: "img-a", 9: "img-e", 3: "img-ü"}


@pytest.fixture
def tmp_path(tmp_path):
    """A folder whose neighbours are not those of other tests: images that are missing are looked for there too."""
    folder = tmp_path / "alone" / "set"
    folder.mkdir(parents=True)
    return folder


def named_content(category_ids=False):
    """The sample with names for the ids of images, and of categories if asked."""
    content = copy.deepcopy(coco_content())
    for image in content["images"]:
        image["id"] = NAMES[image["id"]]
    for item in content["annotations"]:
        item["image_id"] = NAMES[item["image_id"]]
        if category_ids:
            item["category_id"] = f"c{item['category_id']}"
    if category_ids:
        content["categories"] = [{"id": f"c{c['id']}", "name": c["name"]} for c in content["categories"]]
    return content


def results_of(content):
    """Every object found where it is."""
    keys = ("image_id", "category_id", "bbox")
    return [{key: item[key] for key in keys} | {"score": 0.9} for item in content["annotations"]]


def test_what_texts_stand_for():
    for ids, expected in (
        ([3, 1, 2], [3, 1, 2]),
        (["a", "b", "a"], [1, 2, 1]),
        (["7", "07", "x", 5], [7, 7, 8, 5]),
        (["-4", "b"], [-4, 1]),
        ([], []),
        (["1.5", "", " 1", "1_0", "٣"], [1, 2, 3, 4, 5]),
    ):
        with case(ids):
            assert TextIds.of(ids).column(ids).tolist() == expected


def test_a_number_that_stands_for_a_name_is_no_id_of_the_file():
    texts = TextIds.of(["a", "b", 7])
    assert texts.column(["a", "b", 7, 8, 9, "c", 10, None]).tolist() == [8, 9, 7, *[MISSING] * 3, 10, MISSING]
    assert (texts.number("b"), texts.number(9), texts.number("c")) == (9, 9, "c")
    assert NUMBERS.column([1, "2", "x", None, 2**70, -5]).tolist() == [1, 2, MISSING, MISSING, MISSING, -5]


def test_images_and_categories_with_names_for_ids_are_read(tmp_path):
    expected = read_coco(write_json(tmp_path / "numbers.json", coco_content()))
    for category_ids in (False, True):
        data = read_coco(write_json(tmp_path / "train.json", named_content(category_ids)))
        assert data.image_ids.tolist() == [1, 2, 3, 4] and data.image_ids.dtype == np.int64
        assert by_image(data) == by_image(expected)
        assert data.names == expected.names and data.read_problems == ()
        assert [c.id for c in data.categories] == ([1, 2, 3] if category_ids else [7, 0, 90])


def test_names_for_ids_are_written_again(tmp_path):
    data = read_coco(write_json(tmp_path / "train.json", named_content(category_ids=True)))
    write_coco(data.subset([2, 0]), tmp_path / "part.json")
    part = json.loads((tmp_path / "part.json").read_text())
    assert [image["id"] for image in part["images"]] == ["img-e", "img-b"]
    assert [(item["image_id"], item["category_id"]) for item in part["annotations"]] == [("img-b", "c90")]
    assert [category["id"] for category in part["categories"]] == ["c7", "c0", "c90"]
    assert by_image(read_coco(tmp_path / "part.json")) == by_image(data.subset([2, 0]))


def test_annotation_ids_that_are_no_numbers_are_numbered_anew(tmp_path):
    for odd in ("5f3c-0001-ab", 2.5, [1], {}, None, True, 2**80, ""):
        with case(odd):
            content = coco_content()
            content["annotations"][0]["id"] = odd
            data = read_coco(write_json(tmp_path / "train.json", content))
            assert sorted(data.ids.tolist()) == [2, 4, 11, 12] and validate(data, check_images=False) == []
            for item in content["annotations"]:
                item["id"] = odd
            data = read_coco(write_json(tmp_path / "train.json", content))
            assert sorted(data.ids.tolist()) == [1, 2, 3, 4] and data.read_problems == ()


def test_objects_of_unknown_names_are_told_and_left_out(tmp_path):
    """Nor does a number stand for the image that happens to come first."""
    for odd in ("img-x", 1, 99):
        content = named_content()
        content["annotations"][0]["image_id"] = odd
        data = read_coco(write_json(tmp_path / "train.json", content))
        (problem,) = data.read_problems
        assert (problem.kind, problem.image_index) == ("unknown-image", -1) and repr(odd) in problem.what
        assert sorted(data.ids.tolist()) == [2, 4, 11]
    content = named_content(category_ids=True)
    content["annotations"][1]["category_id"] = "rosé"
    data = read_coco(write_json(tmp_path / "train.json", content))
    (problem,) = data.read_problems
    assert problem.kind == "unknown-category" and problem.image.endswith("b.jpg") and "'rosé'" in problem.what
    assert repair(data, validate(data, check_images=False))[0].ids.tolist() == [0, 2, 11]


def test_a_name_given_to_two_images_is_an_id_given_twice(tmp_path):
    content = named_content()
    content["images"][1]["id"] = "img-b"
    data = read_coco(write_json(tmp_path / "train.json", content))
    found = [p for p in validate(data, check_images=False) if p.kind == "duplicate-image-id"]
    assert [p.image_index for p in found] == [0, 1] and "(a.jpg, b.jpg)" in found[0].what


def test_results_with_the_same_names_are_evaluated(tmp_path):
    numbers = coco_content()
    expected = evaluate_detections(numbers, results_of(numbers)).map
    assert expected == pytest.approx(1)
    for category_ids in (False, True):
        named = named_content(category_ids)
        truth = write_json(tmp_path / "gt.json", named)
        results = results_of(named)
        assert evaluate_detections(truth, write_json(tmp_path / "dt.json", results)).map == expected
        assert evaluate_detections(named, results).map == expected
        # What detseg itself finds in the images of such a file has the numbers.
        position = {name: number for number, name in enumerate(NAMES.values(), 1)}
        assert evaluate_detections(read_coco(truth), results).map == expected
        by_number = [result | {"image_id": position[result["image_id"]]} for result in results]
        assert evaluate_detections(truth, write_json(tmp_path / "dt.json", by_number)).map == expected


def test_results_with_digits_as_text(tmp_path):
    content = coco_content()
    for key, items in (("id", content["images"]), ("image_id", content["annotations"])):
        for item in items:
            item[key] = str(item[key])
    truth = write_json(tmp_path / "gt.json", content)
    for change in (str, int):
        results = [result | {"image_id": change(result["image_id"])} for result in results_of(content)]
        assert evaluate_detections(truth, write_json(tmp_path / "dt.json", results)).map == pytest.approx(1)


def test_unknown_names_in_evaluation_are_named(tmp_path):
    named = named_content()
    truth = read_truth(write_json(tmp_path / "gt.json", named), "bbox")
    results = results_of(named)
    results[2]["image_id"] = "img-z"
    with pytest.raises(ValueError, match=r"dt\.json\[2\]: image_id 'img-z' is not in the list of the ground truth"):
        read_found(write_json(tmp_path / "dt.json", results), truth, "bbox")
    results[2]["image_id"] = 17
    with pytest.raises(ValueError, match=r"dt\.json\[2\]: image_id 17: the ground truth lists no such image"):
        read_found(write_json(tmp_path / "dt.json", results), truth, "bbox")
    for odd in ("img-z", 1):
        named["annotations"][1]["image_id"] = odd
        with pytest.raises(ValueError, match=rf"gt\.json: annotations\[1\]: image_id {odd!r} is not in the list"):
            read_truth(write_json(tmp_path / "gt.json", named), "bbox")


def test_letters_of_another_encoding_are_told_with_the_file(tmp_path):
    """In a category's name they used to be an error of Python without a file."""
    for old, new in (('"rose"', '"Rosé"'), ('"b.jpg"', '"bé.jpg"')):
        file = tmp_path / "gt.json"
        file.write_bytes(json.dumps(coco_content()).replace(old, new, 1).encode("latin-1"))
        message = rf"{re.escape(str(file))}: line 1: is not utf-8 text; save it as UTF-8"
        for read in (read_coco, lambda path: read_truth(path, "bbox")):
            with pytest.raises(AnnotationError, match=message):
                read(file)
