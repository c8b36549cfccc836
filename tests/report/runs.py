"""Runs of each task as their pages see them, without training: a small set and predictions that are partly wrong."""

from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import torch

import detseg.report.pages.segmenter
from detseg.backbones import create_backbone
from detseg.data import read_annotations, read_image
from detseg.data.polygons import SegmentsBuilder
from detseg.detect import YoloDetector
from detseg.metrics import (
    ClassificationEvaluator,
    Detections,
    InstanceEvaluator,
    classification,
    detection,
    evaluate_detections,
    evaluate_segmentation,
    localization,
    segmentation,
)
from detseg.metrics.detection.average_precision import of_masks
from detseg.metrics.detection.run_lengths import encode_masks
from detseg.metrics.localization import evaluate_localization
from detseg.predict import Detector
from detseg.report.pages.classifier import ClassifierPage
from detseg.report.pages.detector import DetectorPage
from detseg.report.pages.localizer import LocalizerPage
from detseg.report.pages.segmenter import SegmenterPage
from tests.small_set import write_small_set

EVIL = "<b>\"rose\" & 'co'</b><script>alert(1)</script>"


class Dataset(SimpleNamespace):
    """As long as its images."""

    def __len__(self):
        return len(self.images)


def a_run(folder, task, train, val, columns=None, figures=(), **more):
    """A run with a history of two validations, the first epoch without one."""
    names = [*(columns or {}).values()] or [figure.name for figure in figures[:2]]
    lines = ["epoch,step,seconds,lr,loss,loss_a,loss_b," + ",".join(names)]
    for epoch, value in enumerate(("", "0.25", "0.5"), start=1):
        lines.append(f"{epoch},{epoch},9,0.001,{3 / epoch:.3f},1,1," + ",".join([value] * len(names)))
    (folder / "metrics.csv").write_text("\n".join(lines))
    config = SimpleNamespace(size=64, backbone="lenet5", seed=0, mosaic=0.5, mixup=0.5, decoder="fcn", strategy="probe")

    class Samples:
        """What training sees: here each image as it is."""

        def __init__(self, dataset, _config):
            self.dataset = dataset

        def __getitem__(self, request):
            assert request.size == 64 and request.epoch == 0
            return self.dataset.samples[request.image], [request.image]

    def target(dataset, index):
        data = dataset.annotations
        return {name: getattr(data, name)[data.objects(index)] for name in ("boxes", "labels", "iscrowd")}

    columns = columns or {}
    kind = SimpleNamespace(name=task, FIGURES=figures, columns=columns, samples=Samples, target=target)
    more = {
        "options": {},
        "drawn": {},
        "seconds": 90.0,
        "predictions": None,
        "rates": None,
        "figures": {columns.get(figure.name, figure.name): figure.title for figure in figures},
    } | more
    return SimpleNamespace(folder=folder, config=config, task=kind, train=train, val=val, **more)


def boxed(folder):
    """Training and validation set with boxes, and predictions: the first class rightly, the second a bit off."""
    write_small_set(folder / "data")
    sets = []
    for split in ("train", "val"):
        data = read_annotations(folder / "data" / f"{split}.json")
        images = [read_image(path) for path in data.paths]
        samples = [
            SimpleNamespace(
                image=image, boxes=data.boxes[s], labels=data.labels[s], iscrowd=data.iscrowd[s], masks=None
            )
            for image, s in ((image, data.objects(i)) for i, image in enumerate(images))
        ]
        sets.append(Dataset(images=images, annotations=data, samples=samples))
    val = sets[1].annotations
    found = [
        {
            "boxes": val.boxes[val.objects(i)] + 3 * i * val.labels[val.objects(i)][:, None],
            "labels": val.labels[val.objects(i)],
            "scores": 0.9 - 0.1 * val.labels[val.objects(i)],
        }
        for i in range(len(val))
    ]
    return *sets, found


@cache
def sure_detector():
    """A network with random weights that is sure of whatever it finds: what looks at the images again."""
    torch.manual_seed(0)
    model = YoloDetector(
        create_backbone("test_efficientnet", strides=(8, 16)), 2, torch.full((2, 1, 2), 20.0), width=16
    )
    with torch.no_grad():
        model.head.box.bias[-1] = 4
    categories = [{"id": k, "name": name} for k, name in enumerate(("square", "bar"))]
    return Detector(model, {"categories": categories, "size": 64})


def detector(folder):
    """The page of a detector's run."""
    train, val, found = boxed(folder)
    data = val.annotations
    ids = [category.id for category in data.categories]
    metrics = evaluate_detections(data, Detections.from_predictions(found, data.image_ids.tolist(), ids))
    page = DetectorPage(
        a_run(
            folder, "detector", train, val, {"AP": "map", "AP50": "map50"}, detection.FIGURES, metrics=metrics,
            predictions=found, options={"anchors": [[[10, 12], [30, 20]], [[40, 15], [20, 40]]]},
        )
    )  # fmt: skip
    page.predictor = sure_detector()
    return page


def instances(folder):
    """The page of a detector that finds masks: the left two thirds of each box; the truth is the whole box."""
    train, val, found = boxed(folder)
    builder = SegmentsBuilder()
    for x1, y1, x2, y2 in val.annotations.boxes.tolist():
        builder.add_polygons([[x1, y1, x2, y1, x2, y2, x1, y2]])
    data = val.annotations = replace(val.annotations, segments=builder.build())
    for one in found:
        masks = np.zeros((len(one["boxes"]), 72, 96), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, one["boxes"].astype(int).tolist(), strict=True):
            mask[y1:y2, x1 : x1 + 2 * (x2 - x1) // 3] = 1
        one["masks"] = encode_masks(masks, len(masks), "test")
    evaluator = InstanceEvaluator(data)
    evaluator.update(found, data.image_ids)
    metrics, figures = evaluator.compute(), [*detection.FIGURES, *map(of_masks, detection.FIGURES)]
    columns = {"mask_AP": "mask_map", "AP": "map"}
    page = DetectorPage(a_run(folder, "detector", train, val, columns, figures, metrics=metrics, predictions=found))
    page.predictor = sure_detector()
    return page


def localizer(folder):
    """The page of a localizer's run."""
    train, val, found = boxed(folder)
    data = val.annotations
    first = [data.objects(i).start for i in range(len(data) - 1)]  # there is nothing in the last image
    boxes, labels = (np.array([f[name][0] for f in found[:-1]]) for name in ("boxes", "labels"))
    metrics = evaluate_localization(boxes, labels, data.boxes[first], data.labels[first], data.names)
    figures = localization.FIGURES
    return LocalizerPage(a_run(folder, "localizer", train, val, None, figures, metrics=metrics, predictions=found))


def segmenter(folder, monkeypatch):
    """The page of a segmenter's run: background and a class that is found worse and worse; the third is nowhere."""
    truth = np.zeros((3, 48, 64), np.uint8)
    truth[:, 10:40, 10:40] = 1
    found = truth.copy()
    for i in range(3):
        found[i, 10 : 10 + 6 * i] = 0
    names = ["background", EVIL, "tulip"]
    images = [np.full((48, 64, 3), 90, np.uint8)] * 3
    data = SimpleNamespace(
        names=names, image_ids=np.arange(3), paths=["a.jpg", "b.jpg", "c.jpg"], mask=truth.__getitem__
    )
    samples = [SimpleNamespace(image=image, mask=mask) for image, mask in zip(images, truth, strict=True)]
    dataset = Dataset(images=images, annotations=data, samples=samples)
    metrics = evaluate_segmentation(truth, found, names)
    worst = metrics.images.worst(3)
    model = SimpleNamespace(stream=lambda images: [SimpleNamespace(mask=found[i]) for i in worst])
    model.to = lambda device: model
    monkeypatch.setattr(detseg.report.pages.segmenter, "load", lambda folder: model)
    monkeypatch.setattr(detseg.report.pages.segmenter, "full_images", lambda data, chosen: [images[i] for i in chosen])
    figures, options = segmentation.FIGURES, {"strides": [8, 16, 32]}
    return SegmenterPage(a_run(folder, "segmenter", dataset, dataset, None, figures, metrics=metrics, options=options))


def classifier(folder, classes=6):
    """The page of a classifier's run; the last class has no images."""
    rng = np.random.default_rng(0)
    names = [f"class {k}" for k in range(classes)]
    labels = rng.integers(0, classes - 1, 40)
    probabilities = rng.dirichlet(np.ones(classes), 40) + np.eye(classes)[labels] * 0.5
    probabilities /= probabilities.sum(1, keepdims=True)
    images = [np.full((50, 70, 3), 40 * label + 20, np.uint8) for label in labels]
    labelled = SimpleNamespace(names=names, labels=labels)
    dataset = Dataset(images=images, labelled=labelled, samples=list(zip(images, labels, strict=True)))
    evaluator = ClassificationEvaluator(names, "probabilities")
    evaluator.update(probabilities, labels, np.arange(40))
    metrics, figures = evaluator.compute(), classification.FIGURES
    run = a_run(folder, "classifier", dataset, dataset, None, figures, metrics=metrics, predictions=probabilities)
    return ClassifierPage(run)


def pages(monkeypatch):
    """Makers of a page in a folder, by task."""
    return {
        "detector": detector,
        "segmenter": partial(segmenter, monkeypatch=monkeypatch),
        "classifier": classifier,
        "localizer": localizer,
    }
