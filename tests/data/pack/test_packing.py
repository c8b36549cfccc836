"""Packed data sets: what is read is what was packed, and what others wrote is not trusted."""

import multiprocessing
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch

from detseg.data.annotations import AnnotationError
from detseg.data.cache import ImageCache, MaskCache
from detseg.data.checks.validate import validate
from detseg.data.dataset import ClassificationDataset, DetectionDataset, collate_labels
from detseg.data.formats import read_annotations, read_dataset, read_label_splits, read_labelled_dataset, read_labels
from detseg.data.images import read_image
from detseg.data.masks import SemanticMasks
from detseg.data.pack.datasets import write_pack
from detseg.data.pack.file import read_pack_info
from detseg.data.pack.reader import PackedImages, PackedMasks
from detseg.data.polygons import SegmentsBuilder
from detseg.flowers.dataset import write_flowers
from tests.data.annotation_samples import write_picture

SIZE = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders with images of several shapes, one of them thin."""
    root = tmp_path_factory.mktemp("classes")
    for split, count in (("train", 5), ("val", 2)):
        for number, name in enumerate(("daisy", "rose", "water lily")):
            for i in range(count):
                sides = ((64, 48), (30, 60), (50, 50), (200, 3), (7, 5))[i % 5]
                write_picture(root / split / name / f"{i}.png", *sides, seed=100 * number + i + 50 * (split == "val"))
    return root


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "set.h5"
    write_pack(path, read_labelled_dataset(folder), SIZE, chunk=4)
    return path


@pytest.fixture
def copy(packed, tmp_path):
    return shutil.copy(packed, tmp_path / "copy.h5")


# ------------------------------------------------------------------ what is read is what was packed


def test_what_the_file_says_of_itself(packed, folder):
    info = read_pack_info(packed)
    assert (info.task, info.size, info.splits) == ("classification", SIZE, {"train": 15, "val": 6})
    assert [tuple(category) for category in info.categories] == [(0, "daisy"), (1, "rose"), (2, "water lily")]
    train = read_labels(folder / "train")
    cache = ImageCache(train.paths.tolist(), train.sizes, SIZE)
    pixels = np.concatenate([cache[i].reshape(-1, 3) for i in range(15)]) / 255
    np.testing.assert_allclose(info.mean, pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(info.std, pixels.std(0), rtol=1e-9)


def test_images_are_those_of_the_cache(packed, folder):
    plain = read_labelled_dataset(folder)
    for split, data in read_labelled_dataset(packed).items():
        cache = ImageCache(plain[split].paths.tolist(), plain[split].sizes, SIZE)
        images = PackedImages(packed, split)
        assert len(images) == len(data) == len(cache)
        assert sorted(data.image_ids.tolist()) == plain[split].image_ids.tolist()
        for row, image_id in enumerate(data.image_ids):  # ids are positions there
            np.testing.assert_array_equal(images[row], cache[image_id])
            assert data.labels[row] == plain[split].labels[image_id]
            assert data.sizes[row].tolist() == plain[split].sizes[image_id].tolist()
            assert plain[split].paths[image_id].endswith(str(data.paths[row]))
        assert images.megabytes == pytest.approx(cache.megabytes)
        assert images.place == str(packed)


def test_names_are_within_the_data_set(packed):
    assert not any("classes" in name or name.startswith("/") for name in read_labels(packed, "train").paths.tolist())


def test_rows_are_mixed_and_the_mix_depends_on_the_seed(folder, packed, tmp_path):
    labels = read_labels(packed, "train").labels
    assert (np.diff(labels) < 0).any()
    write_pack(tmp_path / "other.h5", read_labelled_dataset(folder), SIZE, seed=1)
    assert (
        read_labels(tmp_path / "other.h5", "train").image_ids.tolist()
        != read_labels(packed, "train").image_ids.tolist()
    )


def test_a_subset_reads_its_own_images(packed):
    data = read_labels(packed, "train")
    some = data.subset(data.labels == 2).subset([3, 0])
    dataset = ClassificationDataset(some, 999)
    everything = PackedImages(packed, "train")
    for position, row in enumerate(np.flatnonzero(data.labels == 2)[[3, 0]]):
        image, label = dataset[position]
        assert label == 2 and isinstance(label, int)
        np.testing.assert_array_equal(image, everything[row])
    with pytest.raises(IndexError, match=r"0\.\.14"):
        PackedImages(packed, "train", np.array([15]))


def test_packed_and_plain_sets_are_read_alike_by_the_data_set(packed, folder):
    plain = ClassificationDataset(read_labels(folder / "val"), SIZE)
    other = ClassificationDataset(read_labels(packed, "val"), SIZE)
    assert len(plain) == len(other) == 6
    place = {int(image_id): row for row, image_id in enumerate(other.labelled.image_ids)}
    for i in range(6):
        np.testing.assert_array_equal(plain[i][0], other[place[i]][0])
        assert plain[i][1] == other[place[i]][1]


def test_a_batch():
    samples = [(np.full((4, 6, 3), value, np.uint8), value) for value in (1, 9)]
    images, labels = collate_labels(samples)
    assert images.shape == (2, 3, 4, 6) and images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images[:, 0, 0, 0].tolist() == labels.tolist() == [1, 9]
    assert labels.dtype == torch.int64


def test_packed_sets_pass_the_checks(packed):
    splits = read_label_splits(packed)
    assert validate(splits["train"]) == []
    assert validate(splits["val"], other=splits["train"]) == []


# ------------------------------------------------------------------ other tasks


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    return write_flowers(tmp_path_factory.mktemp("flowers"), train=5, val=2, size=(96, 80))


def test_boxes_come_back_as_they_were(flowers, tmp_path):
    plain = read_dataset(flowers)
    info = write_pack(tmp_path / "boxes.h5", plain, 48)
    assert info.task == "detection" and info.categories == plain["train"].categories
    for split, found in read_dataset(tmp_path / "boxes.h5").items():
        wanted = plain[split]
        images = PackedImages(tmp_path / "boxes.h5", split)
        order = [wanted.image_ids.tolist().index(i) for i in found.image_ids.tolist()]
        expected = wanted.subset(order)
        for name in ("sizes", "image_index", "boxes", "labels", "iscrowd", "ids", "areas"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
            assert getattr(found, name).dtype == getattr(expected, name).dtype
        cache = ImageCache(expected.paths.tolist(), expected.sizes, 48)
        for row in range(len(found)):
            np.testing.assert_array_equal(images[row], cache[row])
        assert validate(found, check_images=False) == []


def with_all_kinds(data):
    """The objects' masks in turn: a run-length mask, none, polygons."""
    builder = SegmentsBuilder()
    for row, image in enumerate(data.image_index.tolist()):
        width, height = data.sizes[image].tolist()
        if row % 3 == 0:
            builder.add_rle(height, width, data.segments.rle(row, height, width)["counts"])
        elif row % 3 == 1:
            builder.add_nothing()
        else:
            x1, y1, x2, y2 = data.boxes[row].tolist()
            builder.add_polygons([[x1, y1, x2, y1, x1, y2], [x2, y2, x2, (y1 + y2) / 2, x1, y2]])
    return replace(data, segments=builder.build())


def test_masks_of_objects_come_back_as_they_were(flowers, tmp_path):
    plain = with_all_kinds(read_dataset(flowers)["train"])
    write_pack(tmp_path / "boxes.h5", {"train": plain}, 48)
    found = read_annotations(tmp_path / "boxes.h5")
    expected = plain.subset([plain.image_ids.tolist().index(i) for i in found.image_ids.tolist()])
    for ours, theirs in zip(found.segments.arrays, expected.segments.arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    packed, files = (DetectionDataset(data, 48, masks=True) for data in (found, expected))
    for index in range(len(found)):
        np.testing.assert_array_equal(packed[index].masks, files[index].masks)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("points", lambda a: a * np.nan, r"points must lie in -1e\+06"),
        ("points", lambda a: a[:-1], "points has shape"),
        ("rle_sizes", lambda a: a[:, ::-1] + 1, r"object \d has no mask of its image"),
        ("rle_bytes", lambda a: a[::-1].copy(), r"object \d has no mask of its image"),
        ("polygon_offsets", lambda a: a - 1, "must start at 0 and never fall"),
        ("point_offsets", lambda a: a[:-1], "point_offsets has shape"),
    ],
)
def test_damaged_masks_of_objects_are_named(flowers, tmp_path, name, change, message):
    path = tmp_path / "boxes.h5"
    write_pack(path, {"train": with_all_kinds(read_dataset(flowers)["train"])}, 32)
    with h5py.File(path, "a") as file:
        group = file["train/segments"]
        values = group[name][()]
        del group[name]
        group[name] = change(values)
    with pytest.raises(AnnotationError, match=f"boxes.h5: damaged: .*{message}"):
        read_annotations(path)


def test_a_split_without_objects(flowers, tmp_path):
    plain = read_dataset(flowers)["val"]
    none = np.zeros(0, np.int64)
    empty = replace(plain, segments=None, **{k: v for k, v in plain.take_objects(none).items() if k != "segments"})
    write_pack(tmp_path / "empty.h5", {"val": empty}, 32)
    assert read_annotations(tmp_path / "empty.h5").boxes.shape == (0, 4)


def test_masks(flowers, tmp_path):
    plain = {split: SemanticMasks.from_annotations(data) for split, data in read_dataset(flowers).items()}
    info = write_pack(tmp_path / "masks.h5", plain, 48)
    assert info.task == "segmentation" and info.categories == plain["train"].categories
    with h5py.File(tmp_path / "masks.h5") as file:
        order = [plain["train"].image_ids.tolist().index(i) for i in file["train/image_ids"][()]]
    wanted = MaskCache(plain["train"].subset(order), 48)
    images, found = PackedImages(tmp_path / "masks.h5", "train"), PackedMasks(tmp_path / "masks.h5", "train")
    for row in range(5):
        np.testing.assert_array_equal(found[row], wanted[row])
        assert found[row].shape == images[row].shape[:2]


# ------------------------------------------------------------------ processes


def _sum_of(images, index):
    return int(images[index].sum())


def test_processes_open_the_file_for_themselves(packed):
    images = PackedImages(packed, "train")
    expected = [_sum_of(images, i) for i in range(15)]  # the file is open here before the processes start
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(_sum_of, [(images, i) for i in range(15)]) == expected
    assert images[0].sum() == expected[0]


def test_forked_loader_workers_that_inherit_the_open_file(packed):
    dataset = ClassificationDataset(read_labels(packed, "train"), SIZE)
    expected = [int(dataset[i][0].sum()) for i in range(15)]
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=4, num_workers=2, multiprocessing_context="fork", collate_fn=_sums
    )
    for _ in range(2):
        assert [value for batch in loader for value in batch] == expected


def _sums(samples):
    return [int(image.sum()) for image, _ in samples]


def test_closing_and_pickling(packed):
    images = PackedImages(packed, "train")
    first = images[0]
    images.close()
    np.testing.assert_array_equal(images[0], first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images))[0], first)


# ------------------------------------------------------------------ what cannot be packed


def test_an_image_that_cannot_be_read_leaves_no_file(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    splits = read_labelled_dataset(tmp_path / "copy")
    (tmp_path / "copy/train/rose/1.png").write_bytes(b"no image")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"rose/1\.png"):
        write_pack(tmp_path / "out/set.h5", splits, SIZE)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_image_of_another_size_than_said(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    splits = read_labelled_dataset(tmp_path / "copy")
    write_picture(tmp_path / "copy/val/rose/0.png", 20, 10)
    with pytest.raises(ValueError, match=r"rose/0\.png: the image is 20x10 pixels but its annotations say 64x48"):
        write_pack(tmp_path / "set.h5", splits, SIZE)


def test_wrong_requests(folder, packed, tmp_path, flowers):
    splits = read_labelled_dataset(folder)
    for size in (0, 20000):
        with pytest.raises(ValueError, match="size must lie in"):
            write_pack(tmp_path / "x.h5", splits, size)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        write_pack(tmp_path / "x.h5", splits, 8, chunk=0)
    with pytest.raises(ValueError, match="no splits to write"):
        write_pack(tmp_path / "x.h5", {}, 8)
    with pytest.raises(ValueError, match="'val' has no images"):
        write_pack(tmp_path / "x.h5", {"val": splits["val"].subset([])}, 8)
    with pytest.raises(ValueError, match=r"a split cannot be named 'a/b'"):
        write_pack(tmp_path / "x.h5", {"a/b": splits["val"]}, 8)
    with pytest.raises(ValueError, match="of one task and have the same categories"):
        write_pack(tmp_path / "x.h5", {"train": splits["train"], "val": read_dataset(flowers)["val"]}, 8)
    with pytest.raises(ValueError, match="is packed already"):
        write_pack(tmp_path / "x.h5", read_labelled_dataset(packed), 8)
    assert list(tmp_path.iterdir()) == []


def test_no_room(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("detseg.data.pack.datasets.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(ValueError, match=r"the file needs 0\.00 GB, .* has 0\.00 GB left"):
        write_pack(tmp_path / "deep/set.h5", read_labelled_dataset(folder), SIZE)


def test_progress_sees_every_image_and_is_ended(folder, tmp_path):
    seen = []

    def track(items, total):
        for item in items:
            seen.append((item, total))
            yield item
        seen.append("end")

    write_pack(tmp_path / "set.h5", read_labelled_dataset(folder), SIZE, track=track)
    assert seen == [*((i, 21) for i in range(21)), "end"]


# ------------------------------------------------------------------ what others wrote


def test_files_that_are_no_packs(tmp_path):
    with pytest.raises(AnnotationError, match="does not exist"):
        read_pack_info(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("nothing of the kind")
    with pytest.raises(AnnotationError, match=r"text\.h5: not an HDF5 file"):
        read_labels(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(AnnotationError, match="not one that `detseg pack` wrote"):
        read_pack_info(tmp_path / "other.h5")


def test_other_versions_and_tasks(copy, flowers, tmp_path):
    with pytest.raises(AnnotationError, match="packed for classification, not for detection"):
        read_annotations(copy)
    write_pack(tmp_path / "boxes.h5", read_dataset(flowers), 16)
    with pytest.raises(AnnotationError, match="packed for detection, not for classification"):
        read_labels(tmp_path / "boxes.h5")
    with pytest.raises(AnnotationError, match=r"train/masks is missing"):
        PackedMasks(copy, "train")
    with pytest.raises(AnnotationError, match="no split 'test', only train, val"):
        PackedImages(copy, "test")
    with h5py.File(copy, "a") as file:
        file.attrs["version"] = 2
    with pytest.raises(AnnotationError, match="version 2 of the format; this detseg reads 1"):
        read_pack_info(copy)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_files_that_are_cut_short(copy, share):
    content = Path(copy).read_bytes()
    Path(copy).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AnnotationError, match=r"copy\.h5: (damaged|not an HDF5 file).*detseg pack"):
        read_label_splits(copy)


def test_attributes_of_a_type_that_hdf5_crashes_at_are_not_read(copy):
    content = copy.read_bytes()
    place = content.index(b"\x19\x01\x01\0", content.index(b"format\0"))  # a text of any length, in UTF-8
    copy.write_bytes(content[: place + 1] + b"\x05" + content[place + 2 :])
    with pytest.raises(AnnotationError, match="but not one that `detseg pack` wrote"):
        read_pack_info(copy)


def _replace(file, place, values, **options):
    del file[place]
    file.create_dataset(place, data=values, **options)


DAMAGES = {
    "train/labels must lie in": lambda f: _replace(f, "train/labels", np.full(15, 3)),
    "train/labels has shape": lambda f: _replace(f, "train/labels", np.zeros(14, int)),
    "train/labels holds float64": lambda f: _replace(f, "train/labels", np.zeros(15)),
    "train/labels is missing": lambda f: f.__delitem__("train/labels"),
    "train/labels must be a data set": lambda f: (f.__delitem__("train/labels"), f.create_group("train/labels")),
    "train/shapes must lie in": lambda f: f["train/shapes"].__setitem__((0, 0), SIZE + 1),
    "train/sizes must be positive": lambda f: f["train/sizes"].__setitem__((0, 0), 0),
    "train/names has 2 entries": lambda f: _replace(f, "train/names", ["a", "b"], dtype=h5py.string_dtype()),
    "task 'poetry'": lambda f: f.attrs.__setitem__("task", "poetry"),
    "size": lambda f: f.attrs.__setitem__("size", 10**9),
    "mean and std": lambda f: f.attrs.__setitem__("mean", [np.nan] * 3),
    "category_ids has shape": lambda f: _replace(f, "category_ids", np.arange(2)),
    "holds less than its shape": lambda f: (
        f.__delitem__("train/image_ids"),
        f.create_dataset("train/image_ids", (10**12,), "i8", chunks=(1000,)),
    ),
    "category_names": lambda f: _replace(f, "category_names", [b"\xff\xfe", b"b", b"c"], dtype=h5py.string_dtype()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(copy, damage):
    with h5py.File(copy, "a") as file:
        DAMAGES[damage](file)
    with pytest.raises(AnnotationError, match=rf"copy\.h5: damaged.*{damage if damage != 'category_names' else ''}"):
        read_label_splits(copy)


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_data_that_lie_elsewhere_are_refused(copy, packed, tmp_path, kind):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(15 * SIZE * SIZE * 3))
    shape = (15, SIZE * SIZE * 3)
    with h5py.File(copy, "a") as file:
        del file["train/pixels"]
        if kind == "external link":
            file["train/pixels"] = h5py.ExternalLink(str(packed), "train/pixels")
        elif kind == "soft link":
            file["train/pixels"] = h5py.SoftLink("/val/pixels")
        elif kind == "external storage":
            file["train"].create_dataset("pixels", shape, "u1", external=[(str(secret), 0, secret.stat().st_size)])
        else:
            layout = h5py.VirtualLayout(shape, "u1")
            layout[:] = h5py.VirtualSource(str(packed), "train/pixels", shape)
            file["train"].create_virtual_dataset("pixels", layout)
    with pytest.raises(AnnotationError, match=r"train/pixels (is a link|must be a data set of this file)"):
        PackedImages(copy, "train")


@pytest.mark.parametrize(
    ("values", "message"), [(np.zeros((15, SIZE * SIZE * 3), np.uint16), "must be uint8"), (np.zeros(3), "holds")]
)
def test_pixels_of_another_kind(copy, values, message):
    with h5py.File(copy, "a") as file:
        _replace(file, "train/pixels", values)
    with pytest.raises(AnnotationError, match=message):
        PackedImages(copy, "train")


def test_offsets_that_make_no_sense(flowers, tmp_path):
    write_pack(tmp_path / "boxes.h5", read_dataset(flowers), 16)
    with h5py.File(tmp_path / "boxes.h5", "a") as file:
        file["train/offsets"][1] = -4
    with pytest.raises(AnnotationError, match="train/offsets must start at 0 and never fall"):
        read_annotations(tmp_path / "boxes.h5", "train")


def test_enlarged_images_are_smooth(folder, packed):
    """The 7 x 5 image is enlarged to 40 pixels, as the cache does."""
    data, images = read_labels(packed, "train"), PackedImages(packed, "train")
    row = int(np.flatnonzero((data.sizes == (7, 5)).all(1))[0])
    image = read_image(folder / "train" / str(data.paths[row]).removeprefix("train/"))
    np.testing.assert_array_equal(images[row], cv2.resize(image, (40, 29), interpolation=cv2.INTER_LINEAR))


def _cut(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _overwrite(path):
    """In place, with as many bytes."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    with path.open("r+b") as file:
        file.write(content)


CHANGES = {"cut": _cut, "overwritten": _overwrite, "removed": Path.unlink, "written to": lambda path: path.touch()}


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_change_while_they_are_read(copy, change):
    """HDF5 reads zeros where a file has been cut, which are images too."""
    images = PackedImages(copy, "train")
    in_another_process = pickle.loads(pickle.dumps(images))
    before = [images[index] for index in range(len(images))]
    CHANGES[change](Path(copy))
    for last in (images, in_another_process):
        with pytest.raises(AnnotationError, match=re.escape(str(copy))):
            for index in reversed(range(len(before))):
                last[index]
