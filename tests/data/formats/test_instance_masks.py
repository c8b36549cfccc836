"""Masks with a number for each object: boxes, masks and areas of objects, and what is said of other masks."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from detseg.data import read_annotations, read_dataset, read_masks
from detseg.data.annotations import AnnotationError
from detseg.data.checks.validate import validate
from detseg.data.formats import find_sources, write_dataset
from detseg.data.formats.instance_masks import objects_in
from tests.data.annotation_samples import make, write_picture
from tests.data.mask_samples import save_mask, write_mask_set

NUMBERS = np.array(
    [
        [0, 0, 1, 1, 0, 3],
        [0, 0, 1, 1, 0, 3],
        [2, 0, 0, 0, 0, 0],
        [2, 2, 0, 1, 0, 0],
    ],
    np.uint8,
)


def write_set(folder, images="images", masks="masks", mask_name="{}.png", splits=("train", "val")):
    for seed, split in enumerate(splits):
        write_picture(folder / images / f"{split}0.png", 6, 4, seed)
        save_mask(folder / masks / mask_name.format(f"{split}0"), NUMBERS)
        (folder / f"{split}.txt").write_text(f"{split}0\n")
    (folder / "classes.txt").write_text("pedestrian\n")
    return folder


def test_every_number_is_an_object(tmp_path):
    data = read_dataset(write_set(tmp_path))
    assert list(data) == ["train", "val"]
    train = data["train"]
    assert train.names == data["val"].names == ("pedestrian",)
    assert train.boxes.tolist() == [[2, 0, 4, 4], [0, 2, 2, 4], [5, 0, 6, 2]]
    assert train.areas.tolist() == [5, 3, 2]
    for row, number in enumerate((1, 2, 3)):
        np.testing.assert_array_equal(coco.decode(train.segments.rle(row, 0, 0)), NUMBERS == number)
    assert validate(train, other=data["val"]) == []
    # For a segmenter whatever is numbered is of the class.
    masks = read_masks(tmp_path, "train")
    assert masks.names == ("background", "pedestrian")
    np.testing.assert_array_equal(masks.mask(0), NUMBERS > 0)


def test_as_penn_fudan_has_them(tmp_path):
    write_set(tmp_path, "PNGImages", "PedMasks", "{}_mask.png")
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").unlink()
        # Its own annotations are text files, but no YOLO rows.
        (tmp_path / "Annotation").mkdir(exist_ok=True)
        (tmp_path / f"Annotation/{split}0.txt").write_text("# Compatible with PASCAL Annotation Version 1.00\n")
    data = read_annotations(tmp_path)
    assert len(data) == 2 and len(data.ids) == 6


def test_labels_of_yolo_go_before_masks_beside_them(tmp_path):
    write_set(tmp_path)
    (tmp_path / "labels").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"labels/{split}0.txt").write_text("0 0.5 0.5 0.5 0.5\n")
        (tmp_path / f"{split}.txt").write_text(f"images/{split}0.png\n")
    assert read_annotations(tmp_path, "train").boxes.tolist() == [[1.5, 1, 4.5, 3]]


def test_folders_of_other_names(tmp_path):
    write_set(tmp_path, "photographs", "numbers")
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").unlink()
    assert len(read_annotations(tmp_path).ids) == 6


def test_many_objects_and_none(tmp_path):
    many = np.arange(1, 601, dtype=np.uint16).reshape(20, 30)
    objects = objects_in(many)
    assert len(objects) == 600 and objects[31].box == (1, 1, 2, 2) and objects[31].area == 1
    assert objects_in(np.zeros((3, 4), np.uint8)) == []
    (whole,) = objects_in(np.full((3, 4), 9, np.uint8))
    assert whole.box == (0, 0, 4, 3) and whole.counts == [0, 12]
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.integers(0, 4, rng.integers(1, 12, 2)).astype(np.uint8)
        numbers = [number for number in range(1, 4) if (values == number).any()]
        for number, item in zip(numbers, objects_in(values), strict=True):
            height, width = values.shape
            code = coco.frPyObjects({"size": [height, width], "counts": item.counts}, height, width)
            np.testing.assert_array_equal(coco.decode(code), values == number)


def test_one_number_in_pieces_is_told(tmp_path):
    write_set(tmp_path)
    save_mask(tmp_path / "masks/train0.png", np.array([[1, 0, 1, 0, 0, 0]] * 4, np.uint8))
    (problem,) = validate(read_annotations(tmp_path, "train"))
    assert problem.severity == "warning" and problem.kind == "one-number"
    assert "1 of 1 masks have one number in several pieces, the first is" in problem.what


def test_masks_that_cannot_be_used_are_named(tmp_path):
    write_set(tmp_path)
    for content, kind in ((b"no image", "damaged-mask"), (None, "missing-mask"), (b"", "damaged-mask")):
        file = tmp_path / "masks/train0.png"
        file.unlink() if content is None else file.write_bytes(content)
        (problem,) = (p for p in validate(read_annotations(tmp_path, "train")) if p.severity == "error")
        assert problem.kind == kind and problem.file == str(file)
    save_mask(tmp_path / "masks/train0.png", NUMBERS[:2])
    (problem,) = (p for p in validate(read_annotations(tmp_path, "train")) if p.severity == "error")
    assert problem.what == "the mask is 6 x 2 pixels, its image 6 x 4"


def test_other_masks_are_no_objects(tmp_path):
    """Not by lists of images either, which YOLO sets have too."""
    write_mask_set(tmp_path)
    message = "a class for every pixel, no objects: detseg train segmenter .* their one class, alone, into classes.txt"
    with pytest.raises(AnnotationError, match=message):
        find_sources(tmp_path)
    (tmp_path / "labels").mkdir()
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            (tmp_path / f"labels/{split}{number}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert read_annotations(tmp_path, "train").names == ("soil", "daisy")  # YOLO's
    shutil.rmtree(tmp_path / "labels")
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").unlink()
    for name in ("images", "masks"):
        shutil.move(tmp_path / name, tmp_path / f"my {name}")
    with pytest.raises(AnnotationError, match=message):
        find_sources(tmp_path)
    (tmp_path / "classes.txt").write_text("flower\n")
    assert read_annotations(tmp_path).names == ("flower",)


def test_what_is_written_is_read_back(tmp_path):
    numbered = read_annotations(write_set(tmp_path / "from"), "train")
    write_dataset(numbered, tmp_path / "to", "train", to="instance-masks")
    write_dataset(numbered, tmp_path / "to", "val", to="instance-masks", images="copy")
    data = read_dataset(tmp_path / "to")
    assert list(data) == ["train", "val"]
    for part in data.values():
        assert part.names == numbered.names
        np.testing.assert_array_equal(part.boxes, numbered.boxes)
        np.testing.assert_array_equal(part.areas, numbered.areas)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "to/masks/train/train0.png")), NUMBERS)


def test_what_cannot_be_written(tmp_path):
    path = [str(write_picture(tmp_path / "a.png", 97, 61))]
    boxes = make([[0, 0, 5, 5]], sizes=[(97, 61)], paths=path)
    with pytest.raises(AnnotationError, match="objects of one class, and there are"):
        write_dataset(boxes, tmp_path / "to", to="instance-masks")
    numbered = read_annotations(write_set(tmp_path / "from"), "train")
    with pytest.raises(AnnotationError, match="3 objects have no polygons or masks"):
        write_dataset(replace(numbered, segments=None), tmp_path / "to", to="instance-masks")
    twice = replace(numbered, **numbered.take_objects(np.array([0, 0, 1])))
    with pytest.raises(AnnotationError, match="object 1 is covered by others"):
        write_dataset(twice, tmp_path / "to", to="instance-masks")


def test_damaged_masks_name_their_file(tmp_path):
    write_set(tmp_path)
    rng = np.random.default_rng(3)
    mask = tmp_path / "masks/train0.png"
    content = mask.read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(damaged), rng.integers(1, 6)):
            damaged[place] = rng.integers(0, 256)
        mask.write_bytes(bytes(damaged[: rng.integers(1, len(damaged) + 1)]))
        for problem in validate(read_annotations(tmp_path, "train")):
            assert str(tmp_path) in problem.file
