"""TorchScript: for programs in C++ that hold libtorch, with torchvision's operators."""

import io
import warnings
from pathlib import Path

import torch

from detseg.exporters.graph import suppressed
from detseg.exporters.registry import register_exporter
from detseg.exporters.trace import traceable
from detseg.predict.predictor import Predictor
from detseg.runtime.engines import KEY


@register_exporter("torchscript")
def write_torchscript(
    predictor: Predictor, path: Path, *, raw: bool = False, floats: bool = False, letterbox: bool = False
) -> None:
    """Write a model as TorchScript, for images of any number and size (multiples of 32 pixels)."""
    model = traceable(predictor, suppressed, raw=raw, floats=floats, letterbox=letterbox)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what cannot be traced for any size; the tests try several
        traced = torch.jit.trace(model.module, (model.example,), check_trace=False, strict=False)
        content = io.BytesIO()  # on a full disk torch would end the process
        torch.jit.save(traced, content, _extra_files={KEY: model.description})
    path.write_bytes(content.getvalue())
