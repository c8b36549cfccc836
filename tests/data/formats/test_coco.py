import contextlib
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO

from detseg.data.annotations import AnnotationError, Category
from detseg.data.checks.validate import validate
from detseg.data.formats import read_annotations, read_coco, read_dataset, write_coco
from detseg.metrics.detection.inputs import read_found, read_truth
from tests.data.annotation_samples import (
    by_image,
    coco_content,
    write_coco_dataset,
    write_json,
    write_picture,
)


def pycoco(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def assert_like_pycocotools(path):
    ours, theirs = read_coco(path), pycoco(path)
    assert ours.image_ids.tolist() == [image["id"] for image in theirs.dataset["images"]]
    assert sorted(ours.ids.tolist()) == sorted(theirs.anns)
    for image, image_id in enumerate(ours.image_ids.tolist()):
        height, width = theirs.imgs[image_id]["height"], theirs.imgs[image_id]["width"]
        owned = ours.objects(image)
        for row, item in zip(range(owned.start, owned.stop), theirs.imgToAnns[image_id], strict=True):
            assert ours.ids[row] == item["id"]
            assert ours.categories[ours.labels[row]].id == item["category_id"]
            assert ours.iscrowd[row] == item["iscrowd"]
            x, y, w, h = item["bbox"]
            np.testing.assert_allclose(ours.boxes[row], [x, y, x + w, y + h])
            if "area" in item:
                assert ours.areas[row] == item["area"]
            if ours.segments is not None and "segmentation" in item:
                rle = ours.segments.rle(row, height, width)
                np.testing.assert_array_equal(mask.decode(rle), theirs.annToMask(item))


def test_ids_boxes_areas_and_masks_are_those_of_pycocotools(tmp_path):
    assert_like_pycocotools(write_json(tmp_path / "train.json", coco_content()))


def test_real_masks_are_those_of_pycocotools(flowers_det):
    assert_like_pycocotools(flowers_det / "instances_val.json")


def with_outline(tmp_path, outline, **fields):
    """The sample with another outline for object 4."""
    content = coco_content()
    content["annotations"][1] |= {"segmentation": outline} | fields
    return write_json(tmp_path / "train.json", content)


def test_polygons_that_lead_far_away_are_told_and_left_out(tmp_path):
    good = [10, 5, 30, 5, 30, 35]
    for far in (math.nan, math.inf, 1e12):
        data = read_coco(with_outline(tmp_path, [good, [10, 5, far, 5, 30, 35]], area=None))
        (row,) = np.flatnonzero(data.ids == 4)
        assert [polygon.ravel().tolist() for polygon in data.segments.polygons(row)] == [good], far
        (problem,) = data.read_problems
        assert (problem.kind, problem.severity, problem.object) == ("malformed-outline", "error", 4)


def test_compressed_run_lengths_must_fill_their_mask(tmp_path):
    # Compressed, 1 2 3 and one run of nothing; plain, too short, too long and below 0.
    for counts in ("abc", "", "ü", "123", "0", [1, 2, 3], [], [0, 48 * 64 + 1], [48 * 64 + 1, -1]):
        data = read_coco(with_outline(tmp_path, {"size": [48, 64], "counts": counts}))
        assert not data.segments.has_rle[data.ids == 4].any(), counts
        (problem,) = data.read_problems
        assert problem.kind == "malformed-outline" and "48 x 64" in problem.what
        assert problem.object == 4 and problem.file.endswith("train.json") and "correct the mask" in problem.remedy


def test_what_tools_write_in_other_words(tmp_path):
    polygon = [10, 5, 30, 5, 30, 35]
    data = read_coco(with_outline(tmp_path, polygon, bbox=[], id=None))
    (row,) = np.flatnonzero(data.ids == 12)
    assert data.boxes[row].tolist() == [10, 5, 30, 35] and data.read_problems == ()
    assert [points.ravel().tolist() for points in data.segments.polygons(row)] == [polygon]


def test_polygons_as_lists_of_points(tmp_path):
    polygon = [10, 5, 30, 5, 30, 35]
    points = [[10, 5], [30, 5], [30, 35]]
    for outline, expected in (
        (points, [polygon]),
        ([points], [polygon]),
        ([points, [[1.5, 2], [3, 4], [5, 6], [7, 8]]], [polygon, [1.5, 2, 3, 4, 5, 6, 7, 8]]),
        ([polygon], [polygon]),
    ):
        data = read_coco(with_outline(tmp_path, outline))
        (row,) = np.flatnonzero(data.ids == 4)
        assert [p.ravel().tolist() for p in data.segments.polygons(row)] == expected and data.read_problems == ()
        results = [{"image_id": 5, "category_id": 90, "segmentation": outline, "score": 1}]
        truth = read_truth(write_json(tmp_path / "gt.json", coco_content() | {"annotations": []}), "segm")
        found = read_found(write_json(tmp_path / "dt.json", results), truth, "segm")
        drawn = mask.merge(mask.frPyObjects([[float(v) for v in p] for p in expected], 48, 64))
        assert mask.decode(found.masks[0]).tolist() == mask.decode(drawn).tolist()
    for outline in ([[10, 5], [30, 5]], [[[10, 5], [30, 5]]], [[10, 5], [30, 5, 1], [30, 35]]):
        (problem,) = read_coco(with_outline(tmp_path, outline)).read_problems
        assert problem.kind == "malformed-outline", outline


def test_flat_arrays_of_the_sample(tmp_path):
    annotations = read_coco(write_coco_dataset(tmp_path))
    assert annotations.categories == (Category(7, "rose"), Category(0, "daisy"), Category(90, "water lily"))
    assert annotations.image_ids.tolist() == [5, 0, 9, 3]
    assert annotations.image_index.tolist() == [0, 1, 1, 3]
    assert annotations.labels.tolist() == [2, 1, 0, 0]
    assert annotations.ids.tolist() == [4, 0, 2, 11]
    assert annotations.iscrowd.tolist() == [False, False, True, False]
    assert annotations.areas[3] == pytest.approx(39.9 * 29.8), "the file has no area: that of the box"
    assert [array.dtype for array in (annotations.boxes, annotations.labels, annotations.image_index)] == [
        np.float64,
        np.int32,
        np.int32,
    ]
    assert all(Path(path).is_file() for path in annotations.paths.tolist())
    assert annotations.read_problems == ()


def test_compressed_masks(tmp_path):
    content = coco_content()
    crowd = content["annotations"][2]
    packed = mask.frPyObjects(crowd["segmentation"], 48, 64)
    crowd["segmentation"] = {"size": [48, 64], "counts": packed["counts"].decode()}
    path = write_json(tmp_path / "train.json", content)
    assert_like_pycocotools(path)
    assert mask.area(read_coco(path).segments.rle(2, 48, 64)) == 200


def test_missing_ids_boxes_and_areas_are_computed(tmp_path):
    content = coco_content()
    for item in content["annotations"]:
        for key in ("id", "area"):
            item.pop(key, None)
        if "segmentation" in item:
            item.pop("bbox")
    annotations = read_coco(write_json(tmp_path / "train.json", content))
    assert sorted(annotations.ids.tolist()) == [1, 2, 3, 4]
    np.testing.assert_allclose(annotations.boxes[0], [10, 5, 30, 35])
    np.testing.assert_allclose(annotations.boxes[2], [0, 0, 10, 20])
    segments = annotations.segments
    assert annotations.areas[0] == mask.area(segments.rle(0, 48, 64))
    assert annotations.areas[1] == 200
    assert annotations.areas[2] == 200


def test_missing_ids_do_not_collide_with_given_ones(tmp_path):
    content = coco_content()
    del content["annotations"][0]["id"]
    ids = read_coco(write_json(tmp_path / "train.json", content)).ids.tolist()
    assert sorted(ids) == [2, 4, 11, 12]


def test_missing_sizes_are_read_from_the_images(tmp_path):
    path = write_coco_dataset(tmp_path)
    content = coco_content()
    for image in content["images"]:
        del image["width"], image["height"]
    write_json(path, content)
    assert read_coco(path).sizes.tolist() == [[64, 48], [64, 48], [32, 40], [40, 30]]


def test_nan_and_infinity_are_read_and_reported(tmp_path):
    for value in (math.nan, math.inf, -math.inf):
        content = coco_content()
        content["annotations"][1]["bbox"][2] = value
        annotations = read_coco(write_json(tmp_path / "train.json", content))
        assert len(annotations.ids) == 4, value
        problems = [p for p in validate(annotations, check_images=False) if p.kind == "not-finite"]
        assert [p.object for p in problems] == [4]
        assert problems[0].image.endswith("b.jpg")


def test_one_bad_object_is_named_and_the_others_are_read(tmp_path):
    for fields, kind in (
        ({"bbox": [1, 2, 3]}, "malformed-object"),
        ({"bbox": "wide"}, "malformed-object"),
        ({"image_id": None}, "malformed-object"),
        ({"image_id": 77}, "unknown-image"),
        ({"category_id": 5}, "unknown-category"),
        ({"segmentation": [[1, 2, 3, 4]]}, "malformed-outline"),
        ({"segmentation": [1, 2, 3, 4, 5]}, "malformed-outline"),
        ({"segmentation": {"size": [48, 64], "counts": [5, 5]}}, "malformed-outline"),
    ):
        content = coco_content()
        content["annotations"][1].update(fields)
        annotations = read_coco(write_json(tmp_path / "train.json", content))
        (problem,) = annotations.read_problems
        assert (problem.kind, problem.object) == (kind, 4), fields
        assert problem.file == str(tmp_path / "train.json")
        dropped = kind in ("malformed-object", "unknown-image")
        assert len(annotations.ids) == 4 - dropped, fields
        if not dropped:
            assert problem.image.endswith("b.jpg")
            assert by_image(annotations)["b.jpg"][0][2] == [10, 5, 30, 35]


def test_numbers_written_as_text_and_true_are_understood(tmp_path):
    content = coco_content()
    content["annotations"][0].update(bbox=["1.5", "2.25", "20", "10"], iscrowd=False, id="0")
    content["annotations"][2].update(iscrowd=True)
    annotations = read_coco(write_json(tmp_path / "train.json", content))
    assert annotations.read_problems == ()
    assert annotations.boxes[1].tolist() == [1.5, 2.25, 21.5, 12.25]
    assert annotations.iscrowd.tolist() == [False, False, True, False]


def test_unreadable_files_are_refused_with_the_place(tmp_path):
    path = tmp_path / "train.json"
    half = rb'{"images": [], "categories": [{"id": 1,' + b"\n" + rb'"name": "\\ud83d \ud83d\ude00 \ud83d"}]}'
    for text, message in (
        ('{"images": [}', r"train\.json: line 1, column 13"),
        ("[]", "detection results"),
        ("{}", 'no list "images"'),
        ('{"images": [], "annotations": []}', 'no list "categories"'),
        ('{"images": [{"id": "x"}], "annotations": [], "categories": []}', r"images\[0\].*id"),
        ('{"images": [{"id": 99999999999999999999}], "categories": []}', "64 bits"),
        ('{"images": [], "categories": [{"id": 1}]}', r"categories\[0\].*name"),
        ("", "line 1, column 1"),
        ('{"images": [{"id": 7}], "categories": []}', r"images\[0\] \(id 7\) has no file_name"),
        ('{"images": [{"id": 7, "file_name": "a\\u0000"}], "categories": []}', "NUL character"),
        (
            '{"images": [], "categories": [{"id": 1,\n"name": "ä"}]}'.encode("latin-1"),
            "line 2: is not utf-8 .* as UTF-8",
        ),
        (half, r"train\.json: line 2: \\ud83d is half a character"),
        ("[" * 100_000, r"train\.json: cannot be read as JSON"),
    ):
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(AnnotationError, match=message):
            read_coco(path)


def test_damage_inside_an_annotation_names_it(tmp_path):
    """The list of annotations is first skipped, then read in pieces."""
    path = write_json(tmp_path / "train.json", coco_content())
    good = path.read_bytes()
    for bad, message in ((b'"area": "\xe4", ', "save it as UTF-8"), (rb'"note": "\udc00", ', "half a character")):
        path.write_bytes(good.replace(b'"area": 150.5, ', bad))
        with pytest.raises(AnnotationError, match=rf"train\.json: .*{message}"):
            read_coco(path)


def test_odd_values_are_named_when_a_file_is_evaluated(tmp_path):
    truth, results = coco_content(), [{"image_id": 0, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}]
    good = read_truth(write_json(tmp_path / "gt.json", truth), "bbox")
    for part, key, value in (
        ("images", "id", [1]),
        ("images", "width", math.inf),
        ("images", "height", "x"),
        ("images", "width", [3]),
        ("annotations", "image_id", [1, 2]),
        ("annotations", "iscrowd", math.inf),
        ("annotations", "bbox", [1, 2, 3]),
        ("categories", "id", None),
    ):
        changed = truth | {part: [truth[part][0] | {key: value}, *truth[part][1:]]}
        with pytest.raises(ValueError, match=rf"bad\.json: {part}\[0\].*{key}"):
            read_truth(write_json(tmp_path / "bad.json", changed), "bbox")
    for key, value in (("image_id", [1]), ("category_id", {}), ("score", "x"), ("bbox", 3)):
        with pytest.raises(ValueError, match=rf"bad\.json\[0\].*{key}"):
            read_found(write_json(tmp_path / "bad.json", [results[0] | {key: value}, *results]), good, "bbox")


def test_byte_order_mark_and_utf16(tmp_path):
    text = json.dumps(coco_content())
    for name, encoding in (("a.json", "utf-8-sig"), ("b.json", "utf-16")):
        (tmp_path / name).write_text(text, encoding=encoding)
        assert len(read_coco(tmp_path / name).ids) == 4


def test_a_category_id_given_twice_is_reported(tmp_path):
    content = coco_content()
    content["categories"] = [*content["categories"], {"id": 7, "name": "tulip"}]
    annotations = read_coco(write_json(tmp_path / "train.json", content))
    (problem,) = annotations.read_problems
    assert "7 is given twice" in problem.what and "'tulip'" in problem.what
    assert annotations.labels.tolist() == [2, 1, 0, 0]


def test_images_are_found(tmp_path):
    for case, (json_path, image, file_name) in enumerate(
        (
            ("d/train.json", "d/a.jpg", "a.jpg"),
            ("d/train.json", "d/images/a.jpg", "a.jpg"),
            ("d/train.json", "d/images/train/a.jpg", "a.jpg"),
            ("d/annotations/instances_train2017.json", "d/train2017/a.jpg", "a.jpg"),
            ("d/annotations/instances_train2017.json", "d/images/train2017/a.jpg", "a.jpg"),
            ("d/annotations/train.json", "d/images/a.jpg", "a.jpg"),
            ("d/train.json", "d/x/y/a.jpg", "x/y/a.jpg"),
            ("d/train.json", "d/x/a.jpg", "x\\a.jpg"),
            ("d/train.json", "d/images/a.jpg", "/elsewhere/photos/a.jpg"),
            ("d/train/_annotations.coco.json", "d/train/a.jpg", "a.jpg"),
        )
    ):
        folder = tmp_path / str(case)
        write_picture(folder / image)
        content = {"images": [{"id": 1, "file_name": file_name}], "annotations": [], "categories": []}
        annotations = read_coco(write_json(folder / json_path, content))
        assert annotations.paths.tolist() == [str(folder / image)]
        assert annotations.sizes.tolist() == [[64, 48]]


def test_images_relative_to_the_working_folder(tmp_path, monkeypatch):
    write_coco_dataset(tmp_path)
    monkeypatch.chdir(tmp_path)
    annotations = read_coco("train.json")
    assert annotations.paths[0] == str(Path("images", "b.jpg"))


def test_images_argument_and_the_likeliest_place(tmp_path):
    path = write_json(tmp_path / "train.json", coco_content())
    write_picture(tmp_path / "photos" / "a.jpg")
    annotations = read_coco(path, images=tmp_path / "photos")
    assert annotations.paths.tolist() == [
        str(tmp_path / "photos" / n) for n in ("b.jpg", "a.jpg", "empty.jpg", "c.jpg")
    ]
    with pytest.raises(AnnotationError, match="does not exist"):
        read_coco(path, images=tmp_path / "nowhere")


def test_written_file_reads_back_the_same(tmp_path):
    first = read_coco(write_coco_dataset(tmp_path))
    write_coco(first, tmp_path / "again.json")
    second = read_coco(tmp_path / "again.json")
    assert second.categories == first.categories
    assert second.paths.tolist() == first.paths.tolist()
    for name in ("image_ids", "sizes", "image_index", "labels", "iscrowd", "ids"):
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name))
    np.testing.assert_allclose(second.boxes, first.boxes, atol=1e-9)
    np.testing.assert_allclose(second.areas, first.areas)
    for row in range(4):
        ours, theirs = first.segments.rle(row, 48, 64), second.segments.rle(row, 48, 64)
        assert ours == theirs
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.json", "images", "train.json"], "no leftovers"


def test_writing_in_another_place_keeps_the_images_reachable(tmp_path):
    annotations = read_coco(write_coco_dataset(tmp_path / "data"))
    for target in (tmp_path / "data" / "annotations" / "t.json", tmp_path / "x" / "y" / "t.json"):
        write_coco(annotations, target)
        assert [Path(p).resolve() for p in read_coco(target).paths.tolist()] == [
            Path(p).resolve() for p in annotations.paths.tolist()
        ]
    names = [image["file_name"] for image in json.loads((tmp_path / "data/annotations/t.json").read_text())["images"]]
    assert names[0] == "../images/b.jpg"


def test_not_finite_boxes_are_not_written(tmp_path):
    content = coco_content()
    content["annotations"][0]["bbox"][0] = math.nan
    annotations = read_coco(write_json(tmp_path / "train.json", content))
    with pytest.raises(AnnotationError, match=r"the first is object 0 of .*a\.jpg"):
        write_coco(annotations, tmp_path / "again.json")
    assert not (tmp_path / "again.json").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_coco_dataset(tmp_path)
    annotations, before = read_coco(path), path.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_coco(annotations, path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "train.json"]


def test_real_flowers(flowers_det):
    data = read_dataset(flowers_det)
    assert {split: (len(a), len(a.ids)) for split, a in data.items()} == {
        "train": (1262, 3145),
        "val": (181, 433),
    }
    assert data["train"].categories == data["val"].categories
    assert data["train"].names[:2] == ("water lily", "rose")


def test_splits_with_another_category_order_are_matched(tmp_path):
    write_coco_dataset(tmp_path, "train.json")
    content = coco_content()
    content["categories"] = content["categories"][::-1]
    write_json(tmp_path / "val.json", content)
    data = read_dataset(tmp_path)
    assert data["val"].categories == data["train"].categories
    assert data["val"].labels.tolist() == data["train"].labels.tolist()
    content["categories"][0] = {"id": 90, "name": "lotus"}
    write_json(tmp_path / "val.json", content)
    with pytest.raises(AnnotationError, match=r"'water lily'.*'lotus'"):
        read_dataset(tmp_path)


def test_many_annotations_in_any_order(tmp_path):
    """More than one chunk, objects of an image scattered over the file."""
    draw = np.random.default_rng(0)
    count = 20_000
    content = {
        "images": [{"id": i * 3, "file_name": f"{i}.jpg", "width": 100, "height": 100} for i in range(500)],
        "annotations": [
            {"id": i, "image_id": int(image) * 3, "category_id": 0, "bbox": [i, 0, 1, 1]}
            for i, image in enumerate(draw.integers(0, 500, count))
        ],
        "categories": [{"id": 0, "name": "daisy"}],
    }
    annotations = read_coco(write_json(tmp_path / "train.json", content))
    assert (np.diff(annotations.image_index) >= 0).all()
    in_file_order = np.lexsort((annotations.ids, annotations.image_index))
    assert in_file_order.tolist() == list(range(count)), "objects of an image keep the order of the file"
    assert annotations.boxes[:, 0].tolist() == annotations.ids.tolist()
    expected = {item["id"]: item["image_id"] for item in content["annotations"]}
    assert (
        dict(zip(annotations.ids.tolist(), annotations.image_ids[annotations.image_index].tolist(), strict=True))
        == expected
    )


def test_reading_needs_neither_torch_nor_opencv():
    import subprocess

    code = (
        "import sys; from detseg.data.formats import read_annotations; "
        "print([m for m in ('torch', 'cv2', 'albumentations', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_read_annotations_recognises_json(tmp_path):
    assert len(read_annotations(write_coco_dataset(tmp_path))) == 4
