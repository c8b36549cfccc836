"""How good a classifier is: accuracy, per class too, what is taken for what, and whether its confidence is right."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detseg.metrics.bootstrap.draws import Interval
from detseg.metrics.calibration import Calibration, calibrate
from detseg.metrics.detection.records import as_numpy, none_for_nan, whole_numbers, without_labels
from detseg.metrics.figure import Figure, figures_of

FIGURES: list[Figure] = [
    Figure("top1", "accuracy", "right at the first guess", attrgetter("top1")),
    Figure("top5", "top-5 accuracy", "among the first five guesses", attrgetter("top5")),
    Figure("mean_class_accuracy", "mean class accuracy", "every class counts alike", attrgetter("mean_class_accuracy")),
    Figure("macro_f1", "macro F1", "precision and recall, every class alike", attrgetter("macro_f1")),
    Figure("log_loss", "log loss", "lower is better", attrgetter("log_loss")),
    Figure(
        "calibration_error",
        "calibration error",
        "how far confidence is from accuracy",
        attrgetter("calibration_error"),
    ),
]

State = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ClassFigures:
    """One class; NaN where there is nothing to judge by."""

    name: str
    count: int  # images of it
    predicted: int  # images that were taken for it
    precision: float  # share of the latter that are of it
    recall: float  # share of the former that were found: the accuracy on this class
    f1: float  # harmonic mean of the two


@dataclass(frozen=True, eq=False)
class ClassificationMetrics:
    """What `ClassificationEvaluator` found.

    Attributes:
        top1: accuracy: the share of images whose class has the highest score.
        top5: the share whose class is among the five highest; 1 where there are no more than five classes.
        mean_class_accuracy: mean recall of the classes that have images (balanced accuracy).
        macro_f1: mean F1 of the classes that have images.
        log_loss: mean of -log of the probability of the right class.
        calibration: and its error, see there.
        per_class: (K,).
        confusion: (K, K) images of class i (row) that were taken for class j (column).
        intervals: of top1, top5 and mean_class_accuracy, by drawing the images again; empty if not asked for.
        level: of the intervals.
        images: number of images.
    """

    top1: float
    top5: float
    mean_class_accuracy: float
    macro_f1: float
    log_loss: float
    calibration: Calibration
    per_class: tuple[ClassFigures, ...]
    confusion: NDArray[np.int64]
    intervals: dict[str, Interval]
    level: float
    images: int

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (Guo et al. 2017)."""
        return self.calibration.error

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(row.name for row in self.per_class)

    def shown(self) -> list[Figure]:
        """`FIGURES` without what says nothing: of up to five classes the right one is always among the first five."""
        return [f for f in FIGURES if f.name != "top5" or len(self.per_class) > 5]

    def figures(self) -> dict[str, float]:
        """All figures by name."""
        return figures_of(self, FIGURES)

    def most_confused(self, most: int = 10) -> list[tuple[str, str, int]]:
        """(true class, class it was taken for, count) of the commonest mix-ups, the commonest first."""
        between = self.confusion * (1 - np.eye(len(self.confusion), dtype=np.int64))
        order = np.argsort(-between, axis=None, kind="stable")[:most]
        rows, columns = np.unravel_index(order, between.shape)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return [(self.names[i], self.names[j], int(between[i, j])) for i, j in pairs if between[i, j]]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python for `json.dump`, NaN as None."""
        return none_for_nan(
            self.figures()
            | {
                "images": self.images,
                "level": self.level,
                "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
                "per_class": [asdict(row) for row in self.per_class],
                "confusion": self.confusion.tolist(),
                "calibration": {name: values.tolist() for name, values in vars(self.calibration).items()},
            }
        )


class ClassificationEvaluator:
    """Collect what a classifier says of images, batch by batch, and judge it.

        evaluator = ClassificationEvaluator(["rose", "tulip"])
        evaluator.update(logits, labels, image_ids)
        metrics = evaluator.compute()

    In several processes each has an evaluator of its own; it can be pickled, and `merge` joins them. An image that
    came more than once, as distributed samplers repeat some, counts once. A few numbers are kept of each image,
    whatever the number of classes.

    Args:
        names: of the classes, in label order.
        scores: what `update` gets: raw outputs of the network, or probabilities.

    Raises:
        ValueError: there are no names, or `scores` is neither.
    """

    def __init__(self, names: Sequence[str], scores: Literal["logits", "probabilities"] = "logits") -> None:
        if not names:
            raise ValueError("the list of names is empty: give one for each class")
        if scores not in ("logits", "probabilities"):
            raise ValueError(f"scores must be 'logits' or 'probabilities', not {scores!r}")
        self.names, self.scores = tuple(names), scores
        self._parts: list[State] = []

    def __len__(self) -> int:
        """Images seen so far, each counted once."""
        return len(np.unique(self._joined()["image_ids"]))

    def update(self, scores: Any, labels: Any, image_ids: Any) -> None:
        """Add some images.

        Args:
            scores: (N, K) logits, or probabilities that sum to 1; torch on any device, or numpy.
            labels: (N,) in 0..K-1.
            image_ids: (N,) whole numbers, each image's own.

        Raises:
            ValueError: shapes do not fit, a score is NaN or infinite, probabilities are none, or a label is
                outside 0..K-1; the message names the image.
        """
        values = as_numpy(scores).astype(np.float64)
        right, ids = (whole_numbers(as_numpy(v), n) for v, n in ((labels, "labels"), (image_ids, "image_ids")))
        self._check(values, right, ids)
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
        self._parts.append(
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
        """The metrics of everything that came so far; more may follow.

        Args:
            resamples: how often to draw the images again for the intervals; 0 leaves them out.
            level: how much of the spread lies within the limits.
            seed: of the draws.

        Raises:
            ValueError: no image came, or an option is out of range.
        """
        if resamples < 0 or not 0 < level < 1:
            raise ValueError(f"resamples must not be negative, level between 0 and 1; got {resamples}, {level}")
        state = self._joined()
        once = np.sort(np.unique(state["image_ids"], return_index=True)[1])
        state = {name: values[once] for name, values in state.items()}
        if not len(once):
            raise ValueError("no images to judge: call update first")
        confusion = _confusion(state, len(self.names))
        per_class = _per_class(confusion, self.names)
        there = [row for row in per_class if row.count]
        metrics = {
            "top1": float((state["ranks"] < 1).mean()),
            "top5": float((state["ranks"] < 5).mean()),
            "mean_class_accuracy": float(np.mean([row.recall for row in there])),
        }
        return ClassificationMetrics(
            **metrics,
            macro_f1=float(np.mean([row.f1 for row in there])),
            log_loss=float(state["losses"].mean()),
            calibration=calibrate(state["confidence"], state["ranks"] < 1),
            per_class=per_class,
            confusion=confusion,
            intervals=_intervals(state, metrics, len(self.names), resamples, level, seed) if resamples else {},
            level=level,
            images=len(once),
        )

    def state(self) -> State:
        """Everything that came, as one dict of flat arrays."""
        return {"names": np.array(self.names)} | self._joined()

    def _joined(self) -> State:
        kinds = dict.fromkeys(("image_ids", "labels", "predicted", "ranks"), np.int64)
        empty: State = {name: np.zeros(0, kinds.get(name)) for name in (*kinds, "confidence", "losses")}
        return {name: np.concatenate([none, *(part[name] for part in self._parts)]) for name, none in empty.items()}

    def merge(self, other: "ClassificationEvaluator | State") -> None:
        """Add what another evaluator, or the `state()` of one, has seen.

        Raises:
            ValueError: it has other classes.
        """
        if isinstance(other, ClassificationEvaluator):
            if other.names != self.names:
                raise ValueError("the other evaluator has other classes")
            other = other.state()
        self._parts.append(without_labels(other, names=self.names))

    def reset(self) -> None:
        """Forget all images."""
        self._parts = []

    def _check(self, values: NDArray[np.float64], labels: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        classes = len(self.names)
        if values.shape != (len(ids), classes) or labels.shape != ids.shape or ids.ndim != 1:
            raise ValueError(
                f"scores {values.shape}, labels {labels.shape} and image_ids {ids.shape} do not fit: expected "
                f"(N, {classes}), (N,) and (N,)"
            )
        _stop(
            ~np.asarray(np.isfinite(values).all(axis=1)),
            ids,
            lambda i: f"its scores hold NaN or infinity: {values[i]!r:.80}",
        )
        _stop((labels < 0) | (labels >= classes), ids, lambda i: f"label {labels[i]} is not in 0..{classes - 1}")
        if self.scores == "probabilities":
            # 1 %: what bfloat16 leaves of a sum of 1.
            bad = (values < 0).any(axis=1) | (np.abs(values.sum(axis=1) - 1) > 0.01)
            _stop(bad, ids, lambda i: f"no probabilities, they sum to {values[i].sum():.6g}: {values[i]!r:.80}")


def _stop(bad: NDArray[np.bool_], ids: NDArray[np.int64], what: Any) -> None:
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        more = f" (and {bad.sum() - 1} more)" if bad.sum() > 1 else ""
        raise ValueError(f"image {ids[first]}: {what(first)}{more}")


def _confusion(state: State, classes: int) -> NDArray[np.int64]:
    cells = np.bincount(state["labels"] * classes + state["predicted"], minlength=classes**2)
    return cells.reshape(classes, classes).astype(np.int64)


def _per_class(confusion: NDArray[np.int64], names: Sequence[str]) -> tuple[ClassFigures, ...]:
    def ratio(part: int, whole: int) -> float:
        return part / whole if whole else math.nan

    hits, counts, predicted = (a.tolist() for a in (confusion.diagonal(), confusion.sum(1), confusion.sum(0)))
    return tuple(
        ClassFigures(name, n, p, ratio(hit, p), ratio(hit, n), ratio(2 * hit, n + p))
        for name, hit, n, p in zip(names, hits, counts, predicted, strict=True)
    )


def _intervals(
    state: State, values: dict[str, float], classes: int, resamples: int, level: float, seed: int
) -> dict[str, Interval]:
    """Percentile intervals by the bootstrap over images.

    A resample counts how often each combination of class and outcome was drawn, so the counts are drawn at once from
    their multinomial distribution: the same as drawing the images one by one. A class that a resample has no
    images of is left out of its mean. If all outcomes are the same, resampling says nothing: the limits are NaN.
    """
    outcome = np.digitize(state["ranks"], (1, 5))  # 0: first, 1: among the first five, 2: later
    cells = np.bincount(state["labels"] * 3 + outcome, minlength=3 * classes)
    images = int(cells.sum())
    rng = np.random.default_rng(seed)
    top1, top5, recall = np.empty(resamples), np.empty(resamples), np.empty(resamples)
    block = max(1, 10**6 // (3 * classes))  # resamples at a time; bounds the memory
    for start in range(0, resamples, block):
        rows = slice(start, min(start + block, resamples))
        drawn = rng.multinomial(images, cells / images, rows.stop - rows.start).reshape(-1, classes, 3)
        top1[rows], top5[rows] = drawn[:, :, 0].sum(1) / images, drawn[:, :, :2].sum((1, 2)) / images
        counts = drawn.sum(axis=2)
        recall[rows] = (drawn[:, :, 0] / np.maximum(counts, 1)).sum(1) / (counts > 0).sum(1)
    ends = [(1 - level) / 2, (1 + level) / 2]
    result = {}
    for name, spread in (("top1", top1), ("top5", top5), ("mean_class_accuracy", recall)):
        low, high = np.quantile(spread, ends) if 0 < values[name] < 1 else (math.nan, math.nan)
        result[name] = Interval(values[name], float(low), float(high))
    return result
