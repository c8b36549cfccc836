"""Usual names of folders and of masks: which mask belongs to which image, and what is said where none does."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detseg.data import read_mask_dataset, read_masks
from detseg.data.annotations import AnnotationError
from detseg.data.checks.validate import validate
from detseg.data.formats import find_mask_sources, has_mask_files
from tests.data.annotation_samples import write_picture
from tests.data.mask_samples import save_mask, write_mask_set

SPLITS = (("train", 0), ("train", 1), ("val", 2))


def mask_of(number):
    """A mask that tells which image it is of."""
    return np.array([[0] * 6, [0] * number + [1] * (6 - number)], np.uint8)


def write_set(folder, image, mask, lists="", classes="background\nrose\n"):
    for split, number in SPLITS:
        names = {"s": split, "i": f"{number:03}"}
        write_picture(folder / image.format(**names), 6, 2, number)
        save_mask(folder / mask.format(**names), mask_of(number))
        with (folder / f"{split}.txt").open("a") as file:
            file.write(f"{lists.format(**names)}\n" if lists else "")
        if not lists:
            (folder / f"{split}.txt").unlink()
    if classes:
        (folder / "classes.txt").write_text(classes)
    return folder


def check(data):
    """Every image has the mask that was made for it."""
    for split in ("train", "val"):
        numbers = [number for own, number in SPLITS if own == split]
        assert len(data[split]) == len(numbers)
        for index, number in enumerate(numbers):
            assert f"{number:03}" in data[split].paths[index]
            assert data[split].mask(index).tolist() == mask_of(number).tolist()
        assert not [problem for problem in validate(data[split]) if problem.severity == "error"]


@pytest.mark.parametrize(
    ("image", "mask", "lists"),
    [
        ("images/{i}.jpg", "masks/{i}_mask.png", "{i}"),
        ("images/{i}.jpg", "masks/{i}-mask.png", "{i}.jpg"),
        ("images/{i}.jpg", "masks/mask_{i}.png", "{i}"),
        ("images/{i}.jpg", "masks/{i}.jpg.png", "{i}"),
        ("images/{i}.jpg", "masks/{i}_seg.png", "{i}"),
        ("images/{i}.jpg", "masks/{i}_labels.png", "{i}"),
        ("images/{i}.jpg", "masks/{i}.gif", "{i}"),
        ("images/{i}.jpg", "masks/{i}.bmp", "{i}"),
        ("images/{i}.jpg", "masks/{i}.TIF", "{i}"),
        ("images/image_{i}.jpg", "masks/mask_{i}.png", "image_{i}"),
        ("Images/{i}.JPG", "Masks/{i}.PNG", "{i}"),
        ("image/{i}.jpg", "mask/{i}.png", "{i}"),
        ("imgs/{i}.jpg", "masks/{i}.png", "{i}"),
        ("images/{i}.jpg", "annotations/{i}.png", "{i}"),
        ("images/{i}.jpg", "labels/{i}.png", "{i}"),
        ("PNGImages/{i}.png", "PedMasks/{i}_mask.png", "{i}"),
        ("images/{i}.jpg", "images/{i}_mask.png", "{i}"),
        ("img_dir/{s}/{i}.jpg", "ann_dir/{s}/{i}.png", ""),
        ("images/{s}/{i}.jpg", "labels/{s}/{i}.png", ""),
        ("{s}/images/{i}.jpg", "{s}/annotations/{i}.png", ""),
        ("{s}/{i}.png", "{s}annot/{i}.png", ""),
        ("{s}/{i}.png", "{s}annot/{i}.png", "/SegNet/CamVid/{s}/{i}.png /SegNet/CamVid/{s}annot/{i}.png"),
        ("{s}/{i}.png", "{s}_labels/{i}_L.png", ""),
        ("{s}_images/{i}.jpg", "{s}_masks/{i}.png", ""),
        ("default/{i}.png", "defaultannot/{i}.png", "default/{i}.png defaultannot/{i}.png"),
        ("birds/{i}.jpg", "birds_masks/{i}.png", "{i}"),
        ("{s}/{i}_jpg.rf.4b7d.jpg", "{s}/{i}_jpg.rf.4b7d_mask.png", ""),
        ("{s}/{i}_sat.jpg", "{s}/{i}_mask.png", ""),
        (
            "leftImg8bit/{s}/bonn/bonn_{i}_leftImg8bit.png",
            "gtFine/{s}/bonn/bonn_{i}_gtFine_labelIds.png",
            "",
        ),
        ("imgsFine/leftImg8bit/{s}/{i}_leftImg8bit.png", "gtFine/{s}/{i}_gtFine_labelIds.png", ""),
    ],
)
def test_names_of_folders_and_files(tmp_path, image, mask, lists):
    check(read_mask_dataset(write_set(tmp_path, image, mask, lists)))
    assert has_mask_files(tmp_path)


def test_folders_are_named_by_options(tmp_path):
    write_set(tmp_path / "set", "fotos/{i}.jpg", "borders/{i}.png", "{i}")
    folder = tmp_path / "set"
    for masks in ("borders", str(folder / "borders")):
        for images in ("fotos", folder / "fotos"):
            check(read_mask_dataset(folder, masks=masks, images=images))
    shutil.move(folder / "fotos", tmp_path / "elsewhere")
    check(read_mask_dataset(folder, masks="borders", images=tmp_path / "elsewhere"))
    shutil.move(folder / "borders", folder / "masks")
    check(read_mask_dataset(folder, images=tmp_path / "elsewhere"))
    with pytest.raises(
        AnnotationError, match=r"no mask found for the images in .*elsewhere; looked for them in 'nope'"
    ):
        read_mask_dataset(folder, masks="nope", images=tmp_path / "elsewhere")
    for masks in ("masks", None):
        with pytest.raises(AnnotationError, match=r"^nowhere: the folder of images \(--images\) does not exist"):
            read_mask_dataset(folder, masks=masks, images="nowhere")


def test_folders_of_any_name_are_told_by_what_they_hold(tmp_path):
    write_set(tmp_path, "photographs/{i}.jpg", "borders/{i}.png")
    masks = read_masks(tmp_path)
    assert [masks.mask(i).tolist() for i in range(3)] == [mask_of(i).tolist() for i in range(3)]
    for name in ("000", "001", "002"):
        shutil.move(tmp_path / f"borders/{name}.png", tmp_path / f"borders/b{name}.png")
    with pytest.raises(AnnotationError, match=r"borders/ looks like masks and photographs/ like.*b000\.png.* 000\.jpg"):
        read_masks(tmp_path)


def test_class_folders_are_no_masks(tmp_path):
    for name in ("roses", "daisies"):
        for number in range(3):
            write_picture(tmp_path / f"{name}/{number}.jpg", seed=number)
    assert not has_mask_files(tmp_path)
    for number in range(3):
        save_mask(tmp_path / f"zero/{number}.png", mask_of(0))
        save_mask(tmp_path / f"one/{number}.png", mask_of(1))
    shutil.rmtree(tmp_path / "roses")
    shutil.rmtree(tmp_path / "daisies")
    assert not has_mask_files(tmp_path)


def test_labels_of_yolo_are_no_masks(tmp_path):
    write_picture(tmp_path / "images/a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert not has_mask_files(tmp_path)
    write_picture(tmp_path / "labels/a.jpg")  # a drawing of the boxes
    assert not has_mask_files(tmp_path)


def test_masks_that_fit_no_image(tmp_path):
    write_mask_set(tmp_path)
    for file in sorted((tmp_path / "masks").iterdir()):
        file.rename(file.with_stem(f"x{file.stem}"))
    message = r"not one image has a mask\. Looked for the mask of .*train0\.jpg as .*masks/train0\.png.*xtrain0\.png"
    with pytest.raises(AnnotationError, match=rf"{message}.*--masks and --images\. Tried: .*images with .*masks"):
        read_masks(tmp_path, "train")
    assert list(find_mask_sources(tmp_path)) == ["train", "val"]  # so that the message comes


def test_masks_without_an_image_and_images_without_a_mask(tmp_path):
    write_mask_set(tmp_path)
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").unlink()
    save_mask(tmp_path / "masks/spare.png", mask_of(0))
    (tmp_path / "masks/val0.png").unlink()
    warning, error = sorted(validate(read_masks(tmp_path)), key=lambda problem: problem.severity == "error")
    assert warning.what == f"1 masks belong to no image, the first is {tmp_path}/masks/spare.png"
    assert error.kind == "missing-mask" and error.file == str(tmp_path / "masks/val0.png")
    # What most masks have added is said of the one that is missing.
    for file in sorted((tmp_path / "masks").iterdir()):
        file.rename(file.with_stem(f"{file.stem}_mask"))
    masks = read_masks(tmp_path)
    assert str(tmp_path / "masks/val0_mask.png") in masks.mask_paths.tolist()


def test_the_name_itself_goes_before_longer_ones(tmp_path):
    for name, number in (("a", 0), ("a_mask", 1)):
        write_picture(tmp_path / f"images/{name}.jpg", 6, 2, number)
        save_mask(tmp_path / f"masks/{name}.png", mask_of(number))
    masks = read_masks(tmp_path)
    assert [Path(path).name for path in masks.paths.tolist()] == ["a.jpg", "a_mask.jpg"]
    assert [masks.mask(i).tolist() for i in range(2)] == [mask_of(0).tolist(), mask_of(1).tolist()]


def test_names_in_another_spelling_where_one_file_is_meant(tmp_path):
    spellings = (("IMG_1", "img_1"), ("gänse", "ga\u0308nse_mask"), ("a b", "a%20b"), ("x", "X_MASK"))
    for number, (image, mask) in enumerate(spellings):
        write_picture(tmp_path / f"images/{image}.JPG", 6, 2, number)
        save_mask(tmp_path / f"masks/{mask}.png", mask_of(number))
    masks = read_masks(tmp_path)
    order = [Path(path).stem for path in masks.paths.tolist()]
    for number, (image, _) in enumerate(spellings):
        assert masks.mask(order.index(image)).tolist() == mask_of(number).tolist()
    shutil.copy(tmp_path / "masks/img_1.png", tmp_path / "masks/Img_1.png")
    masks = read_masks(tmp_path)
    assert masks.mask_paths[order.index("IMG_1")] == str(tmp_path / "masks/IMG_1.png")  # either: told as missing


def test_cityscapes_classes_and_files(tmp_path):
    write_set(
        *(tmp_path, "leftImg8bit/{s}/b/b_{i}_leftImg8bit.png", "gtFine/{s}/b/b_{i}_gtFine_labelIds.png"), classes=None
    )
    for split, number in SPLITS:
        for kind in ("color", "instanceIds"):
            Image.new("RGB", (6, 2)).save(tmp_path / f"gtFine/{split}/b/b_{number:03}_gtFine_{kind}.png")
        save_mask(tmp_path / f"gtFine/{split}/b/b_{number:03}_gtFine_labelIds.png", mask_of(number) * 26)
    train = read_mask_dataset(tmp_path)["train"]
    assert len(train.categories) == 19 and train.names[0] == "road" and train.names[18] == "bicycle"
    assert train.mask(0).tolist() == [[255] * 6, [13] * 6] and train.names[13] == "car"


def test_roboflow_lists_its_classes_in_the_splits(tmp_path):
    write_set(tmp_path, "{s}/{i}.jpg", "{s}/{i}_mask.png", classes=None)
    for split in ("train", "val"):
        (tmp_path / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, rose\n")
    data = read_mask_dataset(tmp_path)
    check(data)
    assert data["val"].names == ("background", "rose")


def test_lists_in_other_spellings(tmp_path):
    """CVAT calls the lists as the subsets of a project."""
    write_set(tmp_path, "JPEGImages/{i}.jpg", "SegmentationClass/{i}.png", "{i}")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    for split, name in (("train", "Train.txt"), ("val", "Validation.txt")):
        (tmp_path / f"{split}.txt").rename(tmp_path / "ImageSets/Segmentation" / name)
    check(read_mask_dataset(tmp_path))


def test_hidden_files_are_no_masks(tmp_path):
    """The trimaps of the Oxford pets came from a Mac."""
    write_set(tmp_path, "images/{i}.jpg", "masks/{i}.png", "{i}")
    (tmp_path / "masks/._000.png").write_bytes(b"x")
    (tmp_path / "train.txt").unlink()
    (tmp_path / "val.txt").unlink()
    data = read_masks(tmp_path)
    assert len(data) == 3 and validate(data) == []


def test_what_cityscapes_has_beside_its_masks_is_not_told(tmp_path):
    write_set(tmp_path, "leftImg8bit/{s}/{i}_leftImg8bit.png", "gtFine/{s}/{i}_gtFine_labelIds.png", classes="")
    for kind in ("color", "instanceIds"):
        save_mask(tmp_path / f"gtFine/train/000_gtFine_{kind}.png", mask_of(1))
    for split in find_mask_sources(tmp_path).values():
        assert split().read_problems == ()
