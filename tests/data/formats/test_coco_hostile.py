"""Damaged and hostile COCO files: read, or refused by one error that names the file."""

import copy
import json
import math
import random

import numpy as np
import pytest

from detseg.data.annotations import AnnotationError
from detseg.data.checks.validate import repair, validate
from detseg.data.formats import read_coco
from detseg.metrics.detection.inputs import read_truth
from tests.data.annotation_samples import coco_content, write_json

HALF = "\ud800"  # of a character
HOSTILE = [
    *(None, True, -1, 2**31, 2**63, 10**30, 1e308, 0.5, math.nan, math.inf, "", "x", "7", "\0", HALF, "é" * 300),
    *([], {}, [1], [[]], [None], [math.nan] * 6, [[1, 2], [3, 4], [5, 6]], [[1, 2, 3, 4, 5, math.inf]]),
    *({"size": [48, 64], "counts": counts} for counts in ("x", [], [2**40], [-5, 3077])),
    *({"size": size, "counts": [1]} for size in ([0, 0], [2**40, 2], [1])),
    {"size": [100_000, 100_000], "counts": [10**10]},
]
KEYS = ("id", "bbox", "segmentation", "iscrowd", "file_name", "other_names", "coco_url", "segments_info", "images")


def places(tree):
    """Every container below a tree with each of its keys or positions."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        yield from places(tree[key])


def mutated(draw):
    content = copy.deepcopy(coco_content())
    if draw.random() < 0.3:
        for key, items in (("id", content["images"]), ("image_id", content["annotations"])):
            for item in items:
                item[key] = f"img-{item[key]}"
    for _ in range(draw.choice([1, 1, 2, 3])):
        content = json.loads(json.dumps(content))
        where, key = draw.choice(list(places(content)) or [({0: 0}, 0)])
        how = draw.random()
        if how < 0.7:
            where[key] = draw.choice(HOSTILE)
        elif how < 0.85:
            del where[key]
        else:
            where[draw.choice(KEYS) if isinstance(where, dict) else key] = copy.deepcopy(
                draw.choice([where[key], content])
            )
    text = json.dumps(content, ensure_ascii=draw.random() < 0.5).replace("1e+308", "1e400")
    damaged = bytearray(text.encode("utf-8", "surrogatepass"))
    if draw.random() < 0.3:
        place = draw.randrange(len(damaged))
        damaged[place : place + draw.randrange(1, 20)] = draw.randbytes(draw.randrange(3))
    return bytes(damaged)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_mutations_are_read_or_refused(tmp_path):
    file, read = tmp_path / "train.json", 0
    for seed in range(80):
        file.write_bytes(mutated(random.Random(seed)))
        try:
            data = read_coco(file)
            problems = validate(data, check_images=False)
            json.dumps([str(problem) for problem in problems]).encode()
            repaired, _ = repair(data, problems)
            left = validate(repaired, check_images=False)
            assert not any(problem.repairable and problem.severity == "error" for problem in left), seed
            read += 1
        except AnnotationError as error:
            assert str(file) in str(error), seed
        try:
            read_truth(file, "bbox")
        except ValueError as error:
            assert str(file) in str(error), seed
    assert 20 < read < 70, "both happen"


def test_hostile_values_are_named(tmp_path):
    for place, message in (
        (("images", 0, "id", [5]), r"images\[0\]: Expected `int \| str`, got `array`"),
        (("images", 0, "id", {"a": 1}), r"images\[0\]: Expected `int \| str`"),
        (("images", 0, "file_name", 5), r"images\[0\]: Expected `str`, got `int` - at `\$\.file_name`"),
        (("images", 0, "file_name", "a\0.jpg"), r"images\[0\] \(id 5\) has a file_name with a NUL character"),
        (("images", 0, "file_name", HALF), r"line 1: \\ud800 is half a character"),
        (("categories", 1, "name", HALF), r"line 1: \\ud800 is half a character"),
        (("categories", 1, "name", ["rose"]), r"categories\[1\]: Expected `str`, got `array` - at `\$\.name`"),
        (("images", 0, "width", 1e308), r"images\[0\]: .*\$\.width"),
    ):
        content = copy.deepcopy(coco_content())
        part, row, key, value = place
        content[part][row][key] = value
        file = write_json(tmp_path / "train.json", content)
        file.write_text(file.read_text().replace("1e+308", "1e400"))
        with pytest.raises(AnnotationError, match=rf"train\.json: {message}"):
            read_coco(file)


def test_sizes_beyond_any_image_do_not_turn_into_others(tmp_path):
    content = coco_content()
    content["images"][0] |= {"width": 2**40, "height": 2**32 + 48}
    data = read_coco(write_json(tmp_path / "train.json", content))
    assert data.sizes[0].tolist() == [np.iinfo(np.int32).max] * 2


def test_masks_of_absurd_size_are_left_out(tmp_path):
    for side, counts in ((100_000, [10**10]), (100_000, "PPPPPP"), (2**20, [2**39, 2**39])):
        content = coco_content()
        content["annotations"][1]["segmentation"] = {"size": [side, side], "counts": counts}
        (problem,) = read_coco(write_json(tmp_path / "train.json", content)).read_problems
        assert (problem.kind, problem.object) == ("malformed-outline", 4)
