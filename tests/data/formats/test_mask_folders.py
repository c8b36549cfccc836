"""Which form of masks a path holds, and what is read from each."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg.data import read_mask_dataset, read_masks
from detseg.data.annotations import AnnotationError, Category
from detseg.data.checks.validate import validate
from detseg.data.formats import has_mask_files
from detseg.data.formats.class_list import VOC_NAMES, read_class_list
from detseg.data.images import read_image
from tests.data.annotation_samples import coco_content, write_coco_dataset, write_json, write_picture
from tests.data.mask_samples import blobs, save_mask, write_mask_set


def names_of(masks):
    return [path.rpartition("/")[2] for path in masks.paths.tolist()]


def move(folder, old, new):
    (folder / new).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder / old, folder / new)


def test_a_mask_folder_with_lists(tmp_path):
    write_mask_set(tmp_path)
    data = read_mask_dataset(tmp_path)
    train = data["train"]
    assert names_of(train) == ["train0.jpg", "train1.jpg", "train2.jpg"]
    assert names_of(data["val"]) == ["val0.jpg", "val1.jpg"]
    assert train.categories == (Category(0, "soil"), Category(1, "daisy"))
    assert train.image_ids.tolist() == [1, 2, 3]
    assert train.sizes.tolist() == [[40, 32], [48, 32], [56, 32]]
    for i in range(3):
        np.testing.assert_array_equal(train.mask(i), blobs(40 + 8 * i, 32, 2, i))
        assert read_image(train.paths[i]).shape[:2] == train.mask(i).shape
    assert validate(train, other=data["val"]) == []


def test_one_split_and_its_list(tmp_path):
    write_mask_set(tmp_path)
    assert names_of(read_masks(tmp_path, "val")) == ["val0.jpg", "val1.jpg"]
    assert names_of(read_masks(tmp_path / "val.txt")) == ["val0.jpg", "val1.jpg"]
    (tmp_path / "few.txt").write_text("train2\n")
    assert names_of(read_masks(tmp_path / "few.txt", "train")) == ["train2.jpg"]
    with pytest.raises(AnnotationError, match=r"splits train, val; choose one with split="):
        read_masks(tmp_path)
    with pytest.raises(AnnotationError, match="no split 'test'; found: train, val"):
        read_masks(tmp_path, "test")


def test_forms_of_the_lines_of_a_list(tmp_path):
    write_mask_set(tmp_path)
    move(tmp_path, "images/val1.jpg", "images/far/val1.jpg")
    move(tmp_path, "masks/val1.png", "masks/far/val1.png")
    lines = [
        "train0",
        "train1.jpg",
        "images/train2.jpg",
        "./images/val0.jpg",
        "far\\val1",
        "val1.JPG",
        "lost",
        "lost.png",
    ]
    (tmp_path / "train.txt").write_text("\ufeff" + "\r\n".join(lines) + "\n\n", encoding="utf-8")
    train = read_masks(tmp_path, "train")
    images = [path.removeprefix(f"{tmp_path}/") for path in train.paths.tolist()]
    assert images[:5] == [f"images/{n}.jpg" for n in ("train0", "train1", "train2", "val0", "far/val1")]
    assert images[5:] == ["images/far/val1.jpg", "images/lost.jpg", "images/lost.png"]
    masks = [path.removeprefix(f"{tmp_path}/masks/") for path in train.mask_paths.tolist()]
    assert masks == [f"{n}.png" for n in ("train0", "train1", "train2", "val0", "far/val1", "far/val1", "lost", "lost")]


def test_splits_as_folders(tmp_path):
    for form in ("{part}/{split}", "{split}/{part}"):
        for val in ("val", "valid"):
            read_splits_as_folders(tmp_path / form[1:6] / val, form, val)


def read_splits_as_folders(tmp_path, form, val):
    write_mask_set(tmp_path / "from")
    for split, count in (("train", 3), ("val", 2)):
        for i in range(count):
            for part, end in (("images", "jpg"), ("masks", "png")):
                target = form.format(part=part, split=val if split == "val" else split)
                move(tmp_path, f"from/{part}/{split}{i}.{end}", f"to/{target}/{split}{i}.{end}")
    move(tmp_path, "from/classes.txt", "to/classes.txt")
    data = read_mask_dataset(tmp_path / "to")
    assert names_of(data["train"]) == ["train0.jpg", "train1.jpg", "train2.jpg"]
    assert names_of(data["val"]) == ["val0.jpg", "val1.jpg"]
    assert all(not validate(masks) for masks in data.values())


def test_without_splits_everything_is_one(tmp_path):
    write_mask_set(tmp_path)
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").unlink()
    assert len(read_masks(tmp_path)) == 5
    with pytest.raises(AnnotationError, match="no split 'train' and 'val'; found: masks without splits"):
        read_mask_dataset(tmp_path)


def test_another_folder_of_masks_has_its_own_list_of_classes(tmp_path):
    write_mask_set(tmp_path)
    shutil.copytree(tmp_path / "masks", tmp_path / "masks_species")
    (tmp_path / "classes_species.txt").write_text("0 grass\n1 rose\n")
    assert read_masks(tmp_path, "train", masks="masks_species").names == ("grass", "rose")
    assert read_masks(tmp_path, "train").names == ("soil", "daisy")
    (tmp_path / "classes_species.txt").unlink()
    (tmp_path / "masks_species/classes.txt").write_text("a\nb\n")
    assert read_masks(tmp_path, "train", masks="masks_species").names == ("soil", "daisy")
    (tmp_path / "classes.txt").unlink()
    assert read_masks(tmp_path, "train", masks="masks_species").names == ("a", "b")
    there = "the folders there are: images, masks, masks_species"
    with pytest.raises(AnnotationError, match=f"no images/ with a folder 'masks_genus' of masks.*{there}"):
        read_masks(tmp_path, "train", masks="masks_genus")
    with pytest.raises(AnnotationError, match=rf"train\.txt: .*'other' of masks.*{there}"):
        read_masks(tmp_path / "train.txt", masks="other")


def test_pngs_go_before_other_images_of_a_mask(tmp_path):
    write_mask_set(tmp_path)
    for end in ("jpg", "bmp", "tif"):
        write_picture(tmp_path / f"masks/train0.{end}")
    shutil.move(tmp_path / "masks/train1.png", tmp_path / "masks/train1.PNG")
    train = read_masks(tmp_path, "train")
    assert [path.rpartition("/")[2] for path in train.mask_paths[:2].tolist()] == ["train0.png", "train1.PNG"]


# -- lists of classes ----------------------------------------------------------------------------------


def test_lists_of_classes(tmp_path):
    for text, categories, ignored in (
        ("soil\ndaisy\n", [(0, "soil"), (1, "daisy")], [255]),
        ("\ufeff soil \n\n  water lily\n", [(0, "soil"), (1, "water lily")], [255]),
        ("0 soil\n7 water lily\n3: rose\n", [(0, "soil"), (7, "water lily"), (3, "rose")], [255]),
        ("0 soil\n1 daisy\n255 ignore\n", [(0, "soil"), (1, "daisy")], [255]),
        ("0 Ignore\n1 soil\n2,daisy\n9 void", [(1, "soil"), (2, "daisy")], [0, 9, 255]),
        ("0 soil\n255 daisy\n", [(0, "soil"), (255, "daisy")], []),
        ("__ignore__\n_background_\nrose\n", [(0, "_background_"), (1, "rose")], [255]),
        ("soil\n2 lips\n", [(0, "soil"), (1, "2 lips")], [255]),
    ):
        (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
        found = read_class_list(tmp_path / "classes.txt")
        assert (list(found.categories), list(found.ignore_values)) == (categories, ignored), text


def test_lists_that_cannot_be(tmp_path):
    for text, words in (
        ("", "lists no class"),
        ("255 ignore", "lists no class"),
        ("0 soil\n0 rose", "gives the value 0 twice"),
        ("soil\nrose\nsoil", "gives the name soil twice"),
        ("0 soil\n70000 rose", "70000 does not fit"),
    ):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(AnnotationError, match=f"classes.txt: .*{words}"):
            read_class_list(tmp_path / "classes.txt")


def test_binary_masks_need_no_list(tmp_path):
    write_picture(tmp_path / "images/a.png", 3, 1)
    for values, labels, ids in (
        ([0, 1, 255], [0, 1, 255], [0, 1]),
        ([0, 1, 1], [0, 1, 1], [0, 1]),
        ([0, 255, 255], [0, 1, 1], [0, 255]),
        ([0, 0, 0], [0, 0, 0], [0, 1]),
    ):
        save_mask(tmp_path / "masks/a.png", np.array([values], np.uint8))
        masks = read_masks(tmp_path)
        assert masks.names == ("background", "foreground")
        assert [category.id for category in masks.categories] == ids, values
        assert masks.mask(0).tolist() == [labels]


def test_all_splits_decide_about_classes_without_a_list(tmp_path):
    write_mask_set(tmp_path)
    (tmp_path / "classes.txt").unlink()
    for i, value in enumerate((0, 0, 255)):
        save_mask(tmp_path / f"masks/train{i}.png", np.full((32, 40 + 8 * i), value, np.uint8))
    (tmp_path / "masks/val1.png").write_text("broken")
    # The validation mask has a 1, so 255 is "ignore" in training too.
    assert [c.id for c in read_masks(tmp_path, "train").categories] == [0, 1]


def test_other_values_need_a_list(tmp_path):
    write_mask_set(tmp_path)
    (tmp_path / "classes.txt").unlink()
    save_mask(tmp_path / "masks/val0.png", np.array([[0, 5, 9]], np.uint8))
    with pytest.raises(AnnotationError, match=r"hold the values 0, 1, 5, 9, 255, and no file.*Write classes\.txt with"):
        read_mask_dataset(tmp_path)
    shutil.copytree(tmp_path / "masks", tmp_path / "masks_kind")
    with pytest.raises(AnnotationError, match=r"Write classes_kind\.txt with"):
        read_mask_dataset(tmp_path, masks="masks_kind")


def test_the_value_to_ignore(tmp_path):
    write_picture(tmp_path / "images/a.png", 3, 1)
    save_mask(tmp_path / "masks/a.png", np.array([[7, 8, 9]], np.uint8))
    (tmp_path / "classes.txt").write_text("8 soil\n9 rose")
    assert read_masks(tmp_path, ignore_value=7).mask(0).tolist() == [[255, 0, 1]]
    with pytest.raises(AnnotationError, match=r"classes\.txt: ignore_value=8 is the class 'soil'"):
        read_masks(tmp_path, ignore_value=8)


# -- VOC -----------------------------------------------------------------------------------------------


def write_voc_masks(folder, lists=True):
    """Two images with masks (palette PNGs) and one without, as detection's images are."""
    for i, name in enumerate(("2007_000001", "2007_000002", "2007_000003")):
        write_picture(folder / f"JPEGImages/{name}.jpg", 30, 20 + i)
    for i, split in enumerate(("train", "val")):
        mask = np.zeros((20 + i, 30), np.uint8)
        mask[5:10, 5:15], mask[4:11, 4] = 20 - i, 255
        image = Image.fromarray(mask)
        image.putpalette([v % 256 for v in range(0, 768 * 5, 5)])
        path = folder / f"SegmentationClass/2007_00000{i + 1}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
        if lists:
            (folder / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
            (folder / f"ImageSets/Segmentation/{split}.txt").write_text(f"2007_00000{i + 1}\n")
    return folder


def test_voc(tmp_path):
    data = read_mask_dataset(write_voc_masks(tmp_path))
    assert data["train"].names == data["val"].names == VOC_NAMES
    assert len(VOC_NAMES) == 21 and VOC_NAMES[15] == "person" and list(VOC_NAMES[1:]) == sorted(VOC_NAMES[1:])
    assert names_of(data["val"]) == ["2007_000002.jpg"]
    assert np.unique(data["val"].mask(0)).tolist() == [0, 19, 255]
    assert data["val"].mask(0)[7, 7] == 19
    assert [p.kind for p in validate(data["val"])] == ["absent-class"]
    (tmp_path / "ImageSets/Segmentation/trainval.txt").write_text("2007_000001\n2007_000002\n")
    assert len(read_masks(tmp_path / "ImageSets/Segmentation/trainval.txt")) == 2


def test_voc_with_classes_of_its_own(tmp_path):
    write_voc_masks(tmp_path)
    (tmp_path / "labels.txt").write_text("\n".join(f"kind {i}" for i in range(20)))
    data = read_mask_dataset(tmp_path)
    assert data["train"].names[19] == "kind 19"
    assert data["val"].mask(0)[7, 7] == 19
    (problem,) = (p for p in validate(data["train"]) if p.severity == "error")
    assert problem.what == "values that are no class: 20 (50 pixels)"


def test_another_folder_of_masks_in_vocs_form(tmp_path):
    write_voc_masks(tmp_path)
    shutil.copytree(tmp_path / "SegmentationClass", tmp_path / "SegmentationClassAug")
    file = tmp_path / "ImageSets/Segmentation/val.txt"
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        asked = None if folder == "SegmentationClass" else folder
        found = [*read_mask_dataset(tmp_path, masks=asked).values(), read_masks(file, masks=asked)]
        assert {Path(str(path)).parent.name for masks in found for path in masks.mask_paths} == {folder}
        assert all(masks.names == VOC_NAMES for masks in found)
    for path in (tmp_path, file):
        assert has_mask_files(path, "SegmentationClassAug") and not has_mask_files(path, "nonsense")
        with pytest.raises(AnnotationError, match=r"no JPEGImages/ with a folder 'nonsense' .* SegmentationClassAug$"):
            read_masks(path, "val", masks="nonsense")
    shutil.rmtree(tmp_path / "SegmentationClass")
    assert len(read_masks(tmp_path, "val", masks="SegmentationClassAug")) == 1


def test_voc_without_lists(tmp_path):
    masks = read_masks(write_voc_masks(tmp_path, lists=False))
    assert names_of(masks) == ["2007_000001.jpg", "2007_000002.jpg"]


# -- outlines, and what is neither ---------------------------------------------------------------------


def test_coco_files_and_folders(tmp_path):
    file = write_coco_dataset(tmp_path)
    masks = read_masks(file)
    assert masks.names == ("background", "rose", "daisy", "water lily")
    assert masks.mask(0)[34, 12] == 3
    val = coco_content()
    val["categories"] = val["categories"][::-1]
    write_json(tmp_path / "val.json", val)
    data = read_mask_dataset(tmp_path)
    assert data["val"].names == masks.names
    for i in range(4):
        np.testing.assert_array_equal(data["val"].mask(i), masks.mask(i))
    for path in (file, tmp_path):
        with pytest.raises(AnnotationError, match="are drawn from polygons, in which no value stands for ignored"):
            read_masks(path, "train", ignore_value=0)


def test_mask_folders_go_before_outlines(tmp_path):
    write_mask_set(tmp_path)
    write_json(tmp_path / "train.json", coco_content())
    assert read_masks(tmp_path, "train").names == ("soil", "daisy")


def test_nothing_readable(tmp_path):
    with pytest.raises(
        AnnotationError, match=r"no masks recognised\. Looked for:\n  mask folders: images/ with masks/"
    ):
        read_masks(tmp_path)
    with pytest.raises(AnnotationError, match="does not exist"):
        read_masks(tmp_path / "nowhere")
    content = coco_content()
    for item in content["annotations"]:
        item.pop("segmentation", None)
    with pytest.raises(AnnotationError, match="boxes but no polygons"):
        read_masks(write_json(tmp_path / "boxes.json", content))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(AnnotationError, match=r"bad\.json: line 1"):
        read_masks(tmp_path / "bad.json")


def test_the_real_set(flowers_seg):
    for masks, classes, labels in ((None, 2, {0, 1, 255}), ("masks_species", 18, {0, 1, 255})):
        data = read_mask_dataset(flowers_seg, masks=masks)
        assert (len(data["train"]), len(data["val"])) == (584, 85)
        assert len(data["train"].categories) == classes
        assert data["train"].categories == data["val"].categories
        assert set(np.unique(data["train"].mask(0))) <= labels
        errors = [p for p in validate(data["val"], other=data["train"]) if p.severity == "error"]
        assert errors == []


def test_a_line_with_a_folder_means_that_folder(tmp_path):
    write_mask_set(tmp_path)
    for name in ("a", "c"):
        (tmp_path / f"images/{name}").mkdir()
        shutil.copy(tmp_path / "images/val1.jpg", tmp_path / f"images/{name}/001.jpg")
    (tmp_path / "train.txt").write_text(f"b/001.jpg\nc/001\n{tmp_path}/images/a/001.jpg\n001\n")
    found = [path.removeprefix(f"{tmp_path}/images/") for path in read_masks(tmp_path, "train").paths.tolist()]
    assert found == ["b/001.jpg", "c/001.jpg", "a/001.jpg", "001.jpg"]  # the first and last are not there: told later
