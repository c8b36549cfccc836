"""Metrics of classifiers: accuracy, figures of each class, the confusion matrix, and calibration."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.arrays import as_numpy, divide, most_confused, none_for_nan
from detseg.metrics.bootstrap.classification import bootstrap_classification
from detseg.metrics.bootstrap.draws import Interval
from detseg.metrics.detection.records import stop_at, whole_numbers
from detseg.metrics.evaluator import Evaluator, State
from detseg.metrics.figure import Figure, attribute_figures, figures_of

FIGURES: list[Figure] = attribute_figures(
    ("top1", "accuracy", "right at the first guess"),
    ("top5", "top-5 accuracy", "among the first five guesses"),
    ("mean_class_accuracy", "mean class accuracy", "every class counts alike"),
    ("macro_f1", "macro F1", "precision and recall, every class alike"),
    ("log_loss", "log loss", "lower is better"),
    ("calibration_error", "calibration error", "how far confidence is from accuracy"),
)
BINS = 15  # of the calibration, as in the paper


@dataclass(frozen=True, eq=False)
class Calibration:
    """Is a classifier that is 80 % sure right in 80 % of the cases? In B bins of equal width; NaN in empty ones."""

    edges: NDArray[np.float64]  # (B + 1,) a bin holds what is above its lower edge, up to and with its upper one
    counts: NDArray[np.int64]  # (B,)
    confidence: NDArray[np.float64]  # (B,) mean of the highest probability
    accuracy: NDArray[np.float64]  # (B,)

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap between the two, by the number of images."""
        there = self.counts > 0
        gaps = np.abs(self.accuracy - self.confidence)[there]
        return float(np.average(gaps, weights=self.counts[there]))


def calibrate(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS) -> Calibration:
    """Compare confidence (N,) in 0..1 with whether it was right (N,) (Guo et al. 2017, arXiv:1706.04599)."""
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(bin_of, values, minlength=bins) / counts for values in (confidence, right)]
    return Calibration(edges, counts.astype(np.int64), means[0], means[1])


@dataclass(frozen=True)
class ClassFigures:
    """One class; NaN where no images count."""

    name: str
    count: int  # images of it
    predicted: int  # images predicted as it
    precision: float  # share of the latter that are of it
    recall: float  # share of the former that were found: the accuracy on this class
    f1: float  # harmonic mean of the two


@dataclass(frozen=True, eq=False)
class ClassificationMetrics:
    """Metrics of a set of images; means over classes are over those that have images."""

    top1: float  # accuracy: share of images whose class has the highest score
    top5: float  # share whose class is among the five highest; 1 where there are no more than five classes
    mean_class_accuracy: float  # mean recall (balanced accuracy)
    macro_f1: float  # mean F1
    log_loss: float  # mean of -log of the probability of the right class
    calibration: Calibration
    per_class: tuple[ClassFigures, ...]  # (K,)
    confusion: NDArray[np.int64]  # (K, K) images of class i (row) that were predicted as class j (column)
    intervals: dict[str, Interval]  # of the first three, by bootstrap over images; empty if not asked for
    level: float  # of the intervals
    images: int

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (Guo et al. 2017)."""
        return self.calibration.error

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(row.name for row in self.per_class)

    @property
    def largest_class(self) -> ClassFigures:
        """The class with most images, of equals the first: always answering it is the accuracy to beat."""
        return max(self.per_class, key=lambda row: row.count)

    def shown(self) -> list[Figure]:
        """`FIGURES` without what says nothing: of up to five classes the right one is always among the first five."""
        return [f for f in FIGURES if f.name != "top5" or len(self.per_class) > 5]

    def figures(self) -> dict[str, float]:
        """All figures by name."""
        return figures_of(self, FIGURES)

    def most_confused(self, most: int = 10) -> list[tuple[str, str, int]]:
        """(true class, predicted class, count) of the most frequent confusions, the most frequent first."""
        return most_confused(self.confusion, self.names, most)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python for `json.dump`, NaN as None."""
        content = {
            "images": self.images,
            "largest_class": {"name": self.largest_class.name, "share": self.largest_class.count / self.images},
            "level": self.level,
            "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
            "per_class": [asdict(row) for row in self.per_class],
            "confusion": self.confusion.tolist(),
            "calibration": {name: values.tolist() for name, values in vars(self.calibration).items()},
        }
        return none_for_nan(self.figures() | content)


class ClassificationEvaluator(Evaluator):
    """Collect the scores of images batch by batch and evaluate them; a few numbers are kept of each image.

        evaluator = ClassificationEvaluator(["rose", "tulip"])
        evaluator.update(logits, labels, image_ids)
        metrics = evaluator.compute()

    `names` are those of the classes in label order; `scores` says what `update` gets: raw outputs of the network, or
    probabilities. Raises ValueError where there are no names, or `scores` is neither.
    """

    def __init__(self, names: Sequence[str], scores: Literal["logits", "probabilities"] = "logits") -> None:
        super().__init__()
        if not names:
            raise ValueError("the list of names is empty: give one for each class")
        if scores not in ("logits", "probabilities"):
            raise ValueError(f"scores must be 'logits' or 'probabilities', not {scores!r}")
        self.names, self.scores = tuple(names), scores

    def update(self, predictions: Any, targets: Any, image_ids: Any) -> None:
        """Add some images.

        Args:
            predictions: (N, K) logits, or probabilities that sum to 1; torch on any device, or numpy.
            targets: (N,) labels in 0..K-1.
            image_ids: (N,) whole numbers, each image's own.

        Raises:
            ValueError: shapes do not fit, or a score or label is out of its range; the message names the image.
        """
        values = as_numpy(predictions).astype(np.float64)
        right, ids = (whole_numbers(v, n) for v, n in ((targets, "labels"), (image_ids, "image_ids")))
        self._check_batch(values, right, ids)
        if not len(ids):
            return
        if self.scores == "logits":
            shifted = values - values.max(axis=1, keepdims=True)
            logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        else:
            # As scikit-learn does: the loss of a class that is ruled out is large, not infinite.
            logs = np.log(np.maximum(values, np.finfo(np.float64).eps))
        rows = np.arange(len(ids))
        own = values[rows, right][:, None]
        # Among equal scores the lower label comes first, as argmax has it.
        before = (values > own) | ((values == own) & (np.arange(values.shape[1]) < right[:, None]))
        predicted = values.argmax(axis=1)
        self._add(
            {
                "image_ids": ids,
                "labels": right,
                "predicted": predicted,
                "ranks": before.sum(axis=1),
                "confidence": np.minimum(np.exp(logs[rows, predicted]), 1.0),
                "losses": -logs[rows, right],
            }
        )

    def compute(self, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> ClassificationMetrics:
        """The metrics of all images so far, of which there must be one.

        Options are as for `bootstrap_detection`; 0 resamples leave the intervals out.
        """
        state, classes = self._collected(), len(self.names)
        cells = np.bincount(state["labels"] * classes + state["predicted"], minlength=classes**2)
        confusion = cells.reshape(classes, classes).astype(np.int64)
        hits, counts, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
        ratios = divide(hits, predicted), divide(hits, counts), divide(2 * hits, counts + predicted)
        columns = [column.tolist() for column in (counts, predicted, *ratios)]
        per_class = tuple(ClassFigures(*row) for row in zip(self.names, *columns, strict=True))
        there = [row for row in per_class if row.count]
        right = state["ranks"] < 1
        intervals = {}
        if resamples:
            given = state["labels"], state["ranks"], classes
            intervals = bootstrap_classification(*given, resamples=resamples, level=level, seed=seed)
        return ClassificationMetrics(
            top1=float(right.mean()),
            top5=float((state["ranks"] < 5).mean()),
            mean_class_accuracy=float(np.mean([row.recall for row in there])),
            macro_f1=float(np.mean([row.f1 for row in there])),
            log_loss=float(state["losses"].mean()),
            calibration=calibrate(state["confidence"], right),
            per_class=per_class,
            confusion=confusion,
            intervals=intervals,
            level=level,
            images=len(right),
        )

    def _settings(self) -> State:
        return {"names": self.names}

    def _empty(self) -> State:
        whole, real = ("image_ids", "labels", "predicted", "ranks"), ("confidence", "losses")
        return dict.fromkeys(whole, np.zeros(0, np.int64)) | dict.fromkeys(real, np.zeros(0))

    def _check_batch(self, values: NDArray[np.float64], labels: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        classes = len(self.names)
        if values.shape != (len(ids), classes) or labels.shape != ids.shape or ids.ndim != 1:
            raise ValueError(
                f"scores {values.shape}, labels {labels.shape} and image_ids {ids.shape} do not fit: expected "
                f"(N, {classes}), (N,) and (N,)"
            )

        def image(i: int) -> str:
            return f"image {ids[i]}"

        infinite = ~np.asarray(np.isfinite(values).all(axis=1))
        stop_at(infinite, image, lambda i: f"its scores hold NaN or infinity: {values[i]!r:.80}")
        stop_at((labels < 0) | (labels >= classes), image, lambda i: f"label {labels[i]} is not in 0..{classes - 1}")
        if self.scores == "probabilities":
            # 1 %: what bfloat16 leaves of a sum of 1.
            bad = (values < 0).any(axis=1) | (np.abs(values.sum(axis=1) - 1) > 0.01)
            stop_at(bad, image, lambda i: f"no probabilities, they sum to {values[i].sum():.6g}: {values[i]!r:.80}")
