"""Classes in the names of files, and in idx files of MNIST."""

import gzip
import json
import logging

import numpy as np
import pytest

from detseg.cli import main
from detseg.data import read_labelled_dataset, read_labels, validate
from detseg.data.annotations import AnnotationError
from detseg.data.cache import images_of
from detseg.data.formats import NotRecognisedError
from detseg.data.formats.named_files import _class_of
from detseg.data.pack.idx import IdxImages, read_idx
from tests.data.annotation_samples import write_picture


def test_the_class_in_a_name():
    assert [_class_of(n) for n in ("dog.123", "Abyssinian_7", "rose (12)", "British Shorthair-004", "42", "cat")] == [
        "dog", "Abyssinian", "rose", "British Shorthair", None, None,
    ]  # fmt: skip


def test_named_files(tmp_path, caplog):
    for seed, name in enumerate(("dog.0", "cat.10", "dog.7", "cat.2")):
        write_picture(tmp_path / "set" / f"{name}.jpg", seed=seed)
    with caplog.at_level(logging.WARNING):
        data = read_labels(tmp_path / "set")
    assert data.names == ("cat", "dog") and data.labels.tolist() == [0, 0, 1, 1]
    assert "taken from the names of the files: cat (2), dog (2)" in caplog.text
    assert validate(data) == []


def test_names_that_are_just_names(tmp_path):
    for folder, names in (
        ("cameras", ("IMG_1", "DSC_2")),  # one image each
        ("splits", ("train_1", "train_2", "val_1", "val_2")),
        ("one", ("rose_1", "rose_2")),
        ("some", ("rose_1", "rose_2", "tulip_1", "tulip_2", "meadow")),
    ):
        for seed, name in enumerate(names):
            write_picture(tmp_path / folder / f"{name}.png", seed=seed)
        with pytest.raises(NotRecognisedError, match=r"named files: .*dog\.123\.jpg"):
            read_labels(tmp_path / folder)
    for seed, name in enumerate(("a_1", "a_2", "b_1", "b_2")):
        write_picture(tmp_path / "coco" / f"{name}.png", seed=seed)
    images = [{"id": 1, "file_name": "a_1.png", "width": 64, "height": 48}]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    (tmp_path / "coco/x.json").write_text(
        json.dumps({"images": images, "annotations": [box], "categories": [{"id": 1, "name": "rose"}]})
    )
    with pytest.raises(AnnotationError, match="holds images with boxes"):
        read_labels(tmp_path / "coco")


# ------------------------------------------------------------------ MNIST


def write_idx(path, values, zipped=False):
    values = np.asarray(values, np.uint8)
    content = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def digits(count, seed=0):
    """Images of bright bars at the place of their number, and the numbers."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 60, (count, 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4:24, 4 + 8 * label : 9 + 8 * label] = 230
    return images, labels


def write_mnist(folder, train=24, test=9, zipped=False):
    for split, count, seed in (("train", train, 0), ("t10k", test, 1)):
        images, labels = digits(count, seed)
        end = ".gz" if zipped else ""
        write_idx(folder / f"{split}-images-idx3-ubyte{end}", images, zipped)
        write_idx(folder / f"{split}-labels-idx1-ubyte{end}", labels, zipped)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_files(tmp_path, zipped):
    data = read_labelled_dataset(write_mnist(tmp_path / "raw", zipped=zipped))
    assert list(data) == ["train", "val", "test"]
    assert {split: len(part) for split, part in data.items()} == {"train": 20, "val": 4, "test": 9}
    images, labels = digits(9, seed=1)
    test = data["test"]
    assert test.names == ("0", "1", "2") and test.labels.tolist() == labels.tolist()
    assert test.sizes.tolist() == [[28, 28]] * 9
    kept = images_of(test.subset([4, 0]), 28)
    assert isinstance(kept, IdxImages) and len(kept) == 2
    np.testing.assert_array_equal(kept[0], np.repeat(images[4][:, :, None], 3, 2))
    assert validate(test, other=data["train"]) == []
    assert list(read_labelled_dataset(tmp_path)) == ["train", "val", "test"], "raw/ one below is found"
    doubled = test.subset([0, 0])
    assert [p.kind for p in validate(doubled)] != []


def test_damaged_mnist_files(tmp_path):
    folder = write_mnist(tmp_path)
    file = folder / "train-images-idx3-ubyte"
    good = file.read_bytes()
    for bad, message in (
        (good[:-1], "should hold 24 x 28 x 28 numbers and has 18815: cut short"),
        (b"\0\0\x0d\x03" + good[4:], "numbers of type 0x0d"),
        (b"", "is no idx file"),
        (good[:9], "is no idx file"),
        (gzip.compress(good)[:-30], "cannot be read"),
        (b"\0\0\x08\x01" + np.array([3], ">u4").tobytes() + b"abc", "holds an array"),
    ):
        file.write_bytes(bad)
        with pytest.raises(AnnotationError, match=message) as error:
            read_labelled_dataset(folder)
        assert str(file) in str(error.value)
    file.write_bytes(good)
    write_idx(folder / "train-labels-idx1-ubyte", [1, 2])
    with pytest.raises(AnnotationError, match="has 24 images and its labels have the shape"):
        read_labelled_dataset(folder)
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(AnnotationError, match="its labels, train-labels-idx1-ubyte, are missing"):
        read_labelled_dataset(folder)
    assert read_idx(folder / "t10k-labels-idx1-ubyte").tolist() == digits(9)[1].tolist()


@pytest.mark.slow
def test_a_classifier_learns_from_mnist_files(tmp_path, capsys):
    folder = write_mnist(tmp_path / "digits", train=60, test=9)
    words = "--backbone lenet5 --weights none --size 32 --epochs 1 --flip none --precision fp32 --augment none"
    run = tmp_path / "run"
    assert main(["train", "classifier", "--data", str(folder), "--output", str(run), *words.split()]) == 0
    assert main(["evaluate", "--predictions", str(run), "--split", "test"]) == 0
    assert "images: 9, classes: 3; always answering 0 would have an accuracy of 0.333" in " ".join(
        capsys.readouterr().out.split()
    )
