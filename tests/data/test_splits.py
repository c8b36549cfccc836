"""Division of a set into training and validation by rule."""

import numpy as np
import pytest

from detseg.data.annotations import AnnotationError
from detseg.data.formats import read_annotations, read_dataset, read_mask_dataset, read_masks
from detseg.data.pack.datasets import write_pack
from detseg.data.splits import divided, only_set
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
