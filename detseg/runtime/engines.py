"""The engines that exported models run on, by the ending of the file: images in, named arrays out."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from detseg.described import Categories, Channels, Count, Objects, Size
from detseg.files import require_text
from detseg.json_text import as_declared, parse_json
from detseg.reading import FileError
from detseg.runtime.torchscript_file import check_torchscript

KEY = "detseg"
"""What the description is called in the metadata of a file."""
SHAPES = 4  # of input that OpenVINO compiles a model for, each alone


class Engine(Protocol):
    """A model in an engine.

    Attributes:
        description: what the exporter wrote of the model, see `detseg.exporters.trace`.
    """

    description: dict[str, Any]

    def __call__(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The outputs, by name, of images (N, C, H, W) uint8, or float32 in [0, 1] where it was exported so."""


class OnnxEngine:
    """onnxruntime."""

    def __init__(self, path: Path, threads: int | None, *, exact: bool = False) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
        self.description = _parsed(self._session.get_modelmeta().custom_metadata_map.get(KEY), path)
        self._input = self._session.get_inputs()[0].name
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """See `Engine`."""
        return dict(zip(self._names, self._session.run(None, {self._input: images}), strict=True))


@cache
def _openvino() -> Any:
    """OpenVINO, one for the process and for as long as it lives.

    Its plugin of the CPU gives the thread that first asks for it a stack for signals, and frees it at its end while
    the thread may still have it: the next Ctrl-C would be a segmentation fault.
    """
    import openvino

    return openvino.Core()


class OpenVinoEngine:
    """OpenVINO."""

    def __init__(self, path: Path, threads: int | None, *, exact: bool = False) -> None:
        if not path.with_suffix(".bin").is_file():
            raise ValueError(f"{path}: {path.with_suffix('.bin').name} is missing beside it, which holds the weights")
        self._core = _openvino()
        self._model = self._core.read_model(path)
        known = self._model.has_rt_info([KEY])
        self.description = _parsed(self._model.get_rt_info([KEY]).astype(str) if known else None, path)
        self._settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        self._settings |= {} if threads is None else {"INFERENCE_NUM_THREADS": threads}
        self._settings |= {"INFERENCE_PRECISION_HINT": "f32"} if exact else {}
        self._requests: dict[tuple[int, ...], Any] = {}

    def __call__(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """See `Engine`."""
        found = self._request_for(images.shape).infer([images], share_inputs=True)
        # Copies: the next images are computed into the same memory.
        values = (np.array(value) for value in found.to_tuple())
        return dict(zip(self.description["outputs"], values, strict=True))

    def _request_for(self, shape: tuple[int, ...]) -> Any:
        """The model compiled for images of a shape: a quarter quicker than for any. Of many shapes only the first ones
        are worth half a second each."""
        shape = shape if shape in self._requests or len(self._requests) < SHAPES else ()
        if shape not in self._requests:
            model = self._model.clone()
            if shape:
                model.reshape(list(shape))
            device = "AUTO" if len(self._core.available_devices) > 1 else "CPU"
            self._requests[shape] = self._core.compile_model(model, device, self._settings).create_infer_request()
        return self._requests[shape]


class TorchScriptEngine:
    """torch, without the model's Python code."""

    def __init__(self, path: Path, threads: int | None, *, exact: bool = False) -> None:
        import torch
        import torchvision  # noqa: F401  (loads the operators that the file calls)

        if threads is not None:
            torch.set_num_threads(threads)
        check_torchscript(path)
        held = {KEY: ""}
        self._model = torch.jit.load(str(path), map_location="cpu", _extra_files=held).eval()
        text: Any = held[KEY]
        self.description = _parsed(text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text, path)

    def __call__(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """See `Engine`."""
        import torch

        with torch.inference_mode():
            found = self._model(torch.from_numpy(images))
        found = found if isinstance(found, tuple) else (found,)
        return dict(zip(self.description["outputs"], (value.numpy() for value in found), strict=True))


class Kind(NamedTuple):
    """How files of an ending are opened, and the packages that it takes."""

    open: Callable[..., Engine]
    install: str


ENGINES = {
    ".onnx": Kind(OnnxEngine, "onnxruntime"),
    ".xml": Kind(OpenVinoEngine, "openvino"),
    ".torchscript": Kind(TorchScriptEngine, "torch torchvision"),
}


def open_engine(path: str | Path, threads: int | None = None, *, exact: bool = False) -> Engine:
    """The engine of an exported file; ValueError, naming it, where it cannot be opened."""
    path = Path(path)
    kind = ENGINES.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: exported models end in {', '.join(ENGINES)}")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    require_text(path)
    try:
        return kind.open(path, threads, exact=exact)
    except ImportError as error:
        raise ValueError(f"{path}: its engine is not installed: pip install {kind.install}") from error
    except FileError:
        raise
    except Exception as error:  # each engine raises kinds of its own, and says at last what it is
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise FileError(f"{path}: cannot be opened: {told[-1]}") from error


class Description(msgspec.Struct):
    """What an exported file says of its model, see `detseg.exporters.trace`; there is more, for people."""

    task: Literal["detect", "localize", "segment", "classify"]
    categories: Categories
    size: Size
    any_size: bool
    channels: Channels
    input: Literal["uint8", "float32 in [0, 1]"]
    raw: bool
    letterbox: bool
    masks: bool
    max_detections: Count
    outputs: list[str]
    objects: Objects | None = None


def _parsed(text: str | None, path: Path) -> dict[str, Any]:
    """The description in a file, checked; raises FileError that names the entry."""
    if not text:
        raise FileError(f"{path}: was not written by `detseg export`: it does not say what the model is")
    place = f"{path}: its description"
    description: dict[str, Any] = parse_json(text.encode("utf-8", "surrogateescape"), place)
    as_declared(description, Description, place, "export it again")
    return description
