"""Options of a run: by task and model, on disk, and as earlier versions wrote them."""

import json

import pytest

from detseg.train.config import SETTINGS, TrainClassifier, TrainDetector, config_for, load_config


def test_the_options_of_a_task_and_of_a_model_are_one():
    assert config_for("detector") is config_for("detector", "yolo") is TrainDetector
    config = TrainDetector(data="flowers", strides=(16, 32), mosaic=0.5)
    assert (config.model, config.task, config.strides, config.flip) == ("yolo", "detector", (16, 32), "horizontal")
    with pytest.raises(ValueError, match="--strides are positive and rise"):
        TrainDetector(data="flowers", strides=(32, 16)).check()
    with pytest.raises(ValueError, match="--mosaic is a share"):
        TrainDetector(data="flowers", mosaic=2).check()


def test_saved_and_loaded_is_the_same(tmp_path):
    config = TrainDetector(data=tmp_path, anchors=5, flip="none")
    config.save(tmp_path)
    assert load_config(tmp_path) == config
    with pytest.raises(FileExistsError):
        config.save(tmp_path)


def write(folder, **content):
    (folder / SETTINGS).write_text(json.dumps(content))
    return folder


def test_options_of_earlier_versions(tmp_path):
    """They have no model and no flip; mirroring was among the augmentations of a classifier."""
    assert load_config(write(tmp_path, task="detector", data="flowers", anchors=2)).anchors == 2
    for names, flip in (
        (["flip", "light"], "horizontal"),
        (["flip-vertical", "light"], "vertical"),
        (["light", "flip-vertical", "flip"], "both"),
        (["light"], "none"),
    ):
        config = load_config(write(tmp_path, task="classifier", augment=names))
        assert (config.flip, config.augment) == (flip, ("light",)), names
    assert load_config(write(tmp_path, task="classifier", augment=None)).flip == "horizontal"
    assert TrainClassifier().augment is None


def test_mistakes_name_the_file(tmp_path):
    for content, message in (
        ({"task": "detector", "model": "no_such"}, "no model is named 'no_such'"),
        ({"task": "detector", "model": "fcn"}, "--model fcn is no detector"),
        ({"task": "gardener"}, "not the settings of a run"),
        ({"task": "detector", "surplus": 1}, "unknown settings surplus"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            load_config(write(tmp_path, **content))
        assert str(tmp_path / SETTINGS) in str(error.value), message
