"""What is found wrong with sets of masks, and what is repaired."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from detseg.data import raise_on_problems, read_mask_dataset, read_masks
from detseg.data.annotations import AnnotationError, Category
from detseg.data.checks.validate import repair, validate
from detseg.data.formats import read_coco
from detseg.data.masks import SemanticMasks
from tests.data.annotation_samples import coco_content, write_coco_dataset, write_json, write_picture
from tests.data.mask_samples import save_mask, write_mask_set, write_turned_image


@pytest.fixture
def folder(tmp_path):
    return write_mask_set(tmp_path, classes=("soil", "daisy", "rose"))


def kinds(problems):
    return [(problem.kind, problem.severity, problem.image[-10:]) for problem in problems]


def cut(path):
    path.write_bytes(path.read_bytes()[:-60])


@pytest.mark.parametrize(
    ("spoil", "kind", "words", "repairable"),
    [
        (lambda p, m: m.unlink(), "missing-mask", "does not exist", True),
        (lambda p, m: m.write_text("no mask"), "damaged-mask", "cannot be read", True),
        (lambda p, m: p.unlink(), "missing-image", "the image does not exist", True),
        (lambda p, m: cut(p), "damaged-image", "cut short", True),
        (lambda p, m: save_mask(m, np.zeros((9, 48), np.uint8)), "mask-size-differs", "is 48 x 9 pixels", False),
        (lambda p, m: save_mask(m, np.full((32, 48), 7, np.uint8)), "mask-values", r"7 \(1536 pixels\)", False),
        (lambda p, m: write_picture(m, 48, 32), "colour-mask", "colours .RGB.*write_index_png", False),
        (lambda p, m: write_picture(m, 48, 32, format="JPEG"), "lossy-mask", "JPEG", False),
    ],
)
def test_what_makes_an_image_unusable(folder, spoil, kind, words, repairable):
    spoil(folder / "images/train1.jpg", folder / "masks/train1.png")
    masks = read_masks(folder, "train")
    (problem,) = validate(masks)
    assert kinds([problem]) == [(kind, "error", "train1.jpg")]
    assert (problem.file, problem.image_index) == (str(folder / "masks/train1.png"), 1)
    assert problem.repairable == repairable
    with pytest.raises(AnnotationError, match=words):
        raise_on_problems([problem])
    repaired, done = repair(masks, [problem])
    if repairable:
        assert [path[-10:] for path in repaired.paths.tolist()] == ["train0.jpg", "train2.jpg"]
        assert len(done) == 1 and done[0].startswith("left out 1") and "train1.jpg" in done[0]
        assert validate(repaired) == []
    else:
        assert (repaired, done) == (masks, [])
    assert validate(masks, check_images=False) == [], "no file is opened"


def test_a_mask_drawn_on_the_unturned_image(folder):
    write_turned_image(folder / "images/train0.jpg", (40, 32), 6)
    (problem,) = validate(read_masks(folder, "train"))
    assert problem.what == (
        "the mask is 40 x 32 pixels, its image 32 x 40 once turned upright (EXIF orientation 6): drawn on the "
        "unturned pixels"
    )
    assert problem.remedy == "turn the mask as viewers turn the image, or remove the image's EXIF tag"
    turned = np.rot90(np.asarray(Image.open(folder / "masks/train0.png")), -1)
    save_mask(folder / "masks/train0.png", np.ascontiguousarray(turned))
    assert validate(read_masks(folder, "train")) == []


def test_images_in_both_splits(folder):
    (folder / "val.txt").write_text("val0\ntrain2\nval1\n")
    data = read_mask_dataset(folder)
    problems = validate(data["val"], other=data["train"])
    assert kinds(problems) == [("in-both-splits", "error", "train2.jpg")]
    assert validate(data["val"], check_images=False, other=data["train"]) == problems
    repaired, done = repair(data["val"], problems)
    assert [p[-8:] for p in repaired.paths.tolist()] == ["val0.jpg", "val1.jpg"]
    assert "the other split" in done[0]


def test_equal_images_under_other_names(folder):
    (folder / "images/val1.jpg").write_bytes((folder / "images/train1.jpg").read_bytes())
    data = read_mask_dataset(folder)
    (problem,) = validate(data["val"], other=data["train"])
    assert problem.kind == "in-both-splits" and "as " in problem.what
    assert validate(data["val"], check_images=False, other=data["train"]) == []


def test_an_image_listed_twice(folder):
    (folder / "train.txt").write_text("train0\ntrain1\ntrain0.jpg\n")
    masks = read_masks(folder, "train")
    problems = validate(masks, check_images=False)
    assert kinds(problems) == [("duplicate-path", "error", "train0.jpg")]
    assert len(repair(masks, problems)[0]) == 2


def test_many_problems_at_once_and_errors_first(folder):
    (folder / "masks/train0.png").unlink()
    (folder / "images/train1.jpg").unlink()
    save_mask(folder / "masks/train2.png", np.zeros((32, 56), np.uint8))
    problems = validate(read_masks(folder, "train"))
    # The mask of the missing image is looked at all the same, and has classes 1 and 2.
    assert kinds(problems) == [("missing-image", "error", "train1.jpg"), ("missing-mask", "error", "train0.jpg")]
    repaired, done = repair(read_masks(folder, "train"), problems)
    assert len(repaired) == 1 and len(done) == 2
    assert [p.kind for p in validate(repaired)] == ["absent-class"]


def test_classes_without_a_pixel(folder):
    for name, width in (("val0", 40), ("val1", 48)):
        save_mask(folder / f"masks/{name}.png", np.full((32, width), 2, np.uint8))
    (problem,) = validate(read_masks(folder, "val"))
    assert (problem.kind, problem.severity) == ("absent-class", "warning")
    assert problem.what == "no pixel of 2 of the 3 classes (soil, daisy) in 2 images"
    assert "nothing is learnt or measured" in problem.remedy


def test_255_that_may_be_a_class(folder):
    (folder / "classes.txt").write_text("soil\ndaisy\n")
    for name, width in (("val0", 40), ("val1", 48)):
        mask = np.zeros((32, width), np.uint8)
        mask[:9] = 255
        save_mask(folder / f"masks/{name}.png", mask)
    (problem,) = validate(read_masks(folder, "val"))
    assert problem.remedy == "value 255 is taken as 'ignore'; if it is a class, give it a line in the list of classes"
    (folder / "classes.txt").write_text("0 soil\n255 daisy\n")
    assert validate(read_masks(folder, "val")) == []


def test_an_empty_list_and_a_repeated_name(folder):
    (folder / "train.txt").write_text("\n")
    assert kinds(validate(read_masks(folder, "train"))) == [("empty", "warning", "")]
    masks = read_masks(folder, "val")
    doubled = replace(masks, categories=(*masks.categories, Category(7, "rose")))
    assert [p.what for p in validate(doubled, check_images=False)] == ["2 classes are named 'rose'"]


# -- masks drawn from polygons -------------------------------------------------------------------------


def test_polygons_are_checked_as_annotations_are(tmp_path):
    masks = SemanticMasks.from_annotations(read_coco(write_coco_dataset(tmp_path)))
    problems = validate(masks)
    assert {(p.kind, p.severity) for p in problems} == {("no-polygon", "warning"), ("absent-class", "warning")}
    texts = {p.kind: p.what for p in problems}
    assert texts["no-polygon"].startswith("2 of 4 objects have no polygon: their boxes are ignored")
    assert texts["absent-class"] == "no pixel of 2 of the 4 classes (rose, daisy) in 4 images"


def test_a_background_of_the_file_needs_no_object(tmp_path):
    content = coco_content()
    content["categories"] = [{"id": 1, "name": "background"}, {"id": 90, "name": "water lily"}]
    content["annotations"] = [item for item in content["annotations"] if item["category_id"] == 90]
    write_coco_dataset(tmp_path)
    masks = read_masks(write_json(tmp_path / "train.json", content))
    assert masks.names == ("background", "water lily")
    assert validate(masks) == []


def test_polygons_are_repaired_as_annotations_are(tmp_path):
    content = coco_content()
    content["annotations"][1]["category_id"] = 55
    write_coco_dataset(tmp_path)
    masks = SemanticMasks.from_annotations(read_coco(write_json(tmp_path / "train.json", content)))
    (tmp_path / "images/c.jpg").unlink()
    problems = validate(masks, other=masks.subset([2]))
    errors = {p.kind for p in problems if p.severity == "error"}
    assert errors == {"unknown-category", "missing-image", "in-both-splits"}
    repaired, done = repair(masks, problems)
    assert [p[-5:] for p in repaired.paths.tolist()] == ["b.jpg", "a.jpg"]
    assert len(repaired) == len(repaired.objects) == len(repaired.sizes) == 2
    assert not repaired.mask(0).any() and len(done) == 3
    assert [p.kind for p in validate(repaired) if p.severity == "error"] == []
