"""Division of a set into training and validation by rule."""

import numpy as np
import pytest

from detseg.data.annotations import AnnotationError
from detseg.data.formats import read_annotations, read_dataset, read_labels, read_mask_dataset, read_masks
from detseg.data.pack.datasets import write_pack
from detseg.data.splits import class_counts, classes_in, divided, folds_of, only_set, split_set
from tests.data.annotation_samples import make, write_picture
from tests.small_masks import write_small_masks
from tests.small_set import write_small_set


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp("data") / "small", train=20, val=2)


def names(parts):
    return {split: {path.rpartition("/")[2] for path in data.paths.tolist()} for split, data in parts.items()}


def test_a_set_is_divided_alike_whatever_its_order(small):
    data = read_annotations(small / "train.json")
    parts = divided(data, 0.2)
    assert [len(parts[split]) for split in ("train", "val")] == [16, 4]
    assert names(parts)["train"] | names(parts)["val"] == names({"all": data})["all"]
    assert len(parts["train"].ids) + len(parts["val"].ids) == len(data.ids)
    assert names(divided(data.subset(np.arange(20)[::-1]), 0.2)) == names(parts)


def test_equal_images_stay_together(small, tmp_path):
    twins = write_small_set(tmp_path / "twins", train=20, val=2)
    for i in range(10):
        image = (twins / f"images/train{i}.png").read_bytes()
        (twins / f"images/train{i + 10}.png").write_bytes(image)
    data = read_annotations(twins / "train.json")
    write_pack(tmp_path / "twins.h5", {"train": data}, 96)
    for source in (data, read_annotations(tmp_path / "twins.h5")):
        found = names(divided(source, 0.3))
        assert len(found["val"]) == 6
        for i in range(10):
            assert (f"train{i}.png" in found["val"]) == (f"train{i + 10}.png" in found["val"])


def test_masks_are_divided_too(tmp_path):
    masked = write_small_masks(tmp_path / "masked")
    whole = read_masks(masked / "train.txt")
    parts = read_mask_dataset(masked / "train.txt", val_share=0.25)
    assert [len(parts[split]) for split in ("train", "val")] == [6, 2]
    place = {int(image_id): row for row, image_id in enumerate(whole.image_ids)}
    for data in parts.values():
        for row, image_id in enumerate(data.image_ids):
            np.testing.assert_array_equal(data.mask(row), whole.mask(place[int(image_id)]))


def test_what_is_divided_is_not_divided_again(small):
    with pytest.raises(AnnotationError, match="small: is divided already, into train, val; leave out --val-share"):
        read_dataset(small, val_share=0.2)
    assert only_set(small, {"train": lambda: 1, "test": lambda: 2}) == 1
    with pytest.raises(AnnotationError, match="into val, test"):
        only_set(small, {"val": lambda: 1, "test": lambda: 2})


def test_one_image_is_for_training(small):
    parts = divided(read_annotations(small / "train.json").subset([0]), 0.9)
    assert [len(parts[split]) for split in ("train", "val")] == [1, 0]


# ------------------------------------------------------------------ by share and in folds


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Forty frames of ten films, four each, of two classes."""
    folder = tmp_path_factory.mktemp("frames")
    paths = [str(write_picture(folder / f"film{i // 4}_{i % 4}.png", seed=i)) for i in range(40)]
    boxes = [[1, 1, 9, 9]] * 40
    return make(boxes, [i // 4 % 2 for i in range(40)], range(40), [(64, 48)] * 40, paths)


def test_shares_are_kept_class_by_class_in_any_order(frames):
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    parts = split_set(frames, shares)
    assert {split: class_counts(data).tolist() for split, data in parts.items()} == {
        "train": [16, 16, 0],
        "val": [2, 2, 0],
        "test": [2, 2, 0],
    }
    assert set().union(*names(parts).values()) == names({"all": frames})["all"]
    assert names(split_set(frames.subset(np.random.default_rng(0).permutation(40)), shares)) == names(parts)
    assert names(split_set(frames, shares, seed=1)) != names(parts)


def test_groups_are_not_divided(frames):
    parts = split_set(frames, {"train": 0.6, "val": 0.4}, by="prefix")
    films = {split: {name.partition("_")[0] for name in found} for split, found in names(parts).items()}
    assert len(films["train"]) == 6 and len(films["val"]) == 4 and not films["train"] & films["val"]
    assert class_counts(parts["val"]).tolist() == [8, 8, 0]


def test_every_image_is_in_one_fold(frames):
    folds = folds_of(frames, 5, by="prefix")
    seen = [name for fold in folds for name in names(fold)["val"]]
    assert sorted(seen) == sorted(names({"all": frames})["all"])
    for fold in folds:
        assert len(fold["train"]) == 32 and not names(fold)["train"] & names(fold)["val"]
        assert class_counts(fold["val"]).tolist() == [4, 4, 0]


def test_too_few_images_or_groups_for_the_splits(frames):
    with pytest.raises(ValueError, match=r"its 2 images are too few for 3 splits; nothing is left for test"):
        split_set(frames.subset([0, 1]), {"train": 0.8, "val": 0.1, "test": 0.1})
    with pytest.raises(ValueError, match=r"its 40 images in 10 groups by prefix are too few for 11 folds"):
        folds_of(frames, 11, by="prefix")
    with pytest.raises(ValueError, match="2 folds at least, not 1"):
        folds_of(frames, 1)


def test_labels_and_masks_are_split_by_class(tmp_path):
    masked = write_small_masks(tmp_path / "masked")
    data = read_masks(masked / "train.txt")
    images, labels = classes_in(data)
    for row in range(len(data)):
        assert labels[images == row].tolist() == [k for k in np.unique(data.mask(row)) if k != 255]
    assert [len(part) for part in split_set(data, {"train": 0.75, "val": 0.25}).values()] == [6, 2]
    for seed, name in enumerate([f"a/{i}" for i in range(10)] + [f"b/{i}" for i in range(5)]):
        write_picture(tmp_path / f"labels/{name}.png", seed=seed)
    parts = split_set(read_labels(tmp_path / "labels"), {"train": 0.8, "val": 0.2})
    assert {split: part.counts.tolist() for split, part in parts.items()} == {"train": [8, 4], "val": [2, 1]}
