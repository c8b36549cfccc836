"""Models on disk: `model.safetensors` with the weights, `model.json` with everything else; no code in either.

The resume state lies beside them in `resume.pt` and is only ever read by torch's weights-only loader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from detseg.backbones import create_backbone
from detseg.detect.yolo import YoloDetector

WEIGHTS, DESCRIPTION, RESUME = "model.safetensors", "model.json", "resume.pt"
FORMAT = 1


def build_model(architecture: Mapping[str, Any], *, pretrained: bool | str | Path = False) -> YoloDetector:
    """The model that `describe_model` described.

    Args:
        architecture: the entry "architecture" of `model.json`.
        pretrained: weights of the backbone, see `create_backbone`.

    Raises:
        ValueError: an unknown kind, or entries that are missing or wrong.
    """
    entries = dict(architecture)
    kind = entries.pop("kind", None)
    if kind != "yolo":
        raise ValueError(f"unknown architecture {kind!r}; this version knows 'yolo'")
    try:
        backbone = create_backbone(
            entries.pop("backbone"), pretrained=pretrained, strides=tuple(entries.pop("strides"))
        )
        return YoloDetector(backbone, **entries)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the description of the architecture is incomplete or wrong: {error}") from error


def save_model(folder: Path, model: nn.Module, description: Mapping[str, Any]) -> None:
    """Write weights and description into a folder; a crash leaves either file whole, old or new.

    Args:
        folder: where to.
        model: its state dict is written as contiguous CPU tensors.
        description: JSON-able; gets the entry "format".
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    text = json.dumps({"format": FORMAT, **description}, indent=2, ensure_ascii=False) + "\n"
    weights_tmp, text_tmp = folder / f"{WEIGHTS}.tmp", folder / f"{DESCRIPTION}.tmp"
    save_file(state, weights_tmp)
    text_tmp.write_text(text, encoding="utf-8")
    weights_tmp.replace(folder / WEIGHTS)
    text_tmp.replace(folder / DESCRIPTION)


def load_model(folder: str | Path) -> tuple[YoloDetector, dict[str, Any]]:
    """The model of a run folder, in evaluation mode on the CPU, and its description.

    Raises:
        ValueError: there is no model in the folder, or it is damaged or of another version; the message names
            the file.
    """
    folder = Path(folder)
    description = read_description(folder)
    model = build_model(description["architecture"])
    weights = folder / WEIGHTS
    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{weights}: cannot be read ({error}); copy the run folder again or train anew") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{weights}: these weights do not belong to {folder / DESCRIPTION}: {error}") from error
    return model.eval(), description


def read_description(folder: Path) -> dict[str, Any]:
    """The content of a run folder's `model.json`; raises ValueError as `load_model` does."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(f"{folder}: no trained model here ({DESCRIPTION} is missing); give the folder of a run")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        known = description["format"] == FORMAT and isinstance(description["architecture"], dict)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a model description ({error!r})") from error
    if not known:
        raise ValueError(
            f"{path}: format {description['format']!r} is not the one of this version of detseg ({FORMAT})"
        )
    return dict(description)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a resume state so that a crash leaves the old one whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    torch.save(dict(state), temporary)
    temporary.replace(path)


def load_state(path: Path) -> dict[str, Any]:
    """Read a resume state; the file cannot run code."""
    if not path.is_file():
        raise ValueError(f"{path}: no state to resume from; was this run started with detseg train?")
    return dict(torch.load(path, map_location="cpu", weights_only=True))
