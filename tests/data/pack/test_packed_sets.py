"""Packed sets with boxes and masks: the same samples as from files, from rows that are read as they are asked for."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from detseg.data.annotations import AnnotationError, Category, match_categories
from detseg.data.augment.transforms import TrainTransform
from detseg.data.cache import full_images
from detseg.data.checks.validate import repair, validate
from detseg.data.crops import crops_of
from detseg.data.dataset import DetectionDataset, SegmentationDataset
from detseg.data.formats import read_annotations, read_dataset, read_labels, read_mask_dataset, read_masks
from detseg.data.images import read_image
from detseg.data.letterbox import EvalTransform, fitted_size, resize_mask
from detseg.data.pack.datasets import write_pack
from detseg.data.pack.file import image_digests
from detseg.data.pack.reader import OriginalMasks, PackedImages, PackedMasks
from detseg.train.sampler import Request, TrainingSamples
from tests.cases import case
from tests.data.annotation_samples import write_picture
from tests.small_masks import write_small_masks
from tests.small_set import write_small_set

SIZE = 80  # long side of the packs; the images have 96 x 72 pixels


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp("boxes") / "set")


@pytest.fixture(scope="module")
def boxes_pack(boxes):
    path = boxes.parent / "boxes.h5"
    write_pack(path, read_dataset(boxes), SIZE, chunk=4)
    return path


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return write_small_masks(tmp_path_factory.mktemp("masks") / "set", train=6, val=4)


@pytest.fixture(scope="module")
def masks_pack(masks):
    path = masks.parent / "masks.h5"
    write_pack(path, read_mask_dataset(masks), SIZE, chunk=4)
    return path


def in_order_of(packed, plain):
    """The images of a set in files in the order in which they are packed."""
    place = {int(image_id): row for row, image_id in enumerate(plain.image_ids)}
    return plain.subset([place[int(image_id)] for image_id in packed.image_ids])


def assert_equal_samples(a, b):
    for name in ("image", "boxes", "labels", "iscrowd"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert (a.mask is None) == (b.mask is None)
    if a.mask is not None:
        np.testing.assert_array_equal(a.mask, b.mask)


# ------------------------------------------------------------------ the same samples


def test_samples_with_boxes_are_those_of_the_files(boxes, boxes_pack):
    for split in ["train", "val"]:
        with case(split):
            packed = read_annotations(boxes_pack, split)
            plain = in_order_of(packed, read_annotations(boxes, split))
            a, b = DetectionDataset(plain, SIZE), DetectionDataset(packed, SIZE)
            assert len(a) == len(b) == len(plain)
            for i in range(len(a)):
                assert_equal_samples(a[i], b[i])
                assert_equal_samples(EvalTransform(64)(a[i])[0], EvalTransform(64)(b[i])[0])
            ours, theirs = TrainingSamples(a, 3), TrainingSamples(b, 3)
            for position in range(12):
                request = Request(1, position, position % len(a), (64, 96)[position % 2], position % 3 == 0)
                (sample, indices), (other, those) = ours[request], theirs[request]
                assert indices == those
                assert_equal_samples(sample, other)
            assert any(a[i].iscrowd.any() for i in range(len(a))) == (split == "train"), "the crowd is kept"


def test_samples_with_masks_are_those_of_the_files(masks, masks_pack):
    packed = read_masks(masks_pack, "train")
    plain = in_order_of(packed, read_masks(masks, "train"))
    assert packed.categories == plain.categories
    a, b = SegmentationDataset(plain, SIZE), SegmentationDataset(packed, SIZE)
    for i in range(len(a)):
        assert_equal_samples(a[i], b[i])
        rngs = np.random.default_rng(i), np.random.default_rng(i)
        assert_equal_samples(*(TrainTransform(64, rotate=15)(d[i], rng) for d, rng in zip((a, b), rngs, strict=True)))
    assert (b[0].mask == 255).any()


def test_boxes_are_in_the_packed_images_pixels(boxes_pack):
    packed = read_annotations(boxes_pack, "train")
    for i in range(len(packed)):
        sample = DetectionDataset(packed, 999)[i]
        assert sample.size == (80, 60)
        original = packed.boxes[packed.objects(i)]
        np.testing.assert_allclose(sample.boxes, original * 80 / 96, rtol=1e-6)
        assert packed.sizes[i].tolist() == [96, 72]


def test_masks_to_judge_by_are_those_of_the_originals(masks, masks_pack):
    packed = read_masks(masks_pack, "val")
    plain = in_order_of(packed, read_masks(masks, "val"))
    for i in range(len(plain)):
        np.testing.assert_array_equal(packed.mask(i), plain.mask(i))
        assert packed.mask(i).shape == (72, 96)
    originals, small = OriginalMasks(masks_pack, "val"), PackedMasks(masks_pack, "val")
    for i in range(len(originals)):
        np.testing.assert_array_equal(small[i], resize_mask(originals[i], fitted_size(96, 72, SIZE)))


def test_images_in_full_size(boxes, boxes_pack, tmp_path):
    plain = read_annotations(boxes, "val")
    write_pack(tmp_path / "full.h5", {"val": plain}, 96)
    for path, exact in ((tmp_path / "full.h5", True), (boxes_pack, False)):
        packed = read_annotations(path, "val")
        files = full_images(in_order_of(packed, plain), [2, 0])
        for found, wanted in zip(full_images(packed, [2, 0]), files, strict=True):
            assert found.shape == wanted.shape == (72, 96, 3)
            assert np.array_equal(found, wanted) == exact
    assert np.array_equal(next(full_images(plain, [1])), read_image(str(plain.paths[1])))


def test_odd_shapes_get_their_own_size_back(tmp_path):
    folder = write_small_set(tmp_path / "odd", train=1, val=1, width=97, height=61)
    write_pack(tmp_path / "odd.h5", read_dataset(folder), 31)
    packed = read_annotations(tmp_path / "odd.h5", "train")
    assert DetectionDataset(packed, 31)[0].image.shape == (19, 31, 3)
    assert next(full_images(packed, [0])).shape == (61, 97, 3)


def test_nothing_is_kept_in_memory(boxes_pack, masks_pack, monkeypatch):
    asked = []

    def refuse(*_):
        raise AssertionError("the images stay in their file")

    monkeypatch.setattr("detseg.data.cache.ArrayCache.__init__", refuse)
    monkeypatch.setattr("detseg.data.cache.read_sized_image", refuse)
    rows = PackedImages._read
    monkeypatch.setattr(PackedImages, "_read", lambda self, *place: asked.append(place) or rows(self, *place))
    data = DetectionDataset(read_annotations(boxes_pack, "train"), SIZE)
    masked = SegmentationDataset(read_masks(masks_pack, "train"), SIZE)
    assert masked.images.content().dtype == masked.masks.content().dtype == np.uint64
    assert asked == [], "opening reads no images"
    assert data.images.place == str(boxes_pack) and data.images.long_side == SIZE
    row = int(np.flatnonzero(data.annotations.image_ids == 98)[0])
    data[row], masked[1]
    pixels = 80 * 60
    assert asked == [("train/pixels", row, pixels * 3), ("train/pixels", 1, pixels * 3), ("train/masks", 1, pixels)]


# ------------------------------------------------------------------ subsets, orders, repairing


def test_subsets_keep_their_images(boxes_pack, masks_pack):
    packed, masked = read_annotations(boxes_pack, "train"), read_masks(masks_pack, "train")
    chosen = [4, 1]
    some, whole = DetectionDataset(packed.subset(chosen), SIZE), DetectionDataset(packed, SIZE)
    fewer, all_ = SegmentationDataset(masked.subset(chosen), SIZE), SegmentationDataset(masked, SIZE)
    for position, row in enumerate(chosen):
        assert_equal_samples(some[position], whole[row])
        assert_equal_samples(fewer[position], all_[row])
        np.testing.assert_array_equal(masked.subset(chosen).mask(position), masked.mask(row))
    mask = np.arange(6) % 2 == 1
    assert packed.subset(mask).pack.rows.tolist() == masked.subset(mask).pack.rows.tolist() == [1, 3, 5]
    with pytest.raises(ValueError, match="pack has 6 rows, expected 5"):
        replace(packed.subset(range(5)), pack=packed.pack)
    with pytest.raises(ValueError, match="pack has 6 rows, expected 5"):
        replace(masked.subset(range(5)), pack=masked.pack)


def test_classes_in_another_order_are_relabelled(boxes, boxes_pack, masks_pack, tmp_path):
    packed, masked = read_annotations(boxes_pack, "train"), read_masks(masks_pack, "train")
    turned = match_categories(packed.categories[::-1], packed)
    np.testing.assert_array_equal(turned.labels, 1 - packed.labels)
    assert_equal = np.testing.assert_array_equal
    wanted = (masked.categories[2], masked.categories[0], masked.categories[1])
    moved = match_categories(wanted, masked)
    table = np.array([1, 2, 0, *range(3, 256)])
    again = match_categories(wanted[::-1], moved)  # 0, 1, 2 -> 1, 2, 0 -> 1, 0, 2
    for i in range(len(masked)):
        assert_equal(moved.mask(i), table[masked.mask(i)])
        assert_equal(SegmentationDataset(moved, SIZE)[i].mask, table[SegmentationDataset(masked, SIZE)[i].mask])
        assert_equal(again.mask(i), np.array([1, 0, 2, *range(3, 256)])[masked.mask(i)])
    assert match_categories(masked.categories, masked) is masked
    with pytest.raises(AnnotationError, match="categories differ"):
        match_categories((*wanted[:2], Category(77, "other")), masked)


def test_repairing_a_pack_keeps_images_and_objects_together(boxes_pack, tmp_path):
    """A box that is not finite, and an image without the room it says, as another program might write them."""
    copy = tmp_path / "copy.h5"
    copy.write_bytes(boxes_pack.read_bytes())
    with h5py.File(copy, "a") as file:
        file["train/boxes"][2] = np.nan
        file["train/image_ids"][1] = file["train/image_ids"][0]
    packed = read_annotations(copy, "train")
    problems = validate(packed)
    assert {p.kind for p in problems} == {"not-finite", "duplicate-image-id"}
    repaired, done = repair(packed, problems)
    assert len(done) == 2 and len(repaired) == 5
    assert repaired.pack.rows.tolist() == [0, 2, 3, 4, 5]
    assert validate(repaired) == []
    whole, data = DetectionDataset(packed, SIZE), DetectionDataset(repaired, SIZE)
    for position, row in enumerate(repaired.pack.rows):
        np.testing.assert_array_equal(data[position].image, whole[row].image)


# ------------------------------------------------------------------ checks


def test_packs_pass_the_checks_without_their_files(boxes_pack, masks_pack):
    splits, masked = read_dataset(boxes_pack), read_mask_dataset(masks_pack)
    for data in (splits, masked):
        assert validate(data["train"]) == []
        assert validate(data["val"], other=data["train"]) == []
        assert not any(path.startswith("/") for path in data["train"].paths.tolist())


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_the_same_image_in_two_packs_is_found(kind, boxes, masks, tmp_path):
    """In packs of different sizes, under another name."""
    read = read_annotations if kind == "boxes" else read_masks
    folder = boxes if kind == "boxes" else masks
    train, val = read(folder, "train"), read(folder, "val")
    path = tmp_path / "renamed.png"
    shutil.copy(str(train.paths[3]), path)
    both = train.subset([3, 3, 0])
    both = replace(both, paths=np.array([str(path), *val.paths[1:3]]), image_ids=np.array([1, 2, 3]))
    write_pack(tmp_path / "a.h5", {"train": train}, 48)
    write_pack(tmp_path / "b.h5", {"val": both}, 64)
    a, b = read(tmp_path / "a.h5"), read(tmp_path / "b.h5")
    (problem,) = (p for p in validate(b, other=a) if p.severity == "error")
    assert problem.kind == "in-both-splits"
    assert f"the image is in {tmp_path}/a.h5 (train) too, as " in problem.what
    assert str(b.paths[problem.image_index]).endswith("renamed.png")
    assert [p for p in validate(repair(b, [problem])[0], other=a) if p.severity == "error"] == []


READERS = {"boxes": read_annotations, "masks": read_masks, "labels": read_labels}


def write_labelled(folder):
    for index in range(8):
        path = folder / ("train", "val")[index % 2] / ("rose", "tulip")[index // 2 % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, seed=index)
    return folder


@pytest.mark.parametrize("kind", READERS)
def test_the_same_image_in_a_pack_and_a_folder_is_found(kind, boxes, masks, tmp_path):
    """Either way round, under another name; but only where files may be read."""

    def shared(data, other, **options):
        return [p for p in validate(data, other=other, **options) if p.kind == "in-both-splits"]

    read = READERS[kind]
    folder = {"boxes": boxes, "masks": masks}.get(kind) or write_labelled(tmp_path / "labelled")
    train, val = read(folder, "train"), read(folder, "val")
    renamed = tmp_path / "renamed.png"
    shutil.copy(train.paths[2], renamed)
    mixed = replace(val, paths=np.array([str(val.paths[0]), str(renamed), *val.paths[2:]]))
    write_pack(tmp_path / "train.h5", {"train": train}, 24)
    write_pack(tmp_path / "mixed.h5", {"val": mixed}, 32)
    packed_train, packed_mixed = read(tmp_path / "train.h5"), read(tmp_path / "mixed.h5")
    for data, other in ((mixed, packed_train), (packed_mixed, train)):
        (problem,) = shared(data, other)
        assert problem.severity == "error" and problem.image.endswith("renamed.png")
        assert f"the image is in {other.source} too, as " in problem.what
        assert shared(data, other, check_images=False) == []
    assert shared(val, packed_train) == shared(packed_mixed, val.subset([1])) == []


def test_beside_a_pack_files_are_checked_as_ever(boxes, boxes_pack, tmp_path):
    """One that is missing is named, and equal ones are told."""
    folder = shutil.copytree(boxes, tmp_path / "set")
    val = read_annotations(folder, "val")
    shutil.copy(val.paths[0], val.paths[1])
    Path(val.paths[2]).unlink()
    found = {p.kind for p in validate(val, other=read_annotations(boxes_pack, "train"))}
    assert found == {"duplicate-image", "missing-image"}


def test_digests_tell_images_and_masks_apart(masks, masks_pack, tmp_path):
    plain = read_masks(masks, "train")
    digests = image_digests(read_masks(masks_pack, "train").pack)
    assert len(set(digests.tolist())) == 6
    write_pack(tmp_path / "other.h5", {"train": plain}, 24, seed=1)
    assert set(image_digests(read_masks(tmp_path / "other.h5").pack).tolist()) == set(digests.tolist())
    contents = [set(PackedMasks(p, "train").content().tolist()) for p in (masks_pack, tmp_path / "other.h5")]
    assert contents[0] == contents[1] and len(contents[0]) == 6


def test_a_file_for_another_task(boxes_pack, masks_pack):
    with pytest.raises(AnnotationError, match=r"masks\.h5: packed for segmentation, not for detection: it can train"):
        read_dataset(masks_pack)
    with pytest.raises(AnnotationError, match=r"boxes\.h5: packed for detection, not for segmentation: it can train"):
        read_mask_dataset(boxes_pack)
    with pytest.raises(AnnotationError, match="packed for detection, not for segmentation"):
        OriginalMasks(boxes_pack, "train")


def test_what_cannot_be_asked_of_a_pack(boxes_pack, masks_pack, tmp_path):
    with pytest.raises(AnnotationError, match="--images is for COCO, VOC"):
        read_annotations(boxes_pack, "train", images=tmp_path)
    for options in ({"masks": "masks_species"}, {"ignore_value": 0}):
        with pytest.raises(AnnotationError, match="were chosen when it was packed"):
            read_masks(masks_pack, "train", **options)
    for read, path in ((read_annotations, boxes_pack), (read_masks, masks_pack)):
        with pytest.raises(AnnotationError, match="holds the splits train, val; choose one with split="):
            read(path)
        with pytest.raises(AnnotationError, match="has no split 'test'; found: train, val"):
            read(path, "test")
    with pytest.raises(ValueError, match=r"boxes\.h5: holds resized images, not their files"):
        crops_of(read_annotations(boxes_pack, "train"), tmp_path / "crops")
    for data in (read_annotations(boxes_pack, "train"), read_masks(masks_pack, "train")):
        with pytest.raises(ValueError, match="is packed already"):
            write_pack(tmp_path / "again.h5", {"train": data}, 32)


DAMAGES = {
    "original_masks, mask 1: Error": lambda f: f["val/original_masks"].__setitem__(
        slice(*f["val/mask_offsets"][1:3]), 7
    ),
    "mask 1 does not have the 96 x 72 pixels": lambda f: f["val/mask_offsets"].__setitem__(
        2, f["val/mask_offsets"][2] - 6
    ),
    "mask 1 has the label 200, of 3 classes": lambda f: f["val/masks"].__setitem__((1, 5), 200),
    "mask_offsets must start at 0": lambda f: f["val/mask_offsets"].__setitem__(0, 1),
    "shapes and sizes do not fit each other, at row 1": lambda f: f["val/sizes"].__setitem__(1, (96, 70)),
    "sizes must be positive and not above": lambda f: f["val/sizes"].__setitem__(1, (96 * 2**13, 72 * 2**13)),
    "val/masks is missing": lambda f: f.__delitem__("val/masks"),
    "val/mask_digests is missing": lambda f: f.__delitem__("val/mask_digests"),
    "val/original_masks has shape": lambda f: f["val/original_masks"].resize((9,)),
}


def test_damaged_masks_are_named(masks_pack, tmp_path_factory):
    for damage in DAMAGES:
        with case(damage):
            tmp_path = tmp_path_factory.mktemp("case")
            copy = tmp_path / "copy.h5"
            copy.write_bytes(masks_pack.read_bytes())
            with h5py.File(copy, "a") as file:
                DAMAGES[damage](file)
            with pytest.raises(AnnotationError, match=rf"copy\.h5: damaged: .*{damage}.*detseg pack"):
                data = SegmentationDataset(read_masks(copy, "val"), SIZE)
                for i in range(len(data)):
                    data[i], data.annotations.mask(i)


def test_damage_of_a_file_in_use_is_named(boxes_pack, tmp_path):
    copy = tmp_path / "copy.h5"
    copy.write_bytes(boxes_pack.read_bytes())
    images = PackedImages(copy, "train")
    copy.write_bytes(boxes_pack.read_bytes()[:3000])
    with pytest.raises(AnnotationError, match=r"copy\.h5: damaged"):
        images[0]


def test_a_coco_file_still_reads_beside_a_pack(boxes, boxes_pack):
    """Ids, crowds and areas survive: what is packed is what the JSON file says."""
    content = json.loads((boxes / "train.json").read_text())
    packed = read_annotations(boxes_pack, "train")
    assert sorted(packed.ids.tolist()) == sorted(entry["id"] for entry in content["annotations"])
    crowds = {entry["id"] for entry in content["annotations"] if entry["iscrowd"]}
    assert set(packed.ids[packed.iscrowd].tolist()) == crowds != set()
    areas = {entry["id"]: entry["area"] for entry in content["annotations"]}
    assert [areas[i] for i in packed.ids.tolist()] == packed.areas.tolist()
