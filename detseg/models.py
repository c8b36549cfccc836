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
from torch import Tensor, nn

from detseg.backbones import create_backbone, create_deepest
from detseg.backbones.atrous import dilate_last_stage
from detseg.backbones.folding import fold_backbone
from detseg.backbones.quick_convolutions import quicken
from detseg.classify.classifier import Classifier
from detseg.detect.yolo import YoloDetector
from detseg.localize.localizer import Localizer
from detseg.segment import FCN

WEIGHTS, DESCRIPTION, RESUME = "model.safetensors", "model.json", "resume.pt"
FORMAT, STATE_FORMAT = 1, 2  # of a model, and of what a run resumes from

Model = YoloDetector | FCN | Classifier | Localizer
KINDS: dict[str, type[Model]] = {
    "yolo": YoloDetector,
    "fcn": FCN,
    "classifier": Classifier,
    "localizer": Localizer,
}
# These look at a network's deepest map alone, at whatever stride it has.
_POOLED = ("classifier", "localizer")
_ENTRIES = {"architecture": dict, "categories": list, "size": int}


def build_model(architecture: Mapping[str, Any], *, pretrained: bool | str | Path = False) -> Model:
    """The model that an architecture describes.

    Args:
        architecture: the entry "architecture" of `model.json`: "kind", "backbone", "strides", "atrous" (its last stage
            is dilated), "folded" (its batch norms are part of its convolutions) and the arguments of the model's
            class.
        pretrained: weights of the backbone, see `create_backbone`.

    Raises:
        ValueError: an unknown kind, or entries that are missing or wrong.
    """
    entries = dict(architecture)
    kind = entries.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"unknown architecture {kind!r}; this version knows {', '.join(map(repr, KINDS))}")
    try:
        folded, atrous = entries.pop("folded", False), entries.pop("atrous", False)
        name = entries.pop("backbone")
        backbone = (
            create_deepest(name, pretrained=pretrained)
            if kind in _POOLED
            else create_backbone(name, pretrained=pretrained, strides=tuple(entries.pop("strides")))
        )
        if atrous:
            backbone = dilate_last_stage(backbone)
        if folded:
            fold_backbone(backbone)
        model = KINDS[kind](backbone, **entries)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the description of the architecture is incomplete or wrong: {error}") from error
    quicken(model)
    return model


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
    weights_tmp.chmod(text_tmp.stat().st_mode)  # safetensors makes files that only the owner may read
    weights_tmp.replace(folder / WEIGHTS)
    text_tmp.replace(folder / DESCRIPTION)


def load_model(folder: str | Path) -> tuple[Model, dict[str, Any]]:
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
        # torch lists every tensor; the first tells enough.
        detail = " ".join(str(error).split("\n\t")[1:2]) or str(error)
        raise ValueError(f"{weights}: these weights do not belong to {folder / DESCRIPTION}: {detail}") from error
    return model.eval(), description


def read_description(folder: Path) -> dict[str, Any]:
    """The content of a run folder's `model.json`; raises ValueError as `load_model` does."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(f"{folder}: no trained model here ({DESCRIPTION} is missing); give the folder of a run")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a model description ({error!r})") from error
    if version != FORMAT:
        raise ValueError(f"{path}: format {version!r} is not the one of this version of detseg ({FORMAT})")
    wrong = [name for name, kind in _ENTRIES.items() if not isinstance(description.get(name), kind)]
    if wrong:
        raise ValueError(f"{path}: not a model description (wrong or missing: {', '.join(wrong)})")
    return dict(description)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a resume state so that a crash leaves the old one whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    torch.save({"format": STATE_FORMAT, **state}, temporary)
    temporary.replace(path)


def load_state(path: Path) -> dict[str, Any]:
    """Read a resume state; the file cannot run code.

    Raises:
        ValueError: it is missing, damaged, of another version, or holds more than data; the message names it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no state to resume from; was this run started with detseg train?")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
    except Exception as error:  # torch raises many kinds, from EOFError to UnpicklingError
        detail = str(error).splitlines()[:1]
        raise ValueError(f"{path}: not a readable resume state ({type(error).__name__}: {''.join(detail)})") from error
    if version != STATE_FORMAT:
        raise ValueError(
            f"{path}: format {version!r} is not the one of this version of detseg ({STATE_FORMAT}); resume the run "
            "with the version that started it, or start a new one"
        )
    return dict(state)


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's random generators: of the host and, where it has one, of the device."""
    states = {"host": torch.get_rng_state()}
    if hasattr(torch.get_device_module(device), "get_rng_state"):
        states["device"] = torch.get_device_module(device).get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Inverse of `random_states`; a state of a device of another kind is left out."""
    torch.set_rng_state(states["host"])
    if "device" in states and hasattr(torch.get_device_module(device), "set_rng_state"):
        torch.get_device_module(device).set_rng_state(states["device"])
