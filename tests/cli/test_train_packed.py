"""`detseg train` from packed files: the same runs as from files, resuming, two files, mistakes in a line."""

import json
import logging
import os
import signal
from dataclasses import replace
from functools import partial

import h5py
import numpy as np
import pytest
from rich.console import Console

from detseg.cli import main
from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_dataset, read_mask_dataset
from detseg.data.pack.datasets import write_pack
from detseg.models import load_model
from detseg.tasks import part
from detseg.train.config import TrainDetector, TrainLocalizer, TrainSegmenter
from detseg.train.runner import train
from tests.train.runs import differences, state_of

SIZE = 64
QUICK = (
    *("--backbone", "test_efficientnet", "--weights", "none", "--size", str(SIZE)),
    *("--batch-size", "4", "--precision", "fp32"),
)
SETTINGS = {"backbone": "test_efficientnet", "weights": "none", "size": SIZE, "epochs": 2, "batch_size": 4}
# task -> what trains it, its settings, where it gets its data from
TASKS = {
    "detector": (partial(TrainDetector, mosaic=0.5), "detector.load_data"),
    "localizer": (TrainLocalizer, "localizer.load_data"),
    "segmenter": (TrainSegmenter, "segmenter.load_mask_data"),
}


@pytest.fixture(scope="module")
def packs(small, masked, tmp_path_factory):
    """A file of boxes and one of masks, of the size of training."""
    folder = tmp_path_factory.mktemp("packs")
    write_pack(folder / "boxes.h5", read_dataset(small), SIZE, chunk=4)
    write_pack(folder / "masks.h5", read_mask_dataset(masked), SIZE, chunk=4)
    return folder


def error_of(capsys, task, *arguments):
    """The one line that a mistake prints."""
    assert main(["train", task, *map(str, arguments), *QUICK]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert "Traceback" not in printed.err + printed.out
    return printed.err


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.slow
def test_a_run_from_a_pack_is_the_run_from_the_files(task, small, masked, packs, tmp_path, monkeypatch):
    """Bit for bit, where both have the images in one size and order."""
    config, load = TASKS[task]
    home = "segmenter" if task == "segmenter" else "detector"
    monkeypatch.setattr(f"detseg.train.tasks.{home}.CACHE_ZOOM", 1)
    file = packs / ("masks.h5" if task == "segmenter" else "boxes.h5")
    packed = train(config(data=file, output=tmp_path / "packed", **SETTINGS))
    read, folder = (read_mask_dataset, masked) if task == "segmenter" else (read_dataset, small)
    packs_order, files = read(file), read(folder)

    def in_packed_order(*_):
        for split in ("train", "val"):
            place = {int(image_id): row for row, image_id in enumerate(files[split].image_ids)}
            yield files[split].subset([place[int(image_id)] for image_id in packs_order[split].image_ids])

    monkeypatch.setattr(f"detseg.train.tasks.{load}", lambda *_: tuple(in_packed_order()))
    plain = train(config(data=folder, output=tmp_path / "plain", **SETTINGS))
    states = [state_of(tmp_path / name) for name in ("packed", "plain")]
    marks = [state.pop("fingerprint") for state in states]
    equal = {part for part in marks[0] if marks[0][part] == marks[1][part]}
    # Of images and masks a pack holds digests only.
    assert equal == (set() if task == "segmenter" else {"training annotations", "validation annotations"})
    assert differences(*states) == []
    assert differences(*(dict(load_model(tmp_path / name)[0].state_dict()) for name in ("packed", "plain"))) == []
    assert packed.metrics.figures() == plain.metrics.figures()
    if task == "segmenter":  # counted in the pixels of the original masks
        np.testing.assert_array_equal(packed.metrics.confusion, plain.metrics.confusion)
    else:  # in the pixels of the original images
        for a, b in zip(packed.predictions, plain.predictions, strict=True):
            assert differences({k: v.tolist() for k, v in a.items()}, {k: v.tolist() for k, v in b.items()}) == []


@pytest.mark.parametrize(
    "task", [task if task == "detector" else pytest.param(task, marks=pytest.mark.slow) for task in TASKS]
)
def test_the_whole_command(task, packs, tmp_path, capsys, monkeypatch):
    file, folder = packs / ("masks.h5" if task == "segmenter" else "boxes.h5"), tmp_path / "run"
    monkeypatch.chdir(packs)
    words = ["--data", file.name, *QUICK, "--epochs", "1", "--workers", "2", "--output", str(folder)]
    assert main(["train", task, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    for what in ("training", "validation"):
        assert any(line.startswith(f"{what} images: kept at 64 px, 0 MB in {file.name}") for line in lines)
    page = (folder / "report.html").read_text()
    for image in ("worst.jpg", "samples.jpg", "history.png"):
        assert (folder / image).stat().st_size > 2000 and f'src="{image}"' in page
    if task == "localizer":
        return
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--detections", str(folder), "--resamples", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    trained = json.loads((folder / "model.json").read_text())["training"]
    if task == "detector":
        assert found["figures"]["AP"] == pytest.approx(trained["map"], abs=1e-6)
    assert found["images"] == 5


def stopped_after(samples, monkeypatch):
    take, taken = DetectionDataset.__getitem__, []

    def counted(self, index):
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # training has begun
            taken.append(index)
        if len(taken) == samples:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, index)

    monkeypatch.setattr(DetectionDataset, "__getitem__", counted)


@pytest.mark.slow
def test_stopped_and_resumed_ends_with_the_same_weights(packs, tmp_path, monkeypatch):
    config = partial(TrainDetector, data=packs / "boxes.h5", **SETTINGS)
    train(config(output=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stopped_after(10, patch)
        assert train(config(output=tmp_path / "parts")).interrupted
    assert 1 <= state_of(tmp_path / "parts")["step"] < 4
    train(TrainDetector(resume=tmp_path / "parts"))
    assert differences(state_of(tmp_path / "whole"), state_of(tmp_path / "parts")) == []


def test_a_changed_pack_cannot_be_resumed(masked, tmp_path):
    """Another mask of the same size, of the same image."""
    file, splits = tmp_path / "set.h5", read_mask_dataset(masked)
    write_pack(file, splits, SIZE)
    train(TrainSegmenter(data=file, output=tmp_path / "run", **SETTINGS | {"epochs": 1}))
    paths = splits["train"].mask_paths.copy()
    paths[0] = paths[2]
    splits["train"] = replace(splits["train"], mask_paths=paths)
    write_pack(file, splits, SIZE)
    with pytest.raises(ValueError, match="the training annotations have changed"):
        train(TrainSegmenter(resume=tmp_path / "run"))


def test_two_files(small, masked, tmp_path):
    """One of training and one of validation images, of other sizes and other names of the splits."""
    for name, (config, _) in TASKS.items():
        splits = read_mask_dataset(masked) if name == "segmenter" else read_dataset(small)
        files = {side: tmp_path / f"{name} {side}.h5" for side in ("train", "val")}
        write_pack(files["train"], {"train": splits["train"]}, SIZE)
        write_pack(files["val"], {"all": splits["val"]}, 48)
        task = part(name, "train")(config(**files, **SETTINGS), Console(quiet=True))
        train, val = (task.open(data, what) for data, what in zip(task.load(), ("training", "validation"), strict=True))
        assert len(train) == 8 and len(val) == (4 if name == "localizer" else 5), name
        assert train.images.long_side == SIZE and val.images.long_side == 48, name


def test_a_file_and_a_folder(masked, packs, tmp_path):
    settings = SETTINGS | {"epochs": 1}
    config = TrainSegmenter(train=packs / "masks.h5", val=masked / "val.txt", output=tmp_path / "run", **settings)
    run = train(config)
    assert run.train.images.place == str(packs / "masks.h5") and run.val.images.place == "memory"
    assert len(run.val) == run.metrics.images.image_ids.size == 5


def test_images_that_are_too_small_are_warned_of(packs, tmp_path, caplog):
    settings = SETTINGS | {"size": 96, "epochs": 1}
    with caplog.at_level(logging.WARNING, "detseg"):
        train(TrainDetector(data=packs / "boxes.h5", output=tmp_path / "run", **settings))
    warned = [record.getMessage() for record in caplog.records if "long side" in record.getMessage()]
    assert len(warned) == 2, "training images to zoom into, validation images"
    assert "boxes.h5: its images have a long side of 64 px, the training images are wanted at 96 px" in warned[0]
    assert "pack them with --size 96" in warned[0] and "validation images are wanted at 96 px" in warned[1]


def test_a_mistake_is_one_line(packs, tmp_path, capsys):
    boxes, masks = packs / "boxes.h5", packs / "masks.h5"
    for task, file, other in (("detector", masks, "segmentation"), ("localizer", masks, "segmentation")):
        assert f"{file}: packed for {other}, not for detection: it can train a segmenter" in error_of(
            capsys, task, "--data", file
        )
    assert "packed for detection, not for segmentation: it can train a detector" in error_of(
        capsys, "segmenter", "--data", boxes
    )
    assert "packed for detection, not for classification: it can train a detector" in error_of(
        capsys, "classifier", "--data", boxes
    )
    assert "none.h5: does not exist" in error_of(capsys, "detector", "--data", tmp_path / "none.h5")
    (tmp_path / "cut.h5").write_bytes(boxes.read_bytes()[:5000])
    assert "cut.h5: damaged" in error_of(capsys, "detector", "--data", tmp_path / "cut.h5")
    (tmp_path / "text.h5").write_text("nothing of the kind")
    assert "text.h5: not an HDF5 file" in error_of(capsys, "segmenter", "--data", tmp_path / "text.h5")
    error = error_of(capsys, "detector", "--train", boxes, "--val", boxes, "--resume", boxes)
    assert "--resume takes all settings from the run" in error
    with h5py.File(tmp_path / "one.h5", "w") as target, h5py.File(boxes) as source:
        for name in ("category_ids", "category_names", "train"):
            source.copy(name, target)
        target.attrs.update(source.attrs)
    one = tmp_path / "one.h5"
    assert "no split 'val'; found: train" in error_of(capsys, "detector", "--data", one)
    error = error_of(capsys, "detector", "--train", one, "--val", one)
    assert "the image is in" in error and error.count("one.h5 (train), ") == 8
    with h5py.File(one, "a") as file:
        file["train/boxes"][0] = (90, 10, 20, 30)
    error = error_of(capsys, "detector", "--train", one, "--val", boxes)
    assert "one.h5 (train), " in error and "is reversed" in error and "--repair repairs all of them" in error
