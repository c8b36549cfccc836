"""Models by name, built, saved and loaded.

A model is a class with `@register_model`; `Model` is its contract. On disk it is a folder: `model.safetensors` with the
weights, `model.json` with everything else; no code is in either.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

import detseg.classify
import detseg.detect
import detseg.localize
import detseg.segment  # noqa: F401  # each registers its models
from detseg.backbones import create_backbone, create_deepest
from detseg.backbones.atrous import dilate_last_stage
from detseg.backbones.class_rows import ClassRows
from detseg.backbones.create import Weights
from detseg.backbones.folding import fold_backbone
from detseg.backbones.fused import fuse_activations
from detseg.backbones.quick_convolutions import quicken
from detseg.backbones.weights import same_kind
from detseg.descriptions import FORMAT, bounded, check_description
from detseg.detect.calibration import Calibration
from detseg.files import for_libraries, write_atomically
from detseg.json_text import read_json
from detseg.reading import FileError, reading, require_file
from detseg.registry import MODELS, register_model

__all__ = ["MODELS", "Model", "build_model", "load_model", "models_of", "read_description", "register_model"]

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
MOST = 16 << 20  # bytes of a description: a hundred thousand classes take a third of it
LARGEST = 1e18  # weight: beyond, results are infinite soon
AGAIN = "copy the run folder again or train anew"


class Model(Protocol):
    """What every registered model is: an `nn.Module` made as ``Model(backbone, num_classes=K, **options)``.

    `detseg.backbones.ImageModel` has all but `forward` and `example_targets`. A class may also hold a dataclass
    `Options`: its fields are options of the command line of the model's task, and `options_for` reads them.
    """

    name: ClassVar[str]
    task: ClassVar[str]
    backbone: nn.Module

    def __call__(self, images: Tensor, targets: Any = None) -> Any:
        """Named losses, whose sum is the loss, where targets are given; predictions where not.

        Args:
            images: (N, C, H, W) RGB, uint8 or float in [0, 1].
            targets: of the form of the task.
        """

    @classmethod
    def options_for(cls, data: Any, config: Any) -> dict[str, Any]:
        """The arguments of the class that follow from the training data and the settings, as JSON holds them.

        With "strides" the backbone gives these maps, without only its deepest one.
        """

    @staticmethod
    def example_targets(count: int, size: int, device: Any) -> Any:
        """Targets of `count` images of `size` x `size` pixels, to time a training step and to test the model."""

    def class_layers(self) -> dict[str, ClassRows]:
        """The layers whose rows are of classes, so that a model of other classes can start from this one."""

    def exportable(self) -> nn.Module:
        """A module of plain tensors in and out, for exporters."""


def models_of(task: str) -> list[str]:
    """Names of the models of a task ("detect", "segment", …), in the order of their registration."""
    return [name for name, model in MODELS.items() if model.task == task]


def build_model(architecture: Mapping[str, Any], *, pretrained: Weights = False) -> Any:
    """The model that an architecture describes.

    Args:
        architecture: the entry "architecture" of `model.json`: "kind" (the model's name), "backbone", "strides"
            (without them the deepest map alone), "in_channels" (3 if not given), "atrous" (the last stage is dilated),
            "folded" (batch norms are part of the convolutions), "normalisation" ("mean" and "std" of the training
            images, in place of the backbone's), "max_detections" (of an image), "calibration" (slope and shift of its
            scores) and the arguments of the model's class.
        pretrained: weights of the backbone, see `create_backbone`.

    Raises:
        ValueError: an unknown model, or entries that are missing or wrong.
    """
    entries = dict(architecture)
    kind = entries.pop("kind", None)
    if kind not in MODELS:
        raise ValueError(f"unknown architecture {kind!r}; this version knows {', '.join(map(repr, MODELS))}")
    try:
        folded, atrous = entries.pop("folded", False), entries.pop("atrous", False)
        normalisation = entries.pop("normalisation", None)
        most, calibration = entries.pop("max_detections", None), entries.pop("calibration", None)
        name, strides = entries.pop("backbone"), entries.pop("strides", None)
        channels = entries.pop("in_channels", 3)
        if strides is None:
            backbone = create_deepest(name, pretrained=pretrained, in_channels=channels)
        else:
            backbone = create_backbone(name, pretrained=pretrained, strides=tuple(strides), in_channels=channels)
        if atrous:
            backbone = dilate_last_stage(backbone)
        if folded:
            fold_backbone(backbone)
        model = MODELS[kind](backbone, **entries)
        if normalisation is not None:
            model.set_normalisation(**normalisation)
        if most is not None:
            model.max_detections = most
        if calibration is not None:
            model.calibration = Calibration(*calibration)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the description of the architecture is incomplete or wrong: {error}") from error
    quicken(model)
    fuse_activations(model.backbone.net, torch.zeros(1, channels, 128, 128))
    return model


def save_model(folder: Path, model: nn.Module, description: Mapping[str, Any]) -> None:
    """Write weights and description into a folder; a crash leaves either file whole, old or new.

    Args:
        folder: where to.
        model: its state dict is written as contiguous CPU tensors.
        description: JSON-able; gets the entry "format".

    Raises:
        OSError: there is no room for it, say.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    text = json.dumps({"format": FORMAT, **description}, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / WEIGHTS, save(state))
    write_atomically(folder / DESCRIPTION, text)


def save_architecture(folder: Path, architecture: Mapping[str, Any]) -> None:
    """Write another architecture into a folder's description; what it says of the weights must be the same."""
    description = read_description(folder) | {"architecture": dict(architecture)}
    write_atomically(folder / DESCRIPTION, json.dumps(description, indent=2, ensure_ascii=False) + "\n")


def load_model(folder: str | Path) -> tuple[Any, dict[str, Any]]:
    """The model of a run folder, in evaluation mode on the CPU, and its description.

    Raises:
        FileError: there is no model in the folder, or it is damaged or of another version; the message names
            the file.
    """
    folder = Path(folder)
    model, description = described_model(folder)
    weights = folder / WEIGHTS
    with reading(weights, AGAIN), for_libraries(require_file(weights)) as name:
        state = load_file(name)
    for name, wanted in model.state_dict().items():
        if name in state and not same_kind(state[name], wanted):
            raise FileError(f"{weights}: {name} holds {state[name].dtype}, the model needs {wanted.dtype} ({AGAIN})")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        # torch lists every tensor; the first tells enough.
        detail = " ".join(str(error).split("\n\t")[1:2]) or str(error)
        raise FileError(f"{weights}: these weights do not belong to {folder / DESCRIPTION}: {detail}") from error
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).abs().max() < LARGEST:
            raise FileError(f"{weights}: {name} has values that are not finite, or beyond {LARGEST:g} ({AGAIN})")
    return model.eval(), description


def described_model(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a run folder with random weights, and its description; raises FileError as `load_model` does."""
    description = read_description(folder)
    with reading(f"{folder / DESCRIPTION}: architecture", AGAIN), bounded(folder / WEIGHTS):
        return build_model(description["architecture"]), description


def read_description(folder: Path) -> dict[str, Any]:
    """The content of a run folder's `model.json`, checked; raises FileError as `load_model` does."""
    path = folder / DESCRIPTION
    if not require_file(path).is_file():
        raise FileError(f"{folder}: no trained model here ({DESCRIPTION} is missing); give the folder of a run")
    if path.stat().st_size > MOST:
        raise FileError(f"{path}: is of more than {MOST} bytes, which no description of a model is ({AGAIN})")
    description: dict[str, Any] = read_json(path, dict[str, Any], AGAIN)
    check_description(description, path)
    return description
