"""Pascal VOC's SegmentationObject/: each object gets the pixels of its number."""

import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from detseg.data.checks.validate import validate
from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_annotations, read_dataset, read_voc
from detseg.data.index_png import write_index_png
from tests.data.annotation_samples import write_picture
from tests.data.formats.test_voc import one, write_xml


@pytest.fixture
def voc(tmp_path):
    """As in VOC2012: a has masks with borders of 255, its objects overlap; b has boxes only."""
    numbers = np.zeros((48, 64), np.uint8)
    numbers[2:22, 2:32] = 255
    numbers[4:20, 4:30] = 1
    numbers[10:40, 20:50] = 255
    numbers[12:38, 22:48] = 2
    write_index_png(tmp_path / "SegmentationObject/a.png", numbers)
    write_xml(tmp_path / "Annotations/a.xml", one("rose", 3, 3, 32, 22), one("daisy", 21, 11, 50, 40, difficult=1))
    write_xml(tmp_path / "Annotations/b.xml", one("daisy", 11, 11, 30, 30))
    for seed, name in enumerate("ab"):
        write_picture(tmp_path / f"JPEGImages/{name}.jpg", seed=seed)
    for folder, split, names in (("Main", "train", "a\nb\n"), ("Main", "val", "b\n"), ("Segmentation", "train", "a\n")):
        (tmp_path / "ImageSets" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "ImageSets" / folder / f"{split}.txt").write_text(names)
    return tmp_path


def numbers_of(voc):
    return np.array(Image.open(voc / "SegmentationObject/a.png"))


def test_every_object_has_the_pixels_of_its_number(voc, caplog):
    data = read_dataset(voc)
    train = data["train"]
    assert train.drawn.tolist() == [True, True, False] and data["val"].segments is None
    assert train.iscrowd.tolist() == [False, True, False]
    sample = DetectionDataset(train, 64, masks=True)[0]
    for number, mask in enumerate(sample.masks, 1):
        np.testing.assert_array_equal(mask, numbers_of(voc) == number)
    assert "1 of 2 objects have no mask" in caplog.text
    assert validate(train) == []


@pytest.mark.parametrize("place", ["Annotations", "ImageSets/Segmentation/train.txt", "."])
def test_from_any_place_in_the_set(voc, place):
    if place == ".":
        shutil.rmtree(voc / "ImageSets")
    data = read_annotations(voc / place)
    assert data.drawn.tolist()[:2] == [True, True]
    assert len(data) == (1 if place.endswith("txt") else 2)


def test_numbers_count_all_objects_of_the_file(voc, caplog):
    """Those that are left out too; an <object> of two boxes has no mask of one of them."""
    two = one("rose", 3, 3, 32, 22).replace(
        "<part>", "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox><part>"
    )
    gone = "<object><name>rose</name><deleted>1</deleted></object>"
    write_xml(voc / "Annotations/a.xml", gone, one("daisy", 21, 11, 50, 40), one("daisy", 1, 1, 9, 9), two)
    with caplog.at_level(logging.WARNING):
        train = read_voc(voc, "train")
    assert train.drawn.tolist() == [True, False, False, False, False]
    np.testing.assert_array_equal(DetectionDataset(train, 64, masks=True)[0].masks[0], numbers_of(voc) == 2)
    assert "1 objects have no pixels in the mask files, they have boxes only; the first is" in caplog.text
    assert "a.xml: <object> 3 (daisy)" in caplog.text
    assert "1 mask files have numbers of no <object>, these are left out; the first is" in caplog.text
    assert "a.png: 1" in caplog.text


def test_masks_that_cannot_be_read_leave_the_boxes(voc, caplog):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(
        voc / "SegmentationObject/a.png"
    )
    train = read_voc(voc, "train")
    assert train.segments is None and len(train.ids) == 3
    assert "1 mask files are not read, their objects have boxes only; the first is" in caplog.text
    assert "image of colours" in caplog.text


def test_a_mask_of_another_size_is_a_problem_of_its_object(voc):
    write_index_png(voc / "SegmentationObject/a.png", np.ones((10, 10), np.uint8))
    problems = validate(read_voc(voc, "train"))
    assert any(problem.severity == "error" and "10 x 10" in problem.what for problem in problems), problems
