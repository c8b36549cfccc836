"""OpenVINO: the quickest engine on Intel and AMD processors, a file of layers (.xml) and one of weights (.bin).

Made of the ONNX form, so both have the same operators. `int8` quantises weights and activations after training (Jacob
et al. 2018, arXiv:1712.05877) by nncf, fitted to images; the head's last convolutions, whose numbers are the results,
stay in float.
"""

import logging
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.data.letterbox import letterbox_image
from detseg.exporters.onnx import write_onnx
from detseg.exporters.registry import register_exporter
from detseg.predict.predictor import Predictor
from detseg.runtime.engines import KEY
from detseg.sources import Image, open_all

CALIBRATION = 300  # images that the ranges of int8 are fitted to, as nncf has it


@register_exporter("openvino", extra="openvino", ending="xml")
def write_openvino(
    predictor: Predictor,
    path: Path,
    *,
    raw: bool = False,
    floats: bool = False,
    letterbox: bool = False,
    int8: Iterable[Image] | None = None,
) -> None:
    """Write a model as OpenVINO's IR; `int8`, of images that are typical, makes it smaller and quicker."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        write_onnx(predictor, file, raw=raw, floats=floats, letterbox=letterbox)
        description = _property(file)
        model = openvino.convert_model(str(file))
        if int8 is not None:
            model = _quantised(model, predictor, int8, floats)
        model.set_rt_info(description, [KEY])
        openvino.save_model(model, str(path), compress_to_fp16=False)


def _property(file: Path) -> str:
    import onnx

    return next(entry.value for entry in onnx.load(str(file)).metadata_props if entry.key == KEY)


def _quantised(model: Any, predictor: Predictor, images: Iterable[Image], floats: bool) -> Any:
    import nncf

    logging.getLogger("nncf").setLevel(logging.WARNING)  # it tells every layer that it leaves as it is

    def batch(image: NDArray[np.uint8]) -> NDArray[Any]:
        square = letterbox_image(image, predictor.size)[0].transpose(2, 0, 1)[None]
        return square.astype(np.float32) / 255 if floats else np.ascontiguousarray(square)

    opened = [image.pixels for image in islice(open_all(images, predictor.channels), CALIBRATION)]
    if not opened:
        raise ValueError("int8 is fitted to images, and there are none: give some that are typical")
    return nncf.quantize(
        model,
        nncf.Dataset(opened, batch),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(opened),
        ignored_scope=nncf.IgnoredScope(names=_behind_the_network(model), validate=False),
    )


def _behind_the_network(model: Any) -> list[str]:
    """Names of the layers that no convolution follows: the last convolutions, and the decoding."""
    followed: set[str] = set()
    rest = []
    for node in reversed(model.get_ordered_ops()):
        name = node.get_friendly_name()
        takers = {taker.get_node() for output in node.outputs() for taker in output.get_target_inputs()}
        if any(t.get_friendly_name() in followed or "Convolution" in t.get_type_name() for t in takers):
            followed.add(name)
        elif node.get_type_name() not in ("Constant", "Result"):
            rest.append(name)
    return rest
