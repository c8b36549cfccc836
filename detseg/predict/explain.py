"""Why a trained classifier says what it says of an image: probabilities, feature maps, Grad-CAM."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detseg.classify import Classifier
from detseg.classify.classifier import NetworkClassifier
from detseg.classify.grad_cam import grad_cam, liveliest, record
from detseg.data.augment.classification_transforms import RESIZE, ClassificationEval, resize_short_side
from detseg.data.letterbox import letterbox_image
from detseg.localize.localizer import Localizer
from detseg.predict.predictor import Predictor, model_input
from detseg.sources import open_one

Box = tuple[float, float, float, float]
View = Callable[[NDArray[np.uint8], int], tuple[NDArray[np.uint8], Box]]
TOP = 5
CHANNELS = 8


@dataclass(frozen=True)
class Stage:
    """Feature maps at one stride."""

    stride: int
    channels: int  # how many there are
    chosen: NDArray[np.int64]  # (M,) those that differ most from place to place
    maps: NDArray[np.float32]  # (M, h, w) what they show


@dataclass(frozen=True)
class Explanation:
    """What `explain` found in one image."""

    seen: NDArray[np.uint8]  # (S, S, 3) the square that the network was given
    area: Box  # xyxy of that square in the image's pixels; where the square has a border, it sticks out
    scores: NDArray[np.float32]  # (K,) probabilities; of a localizer with objectness times that of an object
    labels: NDArray[np.int64]  # (T,) the classes explained
    heat: NDArray[np.float32]  # (T, S, S) Grad-CAM of each, at least 0; all 0 where nothing speaks for a class
    cells: tuple[int, int]  # (height, width) of the map that it was taken from
    stages: list[Stage]  # the finest stride first
    filters: NDArray[np.float32]  # (O, 3, kh, kw) the kernels that look at the image itself

    @property
    def ranking(self) -> NDArray[np.int64]:
        """(K,) all labels, the likeliest first."""
        return np.argsort(-self.scores, kind="stable").astype(np.int64)


def explain(
    predictor: Predictor, image: NDArray[np.uint8], labels: Sequence[int] | None = None, *, channels: int = CHANNELS
) -> Explanation:
    """Look at an image as `predict` does, and note on what the answer rests.

    Args:
        predictor: a classifier or localizer of `detseg.load`, or a network of `load_network`.
        image: uint8 RGB (H, W, 3).
        labels: the classes to explain; by default the five likeliest.
        channels: how many feature maps of each stage to keep.

    Raises:
        ValueError: the model gives no class to the whole image, has no such label or no feature maps; or no image.
    """
    image = open_one(image, predictor.channels).pixels
    logits_of, net, view = _parts(predictor.model)
    seen, area = view(image, predictor.size)
    batch = model_input(predictor.model, seen[None]).to(next(predictor.model.parameters()).dtype) / 255
    recording = record(logits_of, net, batch)
    scores = recording.logits.detach()[0].softmax(0) * _presence(predictor.model, batch)
    wanted = scores.argsort(descending=True, stable=True)[:TOP].tolist() if labels is None else [int(k) for k in labels]
    for label in wanted:
        if not 0 <= label < len(scores):
            raise ValueError(f"there is no class {label}: labels are 0 to {len(scores) - 1}")
    cams = grad_cam(recording.logits[:, wanted], recording.deepest)[0]
    heat = [_enlarge(cam, recording.extent, seen) for cam in cams.float().cpu().numpy()]
    return Explanation(
        seen=seen,
        area=area,
        scores=scores.float().cpu().numpy(),
        labels=np.array(wanted, np.int64),
        heat=np.array(heat, np.float32).reshape(-1, *seen.shape[:2]),
        cells=(cams.shape[-2], cams.shape[-1]),
        stages=[_stage(stride, maps.detach()[0], seen, channels) for stride, maps in recording.maps.items()],
        filters=recording.filters.float().cpu().numpy(),
    )


def find_labels(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Labels of classes by name; capitals do not matter, and of "bell cote, bell cot" either part will do.

    Two classes of one name, as ImageNet's cranes, are both meant. Raises ValueError for a name that no class has.
    """
    known: dict[str, list[int]] = {}
    for label, name in enumerate(names):
        whole = " ".join(name.lower().split())
        for part in {whole, *(part.strip() for part in whole.split(","))}:
            known.setdefault(part, []).append(label)
    found: list[int] = []
    for name in wanted:
        key = " ".join(name.lower().split())
        if key not in known:
            near = difflib.get_close_matches(key, known, n=5, cutoff=0.6) or sorted(known)[:5]
            raise ValueError(f"no class is named {name!r}; did you mean {', '.join(near)}?")
        found += [label for label in known[key] if label not in found]
    return found


def _parts(model: nn.Module) -> tuple[Callable[[Tensor], Tensor], nn.Module, View]:
    """From images to logits; what makes the feature maps; the square it is given of an image."""
    if isinstance(model, NetworkClassifier):
        return model, model.network, _middle
    if isinstance(model, Classifier):
        return model, model.backbone, _middle
    if isinstance(model, Localizer):
        return lambda images: model.outputs(images)[0], model.backbone, _whole
    raise ValueError(
        f"only models that give the whole image a class can be explained so, not a {type(model).__name__}; "
        "give the run of a classifier or localizer, or the name of a network; detections of a detector are explained "
        "by `detseg.predict.explain_detections`"
    )


@torch.inference_mode()
def _presence(model: nn.Module, images: Tensor) -> float:
    """By what a localizer with objectness multiplies the scores of images (1, 3, S, S); 1 for all other models."""
    if not isinstance(model, Localizer) or model.objectness is None:
        return 1.0
    presence = model.outputs(images)[2]
    return 1.0 if presence is None else float(presence[0].sigmoid())


def _middle(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], Box]:
    """What classifiers see of an image and where that is."""
    height, width = image.shape[:2]
    new_height, new_width = resize_short_side(image, round(size * RESIZE)).shape[:2]
    # As `centre_crop` rounds.
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    x, y = width / new_width, height / new_height
    return ClassificationEval(size)(image), (left * x, top * y, (left + size) * x, (top + size) * y)


def _whole(image: NDArray[np.uint8], size: int) -> tuple[NDArray[np.uint8], Box]:
    """What localizers see, with a border around it."""
    seen, box = letterbox_image(image, size)
    left, top = -box.pad_x / box.scale_x, -box.pad_y / box.scale_y
    return seen, (left, top, left + size / box.scale_x, top + size / box.scale_y)


def _enlarge(cam: NDArray[np.float32], extent: tuple[int, int], seen: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(h, w) cells that span `extent` pixels, from the top left corner, to the pixels of the square."""
    smooth = cv2.resize(cam, extent[::-1], interpolation=cv2.INTER_CUBIC)
    # Cubic interpolation swings below 0 beside steep rises.
    return np.maximum(smooth[: seen.shape[0], : seen.shape[1]], 0).astype(np.float32)


def _stage(stride: int, maps: Tensor, seen: NDArray[np.uint8], count: int) -> Stage:
    # Cells that lie beyond the image, in what a backbone pads, are cut off.
    maps = maps[:, : -(-seen.shape[0] // stride), : -(-seen.shape[1] // stride)]
    chosen = liveliest(maps, count)
    return Stage(stride, len(maps), chosen.cpu().numpy(), maps[chosen].float().cpu().numpy())
