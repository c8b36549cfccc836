"""The detector's task: boxes of any number of objects an image."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from rich.console import Console
from torch import nn

from detseg.console import print_line
from detseg.data.annotations import Annotations
from detseg.data.base import with_channels
from detseg.data.checks.image_checks import sharing_problems
from detseg.data.checks.learnable import require_learnable, require_masks
from detseg.data.checks.validate import checked, raise_on_problems
from detseg.data.class_tree import ClassTree, on_nodes, read_tree, require_nodes
from detseg.data.dataset import ClassificationDataset, DetectionDataset, collate, collate_boxes
from detseg.data.formats.class_folders import read_class_folders
from detseg.data.labels import LabelledImages
from detseg.data.limits import LEAST, AtTheCap, most_detections
from detseg.data.measurable import measurable_masks, tell_without_masks
from detseg.data.pack.file import read_pack_info
from detseg.data.tiles import Tiling, object_sizes
from detseg.detect.calibration import fit_calibration
from detseg.detect.tree import ByLevel
from detseg.metrics import DetectionEvaluator, InstanceEvaluator
from detseg.metrics.detection import FIGURES
from detseg.metrics.detection.average_precision import figures_with, of_masks
from detseg.metrics.detection.inputs import Truth, read_truth
from detseg.metrics.detection.levels import TreeEvaluator, at_level, level_figures
from detseg.metrics.detection.matching import MAX_DETECTIONS, limits_for, limits_of
from detseg.metrics.detection.reliability import ECE, outcomes
from detseg.models import save_architecture
from detseg.options import require_positive, require_share
from detseg.predict.detector import Detector, detect
from detseg.registry import MODELS
from detseg.train import tiles
from detseg.train.config import TrainAnnotated
from detseg.train.data import load_data, open_images, print_data, transform_of
from detseg.train.fingerprint import fingerprint, image_marks
from detseg.train.mixed import MixedSamples
from detseg.train.sampler import TrainingSamples
from detseg.train.size import check_objects, wanted_size
from detseg.train.task import Run, Task

logger = logging.getLogger(__name__)

# Cached images are this much larger than the training size, so that zooming in finds detail.
CACHE_ZOOM = 1.25


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(TrainAnnotated):
    """Train an object detector on your own annotated images.

    Data: --data with a training and a validation split (COCO, VOC, YOLO, WebDataset shards, or an HDF5 file of
    `detseg pack`), or --train and --val. The run folder receives the model, metrics, plots and an HTML report.

    Train for 30 minutes, resume after an interruption, train YOLOv2's single grid:

        detseg train detector --data flowers/ --minutes 30 --output runs/flowers
        detseg train detector --resume runs/flowers
        detseg train detector --data flowers/ --strides 32 --anchors 5 --reach 0.5 --bins 0
    """

    task: ClassVar[str] = "detector"

    size: int | None = None  # type: ignore[assignment]
    """Input size: side of the square that images are fitted into, in pixels; a multiple of 32. By default 320 to 640,
    chosen by the sizes of objects and images, and by --minutes."""
    model: str = "yolo"
    """Detector, by name; each adds options of its own: detseg train detector --model NAME --help."""
    mosaic: float = 0.0
    """Fraction of training images that are mosaics of four; off in the last 30 % of the run."""
    mixup: float = 0.0
    """Fraction of training images blended with another one; off in the last 30 % of the run."""
    copy_paste: float = 0.0
    """Fraction of training images with objects of another one pasted on, cut out along their masks; off in the last
    30 % of the run."""

    tiles: int | None = None
    """Train on overlapping tiles of this side, in pixels of the images, cut from them: for small objects in large
    images. Validation, and prediction by default, look at whole images in such tiles."""

    max_detections: int | None = None
    """Most detections of an image; by default twice the objects that training images have, and at least 100."""

    def check(self) -> Self:
        """Raise ValueError where options contradict each other or make no sense; returns itself."""
        super().check()
        require_share(self, "mosaic", "mixup", "copy_paste")
        require_positive(self, "max_detections", "tiles")
        if self.tiles is not None and self.copy_paste:
            raise ValueError("--tiles and --copy-paste do not go together: tiles have no masks")
        return self


class BoxTask(Task):
    """What all tasks on annotated boxes share."""

    collate = staticmethod(collate)
    masks = False
    """Whether instance masks are learnt too."""
    pastes = False
    """Whether instance masks are needed to augment images."""

    def open(self, data: Annotations, split: str) -> DetectionDataset:
        """The images, those of training a little larger than the network sees them, unless none is that large."""
        size = self.config.size
        if split == "training":
            size = max(size, min(round(size * CACHE_ZOOM), int(data.sizes.max(initial=0))))
        masks = split == "training" and (self.masks or self.pastes)
        kind = partial(DetectionDataset, masks=masks)
        return open_images(kind, data, size, f"{split} images", self.console)

    def predict(self, model: nn.Module, dataset: DetectionDataset, indices: Iterable[int]) -> Iterable[Any]:
        """Detections, or one box an image, in the images' own pixels."""
        return predict_dataset(model, dataset, indices, self.config.size)


class DetectorTask(BoxTask):
    """Detectors: COCO boxes in, mAP out."""

    name: ClassVar[str] = "detector"
    Options = DetectorOptions
    FIGURES = FIGURES
    columns: ClassVar[dict[str, str]] = {
        "AP": "map", "AP50": "map50", "mask_AP": "mask_map", "mask_AP50": "mask_map50"
    }  # fmt: skip

    def __init__(self, config: Any, console: Console) -> None:
        super().__init__(config, console)
        self._set_figures()

    limits: tuple[int, ...] = MAX_DETECTIONS
    """Numbers of detections an image and class that the metrics are for."""
    most: int = LEAST
    """Detections of an image at most."""
    tree: ClassTree | None = None
    """The tree that the classes are the nodes of, once the data are loaded."""
    labelled: LabelledImages | None = None
    """Images to learn from of which only the class is known."""
    tiling: Tiling | None = None
    """The tiles that are trained on in place of images."""

    @property
    def masks(self) -> bool:  # type: ignore[override]
        """Whether the model learns instance masks."""
        return bool(MODELS[self.config.model].needs_masks(self.config))

    @property
    def headline(self) -> Sequence[str]:
        """AP and AP50; of models that learn masks, AP of the masks, which decides, and of the boxes."""
        return ["mask_AP", "AP"] if self.masks else super().headline

    @property
    def pastes(self) -> bool:  # type: ignore[override]
        """Whether objects are pasted from image to image."""
        return self.config.copy_paste > 0

    @property
    def collate(self) -> Any:  # type: ignore[override]
        """Samples to images and targets, with masks if these are learnt."""
        return collate if self.masks else collate_boxes

    def wanted_size(self, data: Annotations) -> int:
        """The input size that the objects of training images ask for; packed images are as large as they are."""
        packed = np.inf if data.pack is None else read_pack_info(data.pack.file).size / CACHE_ZOOM
        return wanted_size(data, packed)

    def load(self) -> tuple[Annotations, Annotations]:
        """Training and validation annotations, both with objects, and with masks where these are learnt.

        With a tree all its nodes are categories.
        """
        if self.config.tiles is not None and (self.masks or getattr(self.config, "tree", None) is not None):
            raise ValueError("--tiles is for models that find boxes of plain classes: leave out masks and --tree")
        train, val = load_data(self.config, self.console)
        if self.masks or self.pastes:
            require_masks(train)
        require_learnable(val, "evaluate a model on")
        if self.masks:
            require_masks(val)
            if line := tell_without_masks(val):
                print_line(self.console, line)
        if (tree := getattr(self.config, "tree", None)) is not None:
            self.tree, nodes = read_tree(tree, train.categories)
            train, val = on_nodes(train, nodes), on_nodes(val, nodes)
        if (labels := getattr(self.config, "labels", None)) is not None:
            self.labelled = load_image_labels(labels, train, val, self.config, self.console)
        print_data(self.console, train, val)
        if self.config.tiles is not None:
            train, self.tiling = tiles.cut(train, val, self.config, self.console)
        self._limit(train, val)
        return train, val

    def _limit(self, train: Annotations, val: Annotations) -> None:
        """Find out how many detections an image may have, and how many the metrics are for."""
        asked = self.config.max_detections
        self.most = most_detections(objects_in(train)) if asked is None else asked
        # A model looks for so many in each tile, and a whole image has more.
        most = self.most if self.tiling is None else max(self.most, most_detections(objects_in(val)))
        self.limits = limits_for(read_truth(val, "bbox"), most) if asked is None else limits_of(most)
        self._set_figures()
        if asked is None and self.most > LEAST:
            most = objects_in(train).max()
            print_line(self.console, f"up to {self.most} detections an image: in training images are up to {most}")
        for name, data in (("training", train), *((("validation", val),) if self.tiling is None else ())):
            beyond = int((objects_in(data) > self.most).sum())
            if beyond:
                logger.warning(
                    "%d of %d %s images have more than %d objects, and no more are found in an image: --max-detections",
                    *(beyond, len(data), name, self.most),
                )

    def _set_figures(self) -> None:
        """What is measured: of boxes, of masks where these are learnt, and at each level of a tree."""
        own = figures_with(self.limits)
        levels = [] if self.tree is None else level_figures(self.tree.levels)
        self.FIGURES = [*own, *(map(of_masks, own) if self.masks else ()), *levels]

    def resolved(self, process: Any, model: Any, architecture: dict[str, Any], train: Any) -> Any:
        """The same options; the model is told how many detections an image may have, as a published one was too."""
        if self.config.max_detections is None:
            self.most = max(self.most, model.max_detections)
        architecture["max_detections"] = model.max_detections = self.most
        return self.config

    def contents(self, dataset: DetectionDataset) -> Sequence[np.ndarray]:
        """Boxes, and masks where these are used."""
        segments = dataset.annotations.segments if self.masks or self.pastes else None
        return *super().contents(dataset), *(() if segments is None else segments.arrays)

    def open(self, data: Annotations, split: str) -> DetectionDataset:
        """See `BoxTask`; the training images have those of which only the class is known beside them."""
        if split == "training":
            check_objects(data, self.config.size)
        if self.tiling is not None:
            long_side = round(self.config.size * (CACHE_ZOOM if split == "training" else 1))
            return tiles.open_tiles(data, long_side, self.tiling, f"{split} images", self.console)
        dataset = super().open(data, split)
        if self.labelled is not None and split == "training":
            dataset.labelled = open_images(
                ClassificationDataset,
                self.labelled,
                round(self.config.size * CACHE_ZOOM),
                "labelled images",
                self.console,
            )
        return dataset

    def image_names(self, dataset: DetectionDataset) -> list[str]:
        """Paths of the images with boxes, then of those with a class."""
        more = () if dataset.labelled is None else dataset.labelled.annotations.paths.tolist()
        return [*super().image_names(dataset), *more]

    def marks(self, dataset: DetectionDataset) -> dict[str, str]:
        """See `Task`; with a tree and images of which only the class is known they have marks too."""
        marks = super().marks(dataset)
        if self.tree is not None:
            marks["tree"] = fingerprint((), [np.array(self.tree.parents)])
        if dataset.labelled is not None:
            data = dataset.labelled.annotations
            marks["labels"] = fingerprint(data.categories, [data.labels, image_marks(data, dataset.labelled.images)])
        return marks

    def samples(self, dataset: DetectionDataset, config: Any) -> TrainingSamples:
        """Augmented images."""
        if self.labelled is None:
            return TrainingSamples(dataset, config.seed, transform_of(config))
        assert dataset.labelled is not None
        return MixedSamples(dataset, dataset.labelled, config.seed, transform_of(config))

    def predict(self, model: nn.Module, dataset: DetectionDataset, indices: Iterable[int]) -> Iterable[Any]:
        """See `BoxTask`; in tiles where these are trained on."""
        if self.tiling is None:
            return super().predict(model, dataset, indices)
        find = partial(detect, model, size=self.config.size)
        return tiles.predict_in_tiles(find, dataset, indices, self.tiling)

    def described(self, dataset: DetectionDataset) -> dict[str, Any]:
        """How large the objects are, and the tiles that are trained on: what tiles are chosen by when predicting."""
        objects = object_sizes(dataset.annotations)
        if self.tiling is not None:
            objects |= {"tile": self.tiling.tile, "overlap": self.tiling.overlap}
        return {"objects": objects} if objects else {}

    def evaluator(self, dataset: DetectionDataset) -> Any:
        """COCO's metrics, by the annotations: of boxes, with a tree at each of its levels, and of masks."""
        data = dataset.annotations
        limits: dict[str, Any] = {"max_detections": self.limits}
        if self.tree is not None:
            return TreeEvaluator(data, self.tree, **limits)
        if self.masks:
            return InstanceEvaluator(data, _mask_truth(data), **limits)
        return DetectionEvaluator(data, **limits)

    def kept(self, prediction: Any) -> Any:
        """The detections that AP is computed from: with a tree those at its leaves."""
        return prediction if self.tree is None else at_level(prediction, self.tree.levels)

    def target(self, dataset: DetectionDataset, index: int) -> int:
        """The image's id: the evaluator has its objects."""
        return int(dataset.annotations.image_ids[index])

    def finish(self, run: Run) -> None:
        """Calibrate the scores, but those of a tree of classes; warn where as much is found as an image may have."""
        if self.tree is None:
            self._calibrate(run)
        cap = AtTheCap(self.most if self.tiling is None else None)
        for one in run.predictions:
            cap.add(one["scores"])
        cap.warn()

    def _calibrate(self, run: Run) -> None:
        """Fit the scores to the validation images, and measure again."""
        scores, right = outcomes(run.metrics.matches)
        calibration = fit_calibration(scores, right)
        if calibration is None:
            return
        run.architecture["calibration"] = list(calibration)
        save_architecture(run.folder, run.architecture)
        data, metric = run.val.annotations, self.evaluator(run.val)
        run.predictions = [
            one | {"scores": calibration(torch.from_numpy(one["scores"])).numpy()} for one in run.predictions
        ]
        metric.update(run.predictions, None, data.image_ids)
        before, run.metrics = run.metrics, metric.compute()
        errors = [ECE.compute(metrics) for metrics in (before, run.metrics)]
        told = "scores are calibrated by the validation images: expected calibration error"
        print_line(self.console, f"{told} {errors[0]:.3f} before, {errors[1]:.3f} now")


def objects_in(data: Annotations) -> np.ndarray:
    """(N,) objects in each image, crowds left out."""
    return np.bincount(data.image_index[~data.iscrowd], minlength=len(data))


@lru_cache(maxsize=1)
def _mask_truth(data: Annotations) -> Truth:
    """The ground truth of masks: drawn once, for every validation of a run."""
    return read_truth(measurable_masks(data), "segm")


def load_image_labels(
    folder: Path, train: Annotations, val: Annotations, config: Any, console: Console
) -> LabelledImages:
    """Images of which only a class is known, checked: a folder of images for each class, named as in the data.

    Raises:
        AnnotationError: a folder has no class's name, an image cannot be read, or is among the validation images.
    """
    data = with_channels(read_class_folders(folder), config.channels)
    used = [name for name, count in zip(data.names, data.counts.tolist(), strict=True) if count]
    require_nodes(folder, used, train.names, "these folders have no class's name:")
    data = checked(data.match(train.categories), None, repairing=config.repair, print_line=partial(print_line, console))
    raise_on_problems([problem for problem in sharing_problems(val, data, True) if problem.severity == "error"])
    print_line(console, f"{len(data)} images of {len(used)} classes without boxes teach classes")
    return data


def predict_dataset(
    model: nn.Module | Detector, data: DetectionDataset, indices: Iterable[int], size: Any, *, tta: bool = False
) -> Iterator[dict[str, Any]]:
    """Detections of some images of a dataset, boxes in the images' own pixels; masks as run lengths; see `detect`.

    Of a model with a tree those of every level, see `detseg.detect.tree.detections_by_level`.
    """
    if getattr(model, "tree", None) is not None:
        model = ByLevel(model)
    sizes = data.annotations.sizes
    images = ((data.images[i], (int(sizes[i, 0]), int(sizes[i, 1]))) for i in indices)
    find = model.find if isinstance(model, Detector) else partial(detect, model)
    for found in find(images, size, run_lengths=True, tta=tta):
        yield {name: value if name == "masks" else value.numpy() for name, value in found.items()}
