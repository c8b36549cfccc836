"""The segmenter's masks and their mistakes, class weights, options of the network, a coarser one to start from."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from detseg.data import write_index_png
from detseg.data.formats import read_annotations, read_masks
from detseg.flowers.dataset import write_flowers
from detseg.models import build_model, save_model
from detseg.segment.decoder import PyramidDecoder
from detseg.segment.losses import segmentation_losses
from detseg.train.config import TrainSegmenter
from detseg.train.runner import describe
from detseg.train.tasks.segmenter import SegmenterTask, balanced_weights, load_mask_data
from tests.data.annotation_samples import write_picture
from tests.data.mask_samples import save_mask

QUIET = Console(quiet=True)


def config(data, **settings):
    given = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "batch_size": 4, "epochs": 1}
    return TrainSegmenter(data=data, **(given | settings))


def built(data, **settings):
    """A task, its training masks, and the architecture and model of its options."""
    task = SegmenterTask(config(data, **settings), QUIET)
    train, _ = task.load()
    architecture = describe(task.config, train)
    return task, train, architecture, build_model(architecture)


def test_mistakes(masked, tmp_path):
    odd = shutil.copytree(masked, tmp_path / "odd")
    cv2.imwrite(str(odd / "masks/train3.png"), cv2.imread(str(odd / "masks/train3.png"), 0)[:50])
    for options, messages in (
        ({"masks": "depth"}, ["has no images/ with a folder 'depth' of masks beside it"]),
        ({"data": masked / "images"}, ["no masks recognised"]),
        ({"images": masked}, ["not one image has a mask. Looked for", "Name the folders by --masks and --images"]),
        ({"val_share": 0.2}, ["is divided already, into train, val; leave out --val-share"]),
        ({"data": odd}, ["train3.png", "96 x 50"]),
    ):
        with pytest.raises(ValueError) as error:
            load_mask_data(TrainSegmenter(**{"data": masked} | options), QUIET)
        assert all(message in str(error.value) for message in messages), options


def test_the_same_with_polygons_in_place_of_mask_files(tmp_path):
    """COCO's run lengths are drawn to masks; the background comes first."""
    data = write_flowers(tmp_path / "flowers", train=2, val=2, size=(64, 64))
    names = ("background", *read_annotations(data / "val.json").names)
    assert [masks.names for masks in load_mask_data(TrainSegmenter(data=data), QUIET)] == [names, names]


def test_options_reach_the_network(masked):
    for options, strides, learns in (
        ({}, (8, 16, 32), True),
        ({"atrous": True}, (8, 16), True),
        ({"learn_upsampling": False}, (8, 16, 32), False),
        ({"decoder": "pyramid"}, (4, 8, 16, 32), False),
    ):
        _, _, architecture, model = built(masked, **options)
        assert json.loads(json.dumps(architecture)) == architecture, options
        assert model.backbone.strides == strides, options
        assert isinstance(model.decoder, PyramidDecoder) == ("decoder" in options)
        assert (model.upsample.weight is not None) == learns, options


# ------------------------------------------------------------------ weights of classes


def test_class_weights_by_hand():
    masks = [np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 0, 255, 255]], np.uint8)]
    # Of class 0 there are 5 of the 6 pixels of its two images, of class 1 one of 4: the median is 13 / 24.
    assert balanced_weights(masks, 3) == [0.65, 2.167, 0.0]


def test_balance_reaches_the_loss(masked):
    """The weights are known only once the model is made."""
    task, train, architecture, model = built(masked, balance=True)
    dataset = task.open(train, "training")
    task.resolved(None, model, architecture, dataset)
    weights = balanced_weights((dataset.masks[i] for i in range(8)), 3)
    assert architecture["class_weights"] == weights == pytest.approx(model.class_weights.tolist())
    assert weights[0] < 1 < max(weights), "the background is common"
    images, masks = torch.zeros(1, 3, 64, 64), torch.arange(64 * 64).view(1, 64, 64) % 3
    expected = segmentation_losses(model.eval()(images), masks, {"ce": 1.0}, torch.tensor(weights))
    assert model(images, masks) == expected


def test_balance_with_nothing_but_ignored_pixels(masked, tmp_path):
    data = shutil.copytree(masked, tmp_path / "data")
    for path in (data / "masks").glob("train*.png"):
        write_index_png(path, np.full((72, 96), 255))
    with pytest.raises(
        ValueError, match=f"{data}: there is nothing to learn in the masks of 8 images: every pixel is ign"
    ):
        built(data, balance=True)
    with pytest.raises(ValueError, match="every pixel of the masks is ignored, so there is nothing to learn"):
        balanced_weights([np.full((2, 2), 255)], 3)


# ------------------------------------------------------------------ from coarse to fine


def test_a_finer_network_starts_from_a_coarser_one(masked, tmp_path):
    coarse = tmp_path / "fcn16s"
    _, train, architecture, model = built(masked, strides=(16, 32))
    categories = [{"id": c.id, "name": c.name} for c in train.categories]
    description = {"architecture": architecture, "categories": categories, "size": 64}
    save_model(coarse, model, description)

    def started(**options):
        task, train, _, finer = built(masked, **options)
        task.started(finer, train)
        return finer

    taken = started(start_from=coarse).state_dict()
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(taken[f"backbone.{name}"], tensor), name
    with pytest.raises(ValueError, match="no trained model here"):
        started(start_from=tmp_path)
    with pytest.raises(ValueError, match=rf"--start-from {coarse}: a network of 3 classes at strides \(32,\) cannot"):
        started(start_from=coarse, strides=(32,))
    save_model(coarse, model, description | {"categories": [categories[0], *categories[:0:-1]]})
    with pytest.raises(ValueError, match=f"--start-from {coarse}: that run has learnt the classes background, disc, "):
        started(start_from=coarse)


def test_ignored_values_and_classes_of_a_set(masked):
    train, val = load_mask_data(TrainSegmenter(data=masked), QUIET)
    assert (len(train), len(val)) == (8, 5)
    assert [(c.id, c.name) for c in train.categories] == [(0, "background"), (4, "box"), (9, "disc")]
    assert read_masks(masked, "val").names == val.names


def write_masks_of(folder, values, classes=""):
    """A training and a validation image with these values in their masks."""
    for split in ("train", "val"):
        write_picture(folder / f"images/{split}/a.jpg", 8, 6, len(split))
        save_mask(folder / f"masks/{split}/a.png", np.array([values] * 6, np.uint8))
    if classes:
        (folder / "classes.txt").write_text(classes)
    return folder


def test_a_run_with_nothing_to_learn_stops(tmp_path):
    for number, (values, classes, words) in enumerate(
        (
            ([0, 0, 255, 255, 0, 0, 0, 0], "background\nflower\n", "'0 background' and '255 flower' into the list"),
            ([0] * 8, "", "every pixel is 'background'; no pixel of foreground"),
            ([255] * 8, "", "every pixel is 'foreground'; no pixel of background"),
        )
    ):
        data = write_masks_of(tmp_path / str(number), values, classes)
        with pytest.raises(ValueError, match=f"nothing to learn in the masks of 1 images.*{words}"):
            SegmenterTask(config(data), QUIET).load()
    data = write_masks_of(tmp_path / "val", [0, 0, 0, 0, 1, 1, 1, 1])
    save_mask(data / "masks/val/a.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(ValueError, match="nothing to evaluate a model on in the masks of 1 images"):
        SegmenterTask(config(data), QUIET).load()


def test_how_masks_are_read_is_said(tmp_path):
    data = write_masks_of(tmp_path, [0, 0, 90, 130, 200, 250, 255, 255])
    console = Console(record=True, width=200)
    train, _ = SegmenterTask(config(data, threshold=128), console).load()
    assert train.mask(0)[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert console.export_text().splitlines() == [
        "training on 1 images with masks, validating on 1 images",
        "labels: 0=background (value 0), 1=foreground (value 1)",
        "masks are read so: what is 128 or lighter is the second class",
    ]
    with pytest.raises(ValueError, match="--threshold 128 takes what is lighter"):
        SegmenterTask(config(data), QUIET).load()
    with pytest.raises(ValueError, match="--threshold must be positive, not 0"):
        config(data, threshold=0).check()
