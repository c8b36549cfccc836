"""Options of a run: by task and model, on disk, and as earlier versions wrote them."""

import json
import os
from pathlib import Path

import pytest

from detseg.reading import FileError
from detseg.tasks import TASKS
from detseg.train.config import SETTINGS, TrainClassifier, TrainDetector, config_for, load_config


def test_the_options_of_a_task_and_of_a_model_are_one():
    assert config_for("detector") is config_for("detector", "yolo") is TrainDetector
    config = TrainDetector(data="flowers", strides=(16, 32), mosaic=0.5)
    assert (config.model, config.task, config.strides, config.flip) == ("yolo", "detector", (16, 32), "horizontal")


# Options, and what their message says.
OF_ALL = [
    ({}, "either as --data or as --train and --val"),
    ({"data": "D", "train": "D"}, "either as --data or as --train and --val"),
    ({"train": "D"}, "--train and --val belong together: one is missing"),
    ({"data": "D", "size": 100}, "--size must be a multiple of 32 and at least {least}, not 100; 96 is near"),
    ({"data": "D", "size": 16}, "--size must be a multiple of 32 and at least {least}, not 16; {least} is near"),
    ({"data": "D", "epochs": 2, "minutes": 1}, "--epochs or --minutes, not both"),
    ({"data": "D", "epochs": 0}, "--epochs must be positive"),
    ({"data": "D", "minutes": float("nan")}, "--minutes must be positive"),
    ({"data": "D", "batch_size": 0}, "--batch-size must be positive"),
    ({"data": "D", "accumulate": 0}, "--accumulate must be positive"),
    ({"data": "D", "lr": float("inf")}, "--lr must be positive"),
    ({"data": "D", "stage_decay": 0}, "--stage-decay must be positive"),
    ({"data": "D", "seed": -1}, "--seed must not be negative"),
    ({"data": "D", "seed": 2**32}, "--seed must be at most 4294967295, not 4294967296"),
    ({"data": "D", "size": 32 * 10**9}, "--size must be at most 8192, not 32000000000"),
    ({"data": "D", "workers": 10**6}, "--workers must be at most 1000, not 1000000"),
    ({"data": "D", "workers": -1}, "--workers must not be negative"),
    ({"resume": "R", "epochs": 3, "size": 64}, "leave out --size, --epochs"),
    ({"resume": "R", "more_epochs": 3, "seed": 1}, "leave out --seed"),
    ({"resume": "R", "more_epochs": 3, "more_minutes": 1}, "--more-epochs or --more-minutes, not both"),
    ({"resume": "R", "more_minutes": 0}, "--more-minutes must be positive"),
    ({"data": "D", "more_epochs": 3}, "--more-epochs: goes on with a run; name it by --resume"),
    ({"data": "D", "patience": 0}, "--patience must be positive"),
    ({"data": "D", "only_backbone": True}, "--only-backbone is for --weights of a run or coco"),
    ({"resume": "R", "train": "D", "val": "D"}, "--resume takes all settings from the run"),
]
ANNOTATED = [
    ({"data": "D", "val_share": 1}, "--val-share is a share above 0 and below 1, such as 0.2, not 1"),
    ({"train": "D", "val": "D", "val_share": 0.2}, "--val-share divides --data; leave it out where --val is given"),
]
OF_TASKS = {
    "detector": [
        *ANNOTATED,
        ({"data": "D", "mosaic": 1.5}, "--mosaic is a share"),
        ({"data": "D", "mixup": float("nan")}, "--mixup is a share between 0 and 1, not nan"),
        ({"data": "D", "strides": (32, 16)}, "--strides are positive and rise"),
    ],
    "localizer": [
        *ANNOTATED,
        ({"data": "D", "zoom": (1.2, 1)}, "--zoom is the smallest and the largest factor"),
    ],
    "segmenter": [
        *ANNOTATED,
        ({"data": "D", "loss": "huber"}, "huber"),
        ({"data": "D", "decoder": "pyramid", "start_from": "R"}, "--start-from is for --decoder fcn"),
        ({"data": "D", "strides": (32, 16)}, "--strides are positive and rise, the finest first, not 32 16; 16 32 do"),
        ({"data": "D", "strides": (0, 8)}, "not 0 8; 8 do"),
        ({"data": "D", "atrous": True, "strides": (8, 16, 32)}, "which --strides has already; give --strides 8 32"),
    ],
    "classifier": [
        ({"data": "D", "views": 0}, "--views must be positive"),
        ({"data": "D", "dropout": 1}, "--dropout is a share"),
        ({"data": "D", "label_smoothing": -1}, "--label-smoothing is a share"),
        ({"data": "D", "weights": "none", "strategy": "probe"}, "leave out --weights none"),
        ({"train": "D", "val": "D", "split_seed": 3}, "--split-seed: for --data that are not divided; leave it out"),
    ],
}


@pytest.mark.parametrize("task", TASKS)
def test_contradictions_and_impossible_values(task):
    """None of them needs data to be found."""
    kind = config_for(task)
    for options, message in (*OF_ALL, *OF_TASKS[task]):
        with pytest.raises(ValueError) as error:
            kind(**options).check()
        assert message.format(least=kind.smallest_size) in str(error.value), options


def test_saved_and_loaded_is_the_same(tmp_path):
    config = TrainDetector(data=tmp_path, anchors=5, flip="none")
    config.save(tmp_path)
    assert load_config(tmp_path) == config
    with pytest.raises(FileExistsError):
        config.save(tmp_path)


def test_paths_that_are_no_text_come_back(tmp_path):
    config = TrainDetector(data=tmp_path / os.fsdecode(b"caf\xe9"))
    config.save(tmp_path)
    assert load_config(tmp_path).data == config.data
    settings = tmp_path / "config.json"
    settings.write_text(settings.read_text().replace("udce9", "ud83d"))
    with pytest.raises(FileError, match=r"config\.json: line \d+: \\ud83d is half a character"):
        load_config(tmp_path)


def test_addresses_of_data_stay_what_they_are(tmp_path):
    config = TrainDetector(data=Path("s3://bucket/{train,val}-*.tar"))
    config.save(tmp_path)
    assert load_config(tmp_path) == config


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
        config = load_config(write(tmp_path, task="classifier", data="flowers", augment=names))
        assert (config.flip, config.augment) == (flip, ("light",)), names
    assert load_config(write(tmp_path, task="classifier", data="flowers", augment=None)).flip == "horizontal"
    assert TrainClassifier().augment is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task": "detector", "model": "no_such"}, "no model is named 'no_such'"),
        ({"task": "detector", "model": "fcn"}, "model fcn is no detector"),
        ({"task": "detector", "model": ["yolo"]}, "model: Expected `str | null`, got `array`"),
        ({"task": "gardener"}, "task: Invalid enum value 'gardener'"),
        ({"task": ["detector"]}, "task: Expected `str`, got `array`"),
        ({}, "task: Expected `str`, got `null`"),
        ({"task": "detector", "surplus": 1}, "unknown settings surplus"),
        ({"task": "detector", "data": "D", "resume": "R"}, "unknown settings resume"),
        ({"task": "detector", "data": "D", "size": "320"}, "size: Expected `int | null`, got `str`"),
        ({"task": "detector", "data": "D", "strides": [8, "16"]}, "strides[1]: Expected `int`, got `str`"),
        ({"task": "detector", "data": "D", "epochs": True}, "epochs: Expected `int | null`, got `bool`"),
        ({"task": "detector", "data": ["D"]}, "data: Expected `Path`, got `list`"),
        ({"task": "detector", "data": "D\0E"}, "data: a path has no zero bytes"),
        ({"task": "detector", "data": "D", "freeze": "some"}, "freeze: Invalid enum value 'some'"),
        ({"task": "classifier", "data": "D", "augment": 3}, "augment: Expected `array | null`, got `int`"),
        ({"task": "detector", "data": "D", "batch_size": -3}, "batch_size must be positive, not -3"),
        ({"task": "detector"}, "give the data either as data or as train and val"),
    ],
)
def test_mistakes_name_the_file_and_the_entry(content, message, tmp_path):
    with pytest.raises(FileError) as error:
        load_config(write(tmp_path, **content))
    assert str(error.value).startswith(f"{tmp_path / SETTINGS}: {message}")


def test_what_holds_no_settings_names_the_file(tmp_path):
    for content in ("{", "[1]", "", "[" * 100_000):
        (tmp_path / SETTINGS).write_text(content)
        with pytest.raises(FileError, match=f"{tmp_path / SETTINGS}: "):
            load_config(tmp_path, "detector")


def test_a_run_is_of_one_task(tmp_path):
    with pytest.raises(ValueError, match=r"there is no run to resume here \(config.json is missing\)"):
        load_config(tmp_path)
    TrainDetector(data=tmp_path).save(tmp_path)
    with pytest.raises(ValueError, match="this is the run of a detector; resume it with detseg train detector --res"):
        TrainClassifier.load(tmp_path)
