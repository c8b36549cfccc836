import dataclasses
import json
import logging
import math
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from detseg.data.annotations import Category
from detseg.data.checks.validate import AnnotationError, checked, raise_on_problems, repair, validate
from detseg.data.formats import read_annotations, read_coco, read_dataset
from detseg.data.images import ORIENTATION, read_image
from detseg.data.polygons import SegmentsBuilder
from tests.cases import case
from tests.data.annotation_samples import coco_content, make, write_coco_dataset, write_json, write_picture

GOOD = [10.0, 10.0, 20.0, 20.0]


def kinds(problems):
    return [(problem.kind, problem.severity, problem.object) for problem in problems]


def test_boxes():
    for box, expected in [
        ([0, 0, 64, 48], None),
        ([10, 10, 10.01, 20], None),
        ([10, 10, 10, 20], ("zero-size-box", "error")),
        ([10, 10, 20, 10.0001], ("zero-size-box", "error")),
        ([20, 10, 10, 20], ("reversed-box", "error")),
        ([10, 20, 20, 10], ("reversed-box", "error")),
        ([math.nan, 10, 20, 20], ("not-finite", "error")),
        ([10, 10, math.inf, 20], ("not-finite", "error")),
        ([-math.inf, 10, math.inf, 20], ("not-finite", "error")),
        ([-0.01, 0, 64.01, 48.01], None),
        ([-1, -1, 20, 20], ("box-over-border", "warning")),
        ([10, 10, 65, 49], ("box-over-border", "warning")),
        ([-1.1, 10, 20, 20], ("box-over-border", "error")),
        ([10, 10, 64, 60], ("box-over-border", "error")),
        ([64, 10, 80, 20], ("box-outside", "error")),
        ([-20, 10, 0, 20], ("box-outside", "error")),
        ([10, -30, 20, -5], ("box-outside", "error")),
        ([10, 48.5, 20, 60], ("box-outside", "error")),
    ]:
        with case(box, expected):
            problems = validate(make([GOOD, box]), check_images=False)
            assert kinds(problems) == ([] if expected is None else [(*expected, 2)])
            for problem in problems:
                assert (problem.file, problem.image, problem.object_index) == ("sample.json", "0.jpg", 1)
                assert problem.what and problem.remedy


def test_a_box_over_the_border_says_how_far():
    (problem,) = validate(make([[10, 10, 70.5, 20]]), check_images=False)
    assert problem.what == "the box (10, 10, 70.5, 20) reaches 6.5 px over the border of the image of 64 x 48"


def test_boxes_of_images_of_unknown_size_are_not_compared_with_it():
    assert validate(make([[10, 10, 900, 900]], sizes=[(0, 0)]), check_images=False) == []


def test_labels_and_names():
    annotations = make([GOOD, [1, 1, 5, 5]], [0, 3], categories=(Category(1, "rose"),) * 3)
    found = validate(annotations, check_images=False)
    assert kinds(found) == [("unknown-category", "error", 2), ("category", "warning", None)]
    assert "3 categories are named 'rose'" in found[1].what


def test_many_equal_names_are_counted_once():
    compared = 0

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    annotations = make([GOOD], categories=tuple(Category(1, Name("rose")) for _ in range(1000)))
    compared = 0
    (found,) = validate(annotations, check_images=False)
    assert found.what == "1000 categories are named 'rose'"
    assert compared < 10_000, "once with each, and not each with each"


def test_members_of_shards_that_are_not_there_are_told(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "short.tar").write_bytes(b"x" * 10)
    for shard, what in (("pipe", "is a pipe and no file"), ("short", "ends before it"), ("none", "No such file")):
        with case(shard):
            path = str(tmp_path / f"{shard}.tar#0+50+0123456789abcdef/zz.png")
            (found,) = validate(make([GOOD], paths=[path]))
            assert (found.severity, found.image) == ("error", path) and what in found.what


def test_duplicates():
    annotations = make(
        [GOOD, [1, 1, 5, 5], GOOD, GOOD],
        [0, 0, 0, 1],
        ids=np.array([1, 2, 3, 1]),
        sizes=[(64, 48)] * 4,
        paths=["a.jpg", "b.jpg", "./a.jpg", "c.jpg"],
        image_ids=np.array([4, 4, 5, 6]),
    )
    found = {(p.kind, p.image, p.object) for p in validate(annotations, check_images=False)}
    assert found == {
        ("duplicate-image-id", "a.jpg", None),
        ("duplicate-image-id", "b.jpg", None),
        ("duplicate-path", "./a.jpg", None),
        ("duplicate-object-id", "a.jpg", 1),
        ("duplicate-object", "a.jpg", 3),
    }


def test_errors_come_first():
    severities = [p.severity for p in validate(make([[-0.5, 0, 5, 5], [5, 5, 1, 1]]), check_images=False)]
    assert severities == ["error", "warning"]


def test_outlines():
    builder = SegmentsBuilder()
    builder.add_polygons([[0, 0, 5, 0, 5, 5]])
    builder.add_polygons([[0, 0, 5, 0, 5, 5], [0, 0, math.nan, 0, 5, 5]])
    builder.add_rle(10, 10, [100])
    builder.add_rle(48, 64, [48 * 64])
    boxes = [[i, i, 9 + i, 9 + i] for i in range(4)]
    annotations = make(boxes, segments=builder.build())
    problems = validate(annotations, check_images=False)
    assert kinds(problems) == [("malformed-outline", "error", 2), ("mask-size", "error", 3)]
    assert problems[1].what == "its mask is 10 x 10, the image 64 x 48"
    repaired, done = repair(annotations, problems)
    assert validate(repaired, check_images=False) == []
    assert repaired.segments.has_polygons.tolist() == [True, False, False, False]
    assert repaired.segments.has_rle.tolist() == [False, False, False, True]
    assert done == ["removed 2 broken polygons or masks, the first is 0.jpg, object 2"]


@pytest.fixture
def dataset(tmp_path):
    return read_coco(write_coco_dataset(tmp_path))


def test_a_sound_dataset_has_no_problems(dataset):
    assert validate(dataset) == []


def test_missing_and_damaged_images(dataset, tmp_path):
    (tmp_path / "images/a.jpg").unlink()
    cut = tmp_path / "images/c.jpg"
    cut.write_bytes(cut.read_bytes()[:-60])
    (tmp_path / "images/empty.jpg").write_text("no image")
    found = validate(dataset)
    assert [(p.kind, p.image[-9:]) for p in found] == [
        ("missing-image", "ges/a.jpg"),
        ("damaged-image", "empty.jpg"),
        ("damaged-image", "ges/c.jpg"),
    ]
    assert "cut short" in found[2].what
    assert validate(dataset, check_images=False) == [], "no image is opened"
    repaired, done = repair(dataset, found)
    assert repaired.image_ids.tolist() == [5]
    assert repaired.ids.tolist() == [4]
    assert len(done) == 2 and "left out 1 images that do not exist" in done[0]
    assert validate(repaired) == []


def test_size_of_the_file_against_size_of_the_image(dataset):
    for size, words in [
        ((128, 96), "scale its boxes by 0.5"),
        ((48, 64), "swap width and height"),
        ((64, 50), "use the image that was annotated"),
    ]:
        with case(size, words):
            sizes = dataset.sizes.copy()
            sizes[0] = size
            wrong = dataclasses.replace(dataset, sizes=sizes)
            found = [p for p in validate(wrong) if p.kind == "size-differs"]
            assert len(found) == 1
            assert f"the annotation file says {size[0]} x {size[1]}, the image is 64 x 48" in found[0].what
            assert words in found[0].remedy
            assert repair(wrong, found)[1] == [], "guessing is not repairing"
            with pytest.raises(AnnotationError, match="--repair cannot repair these"):
                raise_on_problems(found)


def test_boxes_drawn_on_unturned_pixels_are_turned(tmp_path_factory):
    for orientation in [5, 6, 7, 8]:
        with case(orientation):
            tmp_path = tmp_path_factory.mktemp("case")
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[8:24, 32:56] = 255
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
            builder = SegmentsBuilder()
            builder.add_polygons([[32, 8, 56, 8, 56, 24, 32, 24]])
            builder.add_rle(48, 64, [48 * 64])
            annotations = make(
                [[32, 8, 56, 24], [0, 0, 1, 1]], paths=[str(tmp_path / "a.png")], segments=builder.build()
            )
            problems = validate(annotations)
            assert kinds(problems) == [("unrotated", "error", None)]
            repaired, done = repair(annotations, problems)
            assert repaired.sizes.tolist() == [[48, 64]]
            x1, y1, x2, y2 = repaired.boxes[0].astype(int)
            upright = read_image(tmp_path / "a.png")
            assert upright[y1:y2, x1:x2].min() == 255
            assert upright.sum() == upright[y1:y2, x1:x2].sum()
            drawn = mask.decode(repaired.segments.rle(0, 64, 48))
            np.testing.assert_array_equal(drawn, upright[..., 0] // 255)
            assert validate(repaired) == []
            assert "1 run-length masks were removed" in done[0]


def test_images_in_both_splits_by_path_and_by_content(tmp_path):
    for seed, name in enumerate(["a", "b", "c", "d"]):
        write_picture(tmp_path / f"{name}.jpg", seed=seed)
    (tmp_path / "copy_of_c.jpg").write_bytes((tmp_path / "c.jpg").read_bytes())
    (tmp_path / "link_to_d.jpg").symlink_to(tmp_path / "d.jpg")

    def split(*names, source):
        paths = [str(tmp_path / f"{name}.jpg") for name in names]
        boxes = [GOOD] * len(names)
        return make(boxes, None, range(len(names)), [(64, 48)] * len(names), paths, source=source)

    train, val = split("a", "b", "copy_of_c", "link_to_d", source="train"), split("c", "d", "b", source="val")
    found = validate(train, other=val)
    assert {(p.kind, p.severity) for p in found} == {("in-both-splits", "error")}
    assert [p.image.rsplit("/", 1)[1] for p in found] == ["b.jpg", "copy_of_c.jpg", "link_to_d.jpg"]
    assert "is in val too, as" in found[1].what and "c.jpg" in found[1].what
    by_path = validate(train, check_images=False, other=val)
    assert [p.image.rsplit("/", 1)[1] for p in by_path] == ["b.jpg", "link_to_d.jpg"]
    repaired, _ = repair(train, found)
    assert [p.rsplit("/", 1)[1] for p in repaired.paths.tolist()] == ["a.jpg"]
    assert validate(repaired, other=val) == []


def test_equal_files_within_a_split_are_told(dataset, tmp_path):
    (tmp_path / "images/a.jpg").write_bytes((tmp_path / "images/b.jpg").read_bytes())
    found = validate(dataset)
    assert [(p.kind, p.severity, p.image[-5:]) for p in found] == [("duplicate-image", "warning", "a.jpg")]
    assert "b.jpg" in found[0].what


def test_files_of_equal_length_and_ends_are_compared_whole(tmp_path):
    from detseg.data.checks.image_checks import equal_files

    contents = [b"a" * 20_000, b"a" * 20_000, b"a" * 9_999 + b"b" + b"a" * 10_000, b"a" * 19_999, b""]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    paths = [str(tmp_path / str(number)) for number in range(6)]
    assert equal_files(paths) == [[0, 1]]


def test_repair_clips_drops_joins_and_renumbers(tmp_path):
    annotations = make(
        [[-3, -4, 20, 20], [5, 5, 5, 9], GOOD, GOOD, [1, 2, 3, 4], [30, 30, 40, 40]],
        [0, 0, 0, 0, -1, 1],
        [0, 0, 1, 1, 1, 2],
        [(64, 48)] * 3,
        ["a.jpg", "b.jpg", "a.jpg"],
        ids=np.array([1, 1, 2, 3, 4, 5]),
    )
    problems = validate(annotations, check_images=False)
    repaired, done = repair(annotations, problems)
    assert validate(repaired, check_images=False) == []
    assert repaired.paths.tolist() == ["a.jpg", "b.jpg"]
    assert repaired.image_index.tolist() == [0, 0, 1]
    assert repaired.boxes.tolist() == [[0, 0, 20, 20], [30, 30, 40, 40], GOOD]
    assert repaired.areas[0] == 400
    assert repaired.labels.tolist() == [0, 1, 0]
    assert repaired.image_ids.tolist() == [1, 2]
    text = "\n".join(done)
    for words in (
        "clipped 1 boxes",
        "1 boxes without area",
        "unknown categories",
        "listed twice",
        "joined 1",
    ):
        assert words in text


def test_repair_of_repaired_changes_nothing():
    annotations = make([[-3, -4, 20, 20], GOOD])
    repaired, done = repair(annotations, validate(annotations, check_images=False))
    assert len(done) == 1
    again, nothing = repair(repaired, validate(repaired, check_images=False))
    assert nothing == []
    assert again.boxes.tolist() == repaired.boxes.tolist()
    assert annotations.boxes[0, 0] == -3, "the input is not changed"


def test_repair_leaves_out_what_the_reader_reported(tmp_path):
    content = coco_content()
    content["annotations"][0]["category_id"] = 5
    content["annotations"][1]["bbox"] = [1]
    content["annotations"][3]["image_id"] = 77
    annotations = read_annotations(write_json(tmp_path / "train.json", content))
    problems = validate(annotations, check_images=False)
    assert kinds(problems) == [
        ("malformed-object", "error", 4),
        ("unknown-image", "error", 11),
        ("unknown-category", "error", 0),
    ]
    repaired, done = repair(annotations, problems)
    assert repaired.ids.tolist() == [2]
    assert len(done) == 3
    assert validate(repaired, check_images=False) == []


def test_summary_names_ten_and_counts_all():
    annotations = make([[i, 5, i, 9] for i in range(25)])
    problems = validate(annotations, check_images=False)
    with pytest.raises(AnnotationError) as caught:
        raise_on_problems(problems)
    lines = str(caught.value).splitlines()
    assert lines[0] == "25 errors in the annotations, the first 10 are:"
    assert len(lines) == 12
    assert lines[1] == "  sample.json, 0.jpg, object 1: the box (0, 5, 0, 9) has no area (correct or remove the object)"
    assert lines[-1] == "--repair repairs all of them and says what it did."


def test_repair_is_not_advised_where_it_would_leave_nothing(dataset):
    def advice(data):
        with pytest.raises(AnnotationError) as caught:
            checked(data, None, repairing=False, print_line=print)
        return str(caught.value).splitlines()[-1]

    paths = [str(path) for path in dataset.paths]
    assert "--repair repairs all" in advice(replace(dataset, paths=np.array(["gone.jpg", *paths[1:]])))
    gone = replace(dataset, paths=np.array([f"gone/{i}.jpg" for i in range(len(paths))]))
    assert advice(gone) == "--repair would leave no image: correct what is listed above."
    with pytest.raises(AnnotationError, match="--repair would leave no image"):
        checked(gone, None, repairing=True, print_line=print)


def test_warnings_are_logged_and_do_not_stop(caplog):
    with caplog.at_level(logging.WARNING):
        raise_on_problems(validate(make([[-0.5, 0, 5, 5]]), check_images=False))
    assert "1 warning in the annotations" in caplog.text
    raise_on_problems([])


def test_many_boxes_are_checked_in_seconds():
    """The checks over objects are vectorised: this would take a minute otherwise."""
    import time

    draw = np.random.default_rng(0)
    count = 300_000
    corners = draw.uniform(0, 400, (count, 2))
    boxes = np.concatenate([corners, corners + 50], axis=1)
    index = np.sort(draw.integers(0, 1000, count))
    start = time.process_time()
    assert validate(make(boxes, None, index, [(640, 480)] * 1000), check_images=False) == []
    assert time.process_time() - start < 5


def test_real_flowers_have_no_errors(flowers_det):
    data = read_dataset(flowers_det)
    train = validate(data["train"], other=data["val"])
    assert [(p.kind, p.severity) for p in train] == [("duplicate-image", "warning")] * 2
    assert validate(data["val"], other=data["train"]) == []
    for split in ("train", "val"):
        assert validate(read_annotations(flowers_det / f"instances_{split}.json"), check_images=False) == []


def test_problem_list_is_plain_data(dataset, tmp_path):
    (tmp_path / "images/a.jpg").unlink()
    (problem,) = validate(dataset)
    assert json.dumps(dataclasses.asdict(problem))
    assert problem.repairable


def test_objects_of_unknown_category_are_left_out_whatever_their_ids(tmp_path_factory):
    for ids in [[1, 1, 2], [0, 0, 0]]:
        with case(ids):
            tmp_path = tmp_path_factory.mktemp("case")
            content = coco_content()
            content["annotations"] = [
                {"id": number, "image_id": image, "category_id": category, "bbox": [1, 1, 9, 9 + row]}
                for row, (number, image, category) in enumerate(zip(ids, (5, 0, 0), (7, 99, 7), strict=True))
            ]
            found = read_coco(write_json(tmp_path / "train.json", content))
            problems = validate(found, check_images=False)
            assert [problem.kind for problem in problems].count("unknown-category") == 1
            repaired, _ = repair(found, problems)
            assert repaired.labels.tolist() == [0, 0] and repaired.boxes[:, 3].tolist() == [10, 12]
            assert all(problem.severity == "warning" for problem in validate(repaired, check_images=False))


def test_repair_goes_on_until_nothing_changes():
    """A box that is clipped to nothing, and two copies of everything: what comes of a repair is repaired too."""
    sizes, paths = [(128, 96)] * 4, ["a.jpg", "b.jpg"] * 2
    sliver = make([GOOD, [127.9995, 10, 157.9995, 30]], sizes=sizes[:1])
    twice = make([GOOD, [1, 1, 5, 5]] * 2, None, [0, 1, 2, 3], sizes, paths, ids=np.arange(4))
    for data, sentences in ((sliver, ["clipped 1", "left out 1 boxes without"]), (twice, ["joined 2", "left out 2"])):
        repaired, done = repair(data, validate(data, check_images=False))
        assert [line.startswith(words) for line, words in zip(done, sentences, strict=True)] == [True, True]
        assert validate(repaired, check_images=False) == []
    assert repaired.boxes.tolist() == [GOOD, [1, 1, 5, 5]] and repaired.paths.tolist() == ["a.jpg", "b.jpg"]


def test_images_with_one_id_are_left_out_with_all_its_objects(tmp_path):
    """Two exports in one file, both counted from 1: whose the objects are cannot be told."""
    content = coco_content()
    content["images"][1]["id"] = 5
    for item in content["annotations"]:
        item["image_id"] = 5 if item["image_id"] == 0 else item["image_id"]
    data = read_coco(write_json(tmp_path / "train.json", content))
    found = validate(data, check_images=False)
    assert [(p.kind, p.severity, p.image[-5:]) for p in found] == [
        ("duplicate-image-id", "error", "b.jpg"),
        ("duplicate-image-id", "error", "a.jpg"),
    ]
    assert "image id 5 is given to 2 images (a.jpg, b.jpg)" in found[0].what
    repaired, done = repair(data, found)
    assert [path[-5:] for path in repaired.paths.tolist()] == ["y.jpg", "c.jpg"] and repaired.ids.tolist() == [11]
    assert done[0].startswith("left out 2 images whose id is another's too (with all objects of that id)")


def test_an_image_listed_twice_with_its_id_keeps_its_objects(tmp_path):
    content = coco_content()
    content["images"] *= 2
    data = read_coco(write_json(tmp_path / "train.json", content))
    found = validate(data, check_images=False)
    assert [p.image_index for p in found] == [4, 5, 6, 7] and "2 times, for the same image" in found[0].what
    repaired, _ = repair(data, found)
    assert repaired.image_ids.tolist() == [5, 0, 9, 3] and repaired.ids.tolist() == [4, 0, 2, 11]


def test_a_set_is_repaired_only_when_asked(dataset, tmp_path, monkeypatch):
    lines = []
    assert checked(dataset, None, repairing=False, print_line=lines.append) is dataset and lines == []
    over = replace(dataset, boxes=dataset.boxes * [1, 1, 100, 1])
    with monkeypatch.context() as patch:
        patch.setattr("detseg.data.checks.validate.repair_once", lambda *_: pytest.fail("not asked for"))
        with pytest.raises(AnnotationError, match="--repair repairs all of them"):
            checked(over, None, repairing=False, print_line=lines.append)
    assert len(checked(over, None, repairing=True, print_line=lines.append)) == 4
    assert lines[0].startswith("repaired: clipped 4 boxes to their image")
