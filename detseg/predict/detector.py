"""Trained detectors at work: images in, boxes in the images' own pixels out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detseg.data.letterbox import Letterbox, letterbox_image, resize_long_side
from detseg.data.limits import CLEAR, AtTheCap
from detseg.data.windows import FINEST
from detseg.detect.calibration import calibrated
from detseg.detect.masks import paste_masks, paste_run_lengths
from detseg.detect.tree import ByLevel
from detseg.localize.localizer import Localizer
from detseg.localize.sliding_window import SlidingWindowDetector
from detseg.options import check_score_threshold
from detseg.predict.augmented import STRIDE, View, fuse_views, unmirrored, views_of
from detseg.predict.predictor import Predictor, Sized, in_full_size, model_input
from detseg.results import Results
from detseg.sharing import shares_cores
from detseg.sources import Image, in_batches, open_all, with_sources


@torch.inference_mode()
@shares_cores
def detect(
    model: nn.Module,
    images: Iterable[Sized],
    size: int,
    *,
    batch_size: int = 8,
    score_threshold: float = 0.0,
    run_lengths: bool = False,
    tta: bool = False,
) -> Iterator[dict[str, Any]]:
    """Detections of images that are fitted into a square of side `size`, in order, batch by batch.

    Args:
        model: a detector.
        images: RGB pixels, and the (width, height) that boxes and masks are wanted in.
        size: in pixels.
        batch_size: images at a time.
        score_threshold: lowest score.
        run_lengths: masks as COCO run lengths, a few kilobytes each, however large the image.
        tta: average over several sizes and mirror images, see `detseg.predict.augmented`.

    Yields:
        ``boxes`` (D, 4) float32 xyxy, ``scores`` (D,), ``labels`` (D,) and, of models that find them, ``masks``
        (D, H, W) bool or a list of D run lengths, all on the CPU, best first.

    Raises:
        ValueError: `tta` for a model with a tree of classes.
    """
    return detect_together(
        [Member(model, size)],
        images,
        batch_size=batch_size,
        score_threshold=score_threshold,
        run_lengths=run_lengths,
        tta=tta,
    )


class Member(NamedTuple):
    """One of several networks that look at the same images."""

    model: nn.Module
    size: int  # side of the square that images are fitted into, pixels
    labels: Tensor | None = None  # (K,) what its labels are among those of all, where they differ


@torch.inference_mode()
def detect_together(
    members: Sequence[Member],
    images: Iterable[Sized],
    *,
    batch_size: int = 8,
    score_threshold: float = 0.0,
    run_lengths: bool = False,
    tta: bool = False,
    known: NDArray[np.bool_] | None = None,
) -> Iterator[dict[str, Any]]:
    """As `detect`, with several networks: what all of them find, fused.

    `known` (members, K) says which labels each of them knows, all if it is None.
    """
    models = [member.model for member in members]
    if tta and any(isinstance(model, ByLevel) or getattr(model, "tree", None) is not None for model in models):
        raise ValueError("test-time augmentation averages boxes of one class; with a tree views differ in their nodes")
    for model in models:
        model.eval()
    views = [(member, view) for member in members for view in (views_of(member.size) if tta else [View(member.size)])]
    if known is not None:
        known = known.repeat(len(views) // len(members), 0)
    most, agnostic = cap_of(models), any(getattr(model, "agnostic", False) for model in models)
    for batch in in_batches(images, batch_size):
        squares = {side: _squares(models[0], batch, side) for side in dict.fromkeys(view.size for _, view in views)}
        seen = [_look(member, squares[view.size], batch, view) for member, view in views]
        for of_image, (_, wanted) in zip(zip(*seen, strict=True), batch, strict=True):
            found = fuse_views(of_image, most, known, agnostic=agnostic) if len(views) > 1 else of_image[0]
            # Boxes wholly in the grey border of the square have no area when they are cut to the image.
            solid = (found["boxes"][:, 2:] > found["boxes"][:, :2]).all(1)
            rows = torch.nonzero((found["scores"] >= score_threshold) & solid).flatten()
            found = {n: v[rows] if isinstance(v, Tensor) else [v[i] for i in rows.tolist()] for n, v in found.items()}
            if "masks" in found:
                lay = paste_run_lengths if run_lengths else paste_masks
                found["masks"] = lay(found["masks"], found.pop("regions"), found["boxes"], wanted[::-1])
            yield found
        batch.clear()  # not two batches of large images at a time


def _squares(model: nn.Module, batch: Sequence[Sized], size: int) -> Tensor:
    return model_input(model, np.stack([letterbox_image(pixels, size)[0] for pixels, _ in batch]))


def _look(member: Member, squares: Tensor, batch: Sequence[Sized], view: View) -> list[dict[str, Any]]:
    """What a network finds in a view of each image, on the CPU: boxes and regions in the pixels that are wanted."""
    found = []
    every = member.model(squares.flip(-1) if view.mirrored else squares)
    for one, (pixels, wanted) in zip(every, batch, strict=True):
        box = Letterbox.fit_copy((pixels.shape[1], pixels.shape[0]), wanted, view.size)
        result = {name: value.cpu() for name, value in one.items()}
        if "masks" in result and "regions" not in result:
            result["regions"] = torch.tensor([[0.0, 0, view.size, view.size]]).expand(len(result["masks"]), 4)
        if view.mirrored:
            result = unmirrored(result, view.size)
        result["boxes"] = box.to_original(result["boxes"], wanted)
        if member.labels is not None:
            result["labels"] = member.labels[result["labels"]]
        result["scores"] = calibrated(member.model, result["scores"])
        if "regions" in result:
            result["regions"] = box.to_original(result["regions"], None)
        found.append(result)
    return found


def check_input_size(size: int) -> None:
    """Raise ValueError for a side of the network's input, pixels, that does not give its grids whole cells."""
    if size < STRIDE or size % STRIDE:
        near = max(STRIDE, round(size / STRIDE) * STRIDE)
        raise ValueError(f"the input size must be a multiple of {STRIDE}, not {size}; {near} is near")


def cap_of(models: Iterable[Any]) -> int | None:
    """The most objects that any of the models finds in an image; None of localizers."""
    return max((int(model.max_detections) for model in models if hasattr(model, "max_detections")), default=None)


def limit_detections(model: Any, most: int) -> None:
    """Let a detector find at most so many objects in an image; ValueError if it is a localizer, or less than 1."""
    if not hasattr(model, "max_detections"):
        raise ValueError("a localizer finds one object in an image; max-detections is for detectors")
    if most < 1:
        raise ValueError(f"max-detections must be at least 1, not {most}")
    model.max_detections = most


def set_suppression(model: Any, name: str, value: float | bool) -> None:
    """Set `iou_threshold` or `agnostic` of a detector; ValueError if it is a localizer, or the threshold no share."""
    if not hasattr(model, "iou_threshold"):
        raise ValueError("a localizer finds one object in an image, for which there is no non-max suppression")
    if not 0 <= value <= 1:
        raise ValueError(f"the IoU threshold is a share between 0 and 1, not {value}")
    setattr(model, name, value)


class Detector(Predictor):
    """A trained detector and what it was trained for; see `Predictor`."""

    @property
    def finds_masks(self) -> bool:
        """Whether objects have masks."""
        return bool(getattr(self.model, "finds_masks", False))

    @property
    def networks(self) -> list[Any]:
        """The networks that look at an image, most often one."""
        return [self.model]

    @property
    def max_detections(self) -> int | None:
        """The most objects that are found in an image; may be set. None of a localizer, which finds one."""
        return cap_of(self.networks)

    @max_detections.setter
    def max_detections(self, most: int) -> None:
        for network in self.networks:
            limit_detections(network, most)

    @property
    def iou_threshold(self) -> float | None:
        """Boxes with a larger IoU with a better one are suppressed; may be set. None of a localizer."""
        return getattr(self.networks[0], "iou_threshold", None)

    @iou_threshold.setter
    def iou_threshold(self, value: float) -> None:
        for network in self.networks:
            set_suppression(network, "iou_threshold", value)

    @property
    def agnostic(self) -> bool:
        """Whether boxes suppress those of other classes too; may be set."""
        return any(getattr(network, "agnostic", False) for network in self.networks)

    @agnostic.setter
    def agnostic(self, value: bool) -> None:
        for network in self.networks:
            set_suppression(network, "agnostic", value)

    def predict(
        self,
        images: Image | Iterable[Image],
        *,
        score_threshold: float = 0.3,
        batch_size: int = 8,
        size: int | None = None,
        tta: bool = False,
    ) -> list[Results]:
        """Objects in images: those with at least `score_threshold`; 0 gives all that mAP is computed from.

        Args:
            size: side of the square that images are fitted into, a multiple of 32; by default as in training.
            tta: test-time augmentation: average over three sizes and mirror images, in six times the time.

        Returns:
            For each image `Results`: `boxes` (D, 4) float32 xyxy in its pixels, `scores` (D,) float32, `labels` (D,)
            int64 and, of models that find them, `masks` (D, H, W) bool, best first; label i is called ``names[i]``.

        Raises:
            ValueError: as `Predictor` says; a threshold outside 0..1; or `size` is no multiple of 32, or set for a
                localizer.
        """
        every = self.stream(images, score_threshold=score_threshold, batch_size=batch_size, size=size, tta=tta)
        return list(AtTheCap(self.max_detections, max(score_threshold, CLEAR)).watch(every))

    def stream(
        self,
        images: Image | Iterable[Image],
        *,
        score_threshold: float = 0.3,
        batch_size: int = 8,
        size: int | None = None,
        tta: bool = False,
        run_lengths: bool = False,
    ) -> Iterator[Results]:
        """As `predict`, one image after another; with `run_lengths` masks are COCO's, small for any image."""
        check_score_threshold(score_threshold)
        if size is not None or tta:
            self.check_any_size(size)
        pixels, sources = with_sources(open_all(images, self.channels, batch_size))
        every = self.find(
            in_full_size(pixels),
            size,
            batch_size=batch_size,
            score_threshold=score_threshold,
            run_lengths=run_lengths,
            tta=tta,
        )
        arrays = ({n: v.numpy() if isinstance(v, Tensor) else v for n, v in found.items()} for found in every)
        return (Results(found, next(sources), self.categories) for found in arrays)

    def check_any_size(self, size: int | None = None) -> None:
        """Raise ValueError where the network takes images of one size only, or `size` is none that it takes."""
        if isinstance(self.model, (Localizer, SlidingWindowDetector)):
            raise ValueError("a localizer looks at images of its training size only, without size or tta")
        if size is not None:
            check_input_size(size)

    def find(self, images: Iterable[Sized], size: int | None = None, **options: Any) -> Iterator[dict[str, Any]]:
        """What `detect` yields, with its options, by default at the size of training."""
        return detect(self.model, images, self.size if size is None else size, **options)


def tree_of(predictor: Predictor) -> Any:
    """The `SoftmaxTree` of a model whose classes are the nodes of a tree, else None."""
    return getattr(predictor.model, "tree", None)


class SlidingDetector(Detector):
    """A localizer at work as a detector: a window slides over each image, from all of it to small parts of it.

    Images come one by one, for each has a shape of its own.

    Args:
        localizer: what `detseg.load` gives for the run of a localizer.
        long_side: of images as they are looked at first, pixels; then they are shrunk from level to level. Larger finds
            smaller objects, in more time; by default five windows, as `detseg windows` has it.

    Raises:
        ValueError: it is no localizer, it has no objectness, or `long_side` is below a pixel.
    """

    def __init__(self, localizer: Predictor, *, long_side: int | None = None) -> None:
        if not isinstance(localizer.model, Localizer):
            raise ValueError(
                "only a localizer can slide over images; train one with `detseg train localizer --objectness` on "
                "what `detseg windows` cuts"
            )
        if long_side is not None and long_side < 1:
            raise ValueError(f"long_side must be at least 1 pixel, not {long_side}")
        super().__init__(SlidingWindowDetector(localizer.model, localizer.size), localizer.description)
        self.long_side = round(FINEST * self.size) if long_side is None else long_side

    @torch.inference_mode()
    @shares_cores
    def find(
        self, images: Iterable[Sized], size: int | None = None, *, score_threshold: float = 0.0, **_: Any
    ) -> Iterator[dict[str, Any]]:
        """What is found in each image, in its own pixels."""
        self.model.eval()
        for image, _wanted in images:
            shown = resize_long_side(image, self.long_side)
            (found,) = self.model(model_input(self.model, np.ascontiguousarray(shown)[None]))
            scale = [image.shape[i] / shown.shape[i] for i in (1, 0, 1, 0)]
            keep = found["scores"] >= score_threshold
            found["boxes"] = found["boxes"] * found["boxes"].new_tensor(scale)
            yield {name: value[keep].cpu() for name, value in found.items()}
