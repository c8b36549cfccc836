"""One concept, one file: what is defined here, a detector, a format, a figure and an exporter, each with its decorator
or one line, works in every command without a change in the package."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import detseg
from detseg import registry
from detseg.cli import main
from detseg.data import read_annotations
from detseg.data.formats import FORMATS, Format
from detseg.data.formats.coco import read_coco
from detseg.detect.model import DetectionModel, flatten_targets, select
from detseg.exporters import EXPORTERS, register_exporter
from detseg.metrics import detection
from detseg.metrics.figure import Figure
from detseg.models import MODELS, register_model
from tests.small_set import write_small_set

SIZE = 64


@pytest.fixture(autouse=True)
def only_here(monkeypatch):
    """What these tests register is gone after them."""
    for known in (MODELS, EXPORTERS):
        monkeypatch.setattr(known, "_entries", dict(known._entries))
    formats, figures = list(FORMATS), list(detection.FIGURES)
    yield
    FORMATS[:], detection.FIGURES[:] = formats, figures


# ------------------------------------------------------------------ what a contributor writes


def define_detector():
    @register_model("toy", task="detect")
    class Toy(DetectionModel):
        """A class and a box for each cell of one map."""

        @dataclass(frozen=True, kw_only=True)
        class Options:
            stride: int = 32
            """Pixels a cell of the toy's map."""

        score_threshold, iou_threshold, max_detections = 0.01, 0.5, 100

        @classmethod
        def options_for(cls, data, config):
            sides = data.boxes[:, 2:] - data.boxes[:, :2]
            return {"strides": [config.stride], "typical": sides.mean(0).round(1).tolist()}

        def __init__(self, backbone, num_classes, *, typical):
            super().__init__(backbone)
            self.backbone, self.num_classes = backbone, num_classes
            self.head = nn.Conv2d(backbone.channels[-1], num_classes + 1 + 4, 1)
            self.register_buffer("typical", torch.tensor(typical), persistent=False)

        def raw(self, images):
            maps = self.head(self.backbone(self.normalise(images))[-1]).float()
            scores, numbers = maps.split([self.num_classes + 1, 4], 1)
            stride = self.backbone.strides[-1]
            y, x = torch.meshgrid(*(torch.arange(n, device=maps.device) for n in maps.shape[-2:]), indexing="ij")
            centres = (torch.stack([x, y], -1).view(-1, 2) + 0.5) * stride
            numbers = numbers.flatten(2).transpose(1, 2)
            middle = centres + numbers[..., :2].tanh() * stride
            half = self.typical * numbers[..., 2:].clamp(-2, 2).exp() / 2
            return torch.cat([middle - half, middle + half], -1), scores.flatten(2).transpose(1, 2)

        def forward(self, images, targets=None):
            boxes, logits = self.raw(images)
            if targets is None:
                scores, size = logits.softmax(-1)[..., 1:], images.shape[-2:]
                return [select(b, s, size, self).found for b, s in zip(boxes, scores, strict=True)]
            flat, stride = flatten_targets(targets, len(images)), self.backbone.strides[-1]
            rows, columns = (-(-side // stride) for side in images.shape[-2:])
            middle = ((flat.boxes[:, :2] + flat.boxes[:, 2:]) / 2 / stride).long()
            cell = middle[:, 1].clamp(0, rows - 1) * columns + middle[:, 0].clamp(0, columns - 1)
            classes = torch.zeros(logits.shape[:2], dtype=torch.long, device=images.device)
            classes[flat.image, cell] = flat.labels + 1
            box = F.smooth_l1_loss(boxes[flat.image, cell], flat.boxes, reduction="sum") / stride
            return {
                "loss_class": F.cross_entropy(logits.flatten(0, 1), classes.flatten()),
                "loss_box": box / max(1, len(flat.boxes)),
            }


def define_format():
    """A folder with a `toy.json` that names a COCO file for each split."""

    def find(path, images=None):
        listed = Path(path) / "toy.json"
        if not listed.is_file():
            return None
        files = json.loads(listed.read_text())
        return {split: (lambda file=file: read_coco(Path(path) / file, images)) for split, file in files.items()}

    FORMATS.append(Format("toy", "Toy", "a folder with toy.json", find))


def define_figure():
    detection.FIGURES.append(
        Figure("toy_share", "toy share", "images with a detection", lambda metrics: metrics.detections / metrics.images)
    )


def define_exporter():
    @register_exporter("npz")
    def write_npz(predictor, path):
        module = predictor.model.exportable()
        example = torch.zeros(1, 3, predictor.size, predictor.size)
        with torch.no_grad():
            boxes, scores = module(example)
        np.savez(path, boxes=boxes.numpy(), scores=scores.numpy(), names=predictor.names)


# ------------------------------------------------------------------ what its users do


@pytest.mark.slow
def test_a_detector_a_format_a_figure_and_an_exporter(tmp_path, capsys):
    for define in (define_detector, define_format, define_figure, define_exporter):
        define()
    small = write_small_set(tmp_path / "small", train=8)
    (small / "toy.json").write_text(json.dumps({"train": "train.json", "val": "val.json"}))
    for split in ("train", "val"):  # or it would be a COCO folder, which comes first
        (small / f"{split}.json").rename(small / f"{split}.data")
    (small / "toy.json").write_text(json.dumps({"train": "train.data", "val": "val.data"}))
    assert len(read_annotations(small, "train")) == 8

    run = tmp_path / "run"
    words = ["--backbone", "test_efficientnet", "--weights", "none", "--size", str(SIZE), "--epochs", "2"]
    command = ["train", "detector", "--model", "toy", "--data", str(small), "--output", str(run)]
    assert main([*command, *words, "--stride", "16", "--precision", "fp32", "--batch-size", "4"]) == 0
    told = capsys.readouterr().out
    assert "toy share" in told, "the table has the figure"

    description = json.loads((run / "model.json").read_text())
    assert description["architecture"]["kind"] == "toy" and description["architecture"]["strides"] == [16]
    assert json.loads((run / "config.json").read_text())["model"] == "toy"
    with (run / "metrics.csv").open() as file:
        assert {"map", "toy_share"} <= set(next(csv.reader(file)))
    assert "toy share" in (run / "report.html").read_text()

    # The trained model in Python, on the command line, evaluated, resumed.
    image = next((small / "images").glob("val*"))
    (found,) = detseg.load(run).predict([str(image)], score_threshold=0.01)
    assert set(found) == {"boxes", "scores", "labels"}
    assert main(["predict", str(run), str(image), "--output", str(tmp_path / "found")]) == 0
    assert cv2.imread(str(tmp_path / "found" / f"{image.stem}.jpg")) is not None
    capsys.readouterr()
    assert main(["evaluate", "--detections", str(run), "--json", "--csv", str(tmp_path / "figures.csv")]) == 0
    assert "toy_share" in json.loads(capsys.readouterr().out)["figures"]
    assert "toy_share" in (tmp_path / "figures.csv").read_text().splitlines()[0]
    assert main(["train", "detector", "--resume", str(run)]) == 0

    # Exported.
    assert main(["export", str(run), "--format", "npz", "--output", str(tmp_path / "toy.npz")]) == 0
    written = np.load(tmp_path / "toy.npz")
    assert written["boxes"].shape == (1, 16, 4) and written["scores"].shape == (1, 16, 3)
    assert written["names"].tolist() == detseg.load(run).names


def test_the_names_are_in_help_and_messages(tmp_path, capsys):
    for define in (define_detector, define_format, define_exporter):
        define()
    with pytest.raises(SystemExit):
        main(["train", "detector", "--model", "toy", "--help"])
    told = capsys.readouterr().out
    assert "--stride" in told and "--anchors INT" not in told
    with pytest.raises(SystemExit, match="no model is named 'toys'; did you mean toy"):
        main(["train", "detector", "--model", "toys", "--data", "x"])
    assert main(["evaluate", "--detections", str(tmp_path / "nothing.json"), "--ground-truth", "x"]) == 1
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    assert main(["train", "detector", "--data", str(tmp_path / "empty")]) == 1
    assert "a folder with toy.json" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no export format is named 'onxn'; did you mean onnx"):
        EXPORTERS["onxn"]


def test_names_are_given_once():
    define_detector()
    with pytest.raises(ValueError, match="a model named 'toy' is registered already"):
        define_detector()
    with pytest.raises(ValueError, match="a model named 'yolo' is registered already"):
        registry.register_model("yolo", task="detect")(object)
