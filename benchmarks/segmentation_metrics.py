"""Metrics of segmentation: detseg against torchmetrics, scikit-learn and numpy.

    python benchmarks/segmentation_metrics.py [--images 1000] [--classes 21] [--size 512]

On drawn label maps, smooth areas with ragged borders and a band of ignored pixels; a hundred different images are
taken again and again. One thread. Each library gets the maps one image at a time, as uint8 and, as an argmax gives
them, as int64, and adds up a confusion matrix; the best of three rounds counts. The matrices are compared first.
scikit-learn takes long, so it counts fewer images.

Then Boundary IoU: all classes at once, as detseg does, against the erosion of one class's mask after the other, as the
authors' program does; without ignored pixels, so that the numbers are the same. torchmetrics is left out where it is
not installed (`pip install torchmetrics`).
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import confusion_matrix

from detseg.metrics import SegmentationEvaluator
from detseg.metrics.segmentation.boundary import boundary_counts, boundary_distance

IGNORE = 255
DIFFERENT = 100  # images; more would only need more memory
Maps = list[NDArray[np.integer]]
Counter = Callable[[Maps, Maps], NDArray[np.int64]]


def draw_maps(count: int, size: int, classes: int) -> tuple[Maps, Maps]:
    """Predictions and targets, (size, size) uint8; an image shows up to six classes."""
    rng = np.random.default_rng(0)
    predictions, targets = [], []
    for _ in range(count):
        shown = rng.choice(classes, min(6, classes), replace=False).astype(np.uint8)
        scores = cv2.resize(
            rng.random((size // 64, size // 64, len(shown))), (size, size), interpolation=cv2.INTER_CUBIC
        )
        target = shown[scores.argmax(axis=2)]
        ragged = scores + cv2.resize(rng.normal(0, 0.05, (size // 4, size // 4, len(shown))), (size, size))
        edge = cv2.morphologyEx(target, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        predictions.append(shown[ragged.argmax(axis=2)])
        targets.append(np.where(edge, np.uint8(IGNORE), target))
    return predictions, targets


def with_detseg(classes: int) -> Counter:
    def count(predictions: Maps, targets: Maps) -> NDArray[np.int64]:
        evaluator = SegmentationEvaluator([str(k) for k in range(classes)], boundary=False)
        for i, pair in enumerate(zip(predictions, targets, strict=True)):
            evaluator.update(*([labels] for labels in pair), [i])
        return evaluator.compute().confusion

    return count


def with_numpy(classes: int) -> Counter:
    def count(predictions: Maps, targets: Maps) -> NDArray[np.int64]:
        total = np.zeros(classes**2, np.int64)
        for prediction, target in zip(predictions, targets, strict=True):
            judged = target != IGNORE
            codes = target[judged].astype(np.int64) * classes + prediction[judged]
            total += np.bincount(codes, minlength=classes**2)
        return total.reshape(classes, classes)

    return count


def with_torchmetrics(classes: int) -> Counter:
    from torchmetrics import JaccardIndex

    def count(predictions: Maps, targets: Maps) -> NDArray[np.int64]:
        metric = JaccardIndex(task="multiclass", num_classes=classes, ignore_index=IGNORE)
        for prediction, target in zip(predictions, targets, strict=True):
            metric.update(torch.from_numpy(prediction), torch.from_numpy(target))
        metric.compute()
        return metric.confmat.numpy()

    return count


def with_sklearn(classes: int) -> Counter:
    def count(predictions: Maps, targets: Maps) -> NDArray[np.int64]:
        total = np.zeros((classes, classes), np.int64)
        for prediction, target in zip(predictions, targets, strict=True):
            judged = target != IGNORE
            total += confusion_matrix(target[judged], prediction[judged], labels=range(classes))
        return total

    return count


def class_by_class(target: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """(3, K) as `boundary_counts`, from the masks of the classes that are there."""
    distance = boundary_distance(*target.shape)
    counts = np.zeros((3, classes), np.int64)
    for k in np.union1d(np.unique(target), np.unique(prediction)):
        edges = []
        for labels in (target, prediction):
            mask = (labels == k).astype(np.uint8)
            framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
            inner = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
            edges.append(mask - inner)
        counts[:, k] = edges[0].sum(), edges[1].sum(), (edges[0] & edges[1]).sum()
    return counts


def seconds(step: Callable[[], object], rounds: int = 3) -> Iterator[float]:
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        yield time.perf_counter() - start


def confusion_table(predictions: Maps, targets: Maps, options: argparse.Namespace) -> Table:
    counters = {"detseg": with_detseg, "numpy.bincount": with_numpy, "scikit-learn": with_sklearn}
    if importlib.util.find_spec("torchmetrics"):
        counters["torchmetrics"] = with_torchmetrics
    else:
        Console().print("torchmetrics is not installed and is left out")
    table = Table(title=f"confusion matrix, images/s, {options.size} px, {options.classes} classes")
    for column in ("library", "uint8", "int64", "ratio uint8", "ratio int64"):
        table.add_column(column, justify="left" if column == "library" else "right")
    few = min(20, len(targets), options.images)
    expected = with_numpy(options.classes)(predictions[:few], targets[:few])
    rates: dict[str, list[float]] = {}
    for dtype in (np.uint8, np.int64):
        different = [[labels.astype(dtype) for labels in side] for side in (predictions, targets)]
        sides = [[side[i % len(side)] for i in range(options.images)] for side in different]
        for name, make in counters.items():
            count = make(options.classes)
            if not np.array_equal(count(sides[0][:few], sides[1][:few]), expected):
                raise SystemExit(f"{name} counts other pixels than numpy")
            some = few if name == "scikit-learn" else options.images
            best = min(seconds(lambda n=some, c=count, s=sides: c(s[0][:n], s[1][:n])))
            rates.setdefault(name, []).append(some / best)
    for name, row in rates.items():
        ratios = [ours / other for ours, other in zip(rates["detseg"], row, strict=True)]
        table.add_row(name, *(f"{rate:.0f}" for rate in row), *(f"{ratio:.1f}" for ratio in ratios))
    return table


def boundary_table(predictions: Maps, targets: Maps, options: argparse.Namespace) -> Table:
    pairs = [(np.where(t == IGNORE, p, t), p) for p, t in zip(predictions, targets, strict=True)]
    for target, prediction in pairs:
        ours, theirs = (f(target, prediction, options.classes) for f in (boundary_counts, class_by_class))
        if not np.array_equal(ours, theirs):
            raise SystemExit("the two ways find different boundaries")
    table = Table(title=f"Boundary IoU, {options.size} px, up to 6 classes an image")
    for column in ("way", "images/s", "ratio"):
        table.add_column(column, justify="left" if column == "way" else "right")
    ways = {"detseg, all classes at once": boundary_counts, "erosion class by class": class_by_class}
    rates = {
        name: len(pairs) / min(seconds(lambda f=way: [f(*pair, options.classes) for pair in pairs]))
        for name, way in ways.items()
    }
    ours = next(iter(rates.values()))
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.0f}", f"{ours / rate:.1f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    predictions, targets = draw_maps(min(DIFFERENT, options.images), options.size, options.classes)
    Console().print(confusion_table(predictions, targets, options))
    Console().print(boundary_table(predictions, targets, options))


if __name__ == "__main__":
    main()
