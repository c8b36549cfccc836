"""Training on tiles: what the task makes of its data, and predictions in tiles of images that are kept shrunk."""

import io

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from detseg.data.annotations import Annotations, Category
from detseg.data.formats import read_dataset
from detseg.data.tile_sets import ScaledDataset, TileDataset
from detseg.data.tiles import Tiling, object_sizes
from detseg.train.config import TrainDetector
from detseg.train.tasks.detector import DetectorTask
from detseg.train.tiles import predict_in_tiles


def bright(images):
    """Finds the bright part of each image, as `detseg.predict.detect` gives it."""
    for image, wanted in images:
        assert wanted == (image.shape[1], image.shape[0]) and max(wanted) <= 200
        rows, columns = np.nonzero(image[..., 0] > 200)
        found = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if len(rows) else []
        yield {
            "boxes": torch.tensor(found, dtype=torch.float32).reshape(-1, 4),
            "scores": torch.full((len(found),), 0.9),
            "labels": torch.ones(len(found), dtype=torch.int64),
        }


@pytest.mark.parametrize("long_side", [64, 32, 96])
def test_boxes_are_in_the_pixels_of_the_file(tmp_path, long_side):
    image = np.zeros((150, 200, 3), np.uint8)
    image[60:90, 110:130] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    data = Annotations(
        categories=(Category(1, "a"), Category(2, "b")),
        image_ids=np.array([1]),
        paths=np.array([str(tmp_path / "a.png")]),
        sizes=np.array([[200, 150]], np.int32),
        image_index=np.array([0], np.int32),
        boxes=np.array([[110.0, 60, 130, 90]]),
        labels=np.array([1], np.int32),
        iscrowd=np.array([False]),
        ids=np.array([1]),
        areas=np.array([600.0]),
    )
    dataset = ScaledDataset(data, long_side, tile=64)
    (found,) = predict_in_tiles(bright, dataset, [0], Tiling(64, 40))
    assert found["boxes"].dtype == np.float32 and found["labels"].tolist() == [1]
    np.testing.assert_allclose(found["boxes"], data.boxes, atol=0 if long_side >= 64 else 2)


def task(folder, **options):
    output = io.StringIO()
    made = DetectorTask(TrainDetector(data=folder, size=64, **options).check(), Console(file=output, width=200))
    train, val = made.load()
    return made, train, val, output


def test_the_task_trains_on_tiles_and_validates_on_whole_images(small):
    made, train, val, output = task(small, tiles=48)
    whole = read_dataset(small)
    assert made.tiling[:2] == (48, 24) and len(train) > len(whole["train"]) and len(val) == len(whole["val"])
    assert f"training on {len(train)} tiles of 48 px that overlap by 24 px or more" in output.getvalue()
    opened, validated = made.open(train, "training"), made.open(val, "validation")
    assert isinstance(opened, TileDataset) and opened.images.long_side == 48, "no pixels are made up"
    assert validated.images[0].shape == (72, 96, 3)
    sizes = made.described(opened)["objects"]
    assert sizes == object_sizes(train) | {"tile": 48, "overlap": 24}
    assert made.image_names(opened)[0] == str(train.paths[0]) and len(made.marks(opened)) == 2


def test_without_tiles_the_description_has_the_sizes_alone(small):
    made, train, _, _ = task(small)
    assert made.tiling is None and made.described(made.open(train, "training")) == {"objects": object_sizes(train)}
    train = train.subset([])
    made.tiling = None
    assert made.described(type("Set", (), {"annotations": train})()) == {}


def test_a_tile_has_a_cap_of_its_own(small):
    made, _, _, output = task(small, tiles=48, max_detections=1)
    assert made.most == 1 and made.limits[-1] >= 100, "a whole image may have more"
    assert "validation" not in output.getvalue().split("validating on whole images")[-1]
