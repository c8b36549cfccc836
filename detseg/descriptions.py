"""What `model.json` may hold: every entry by its declared type, those of an architecture by the model's own arguments.

The numbers of an architecture are sizes of tensors. A damaged or hostile file may ask for any: `bounded` refuses to
make more than the file of weights could fill.
"""

import inspect
import math
import operator
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, reduce
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import torch
from torch.overrides import TorchFunctionMode

from detseg.described import Categories, Channels, Count, Objects, Positive, Size
from detseg.json_text import as_declared
from detseg.reading import FileError
from detseg.registry import MODELS

FORMAT = 1


class Description(msgspec.Struct):
    """The entries that are read again; there are others, for people."""

    format: Literal[1]
    architecture: dict[str, Any]
    categories: Categories
    size: Size
    objects: Objects | None = None


class Normalisation(msgspec.Struct, forbid_unknown_fields=True):
    """Of images, in place of the backbone's; numbers for each channel."""

    mean: list[float]
    std: list[Positive]


# What every model has beside the arguments of its class, see `detseg.models.build_model`.
_OF_ALL = (
    ("kind", str),
    ("backbone", str),
    ("strides", list[Annotated[int, msgspec.Meta(ge=1, le=1024)]] | None, None),
    ("in_channels", Channels, 3),
    ("num_classes", Count),
    ("atrous", bool, False),
    ("folded", bool, False),
    ("normalisation", Normalisation | None, None),
    ("max_detections", Count | None, None),
    ("calibration", tuple[float, float] | None, None),
)


def check_description(content: Any, place: str | Path) -> None:
    """Raise FileError, naming the entry, where the content of a `model.json` is none."""
    if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] != FORMAT:
        raise FileError(f"{place}: format {content['format']!r} is not the one of this version of detseg ({FORMAT})")
    description = as_declared(content, Description, place, "it is no description of a model, as detseg train writes it")
    architecture = check_architecture(description.architecture, f"{place}: architecture")
    if architecture.num_classes != len(description.categories):
        raise FileError(
            f"{place}: architecture: num_classes is {architecture.num_classes}, but there are "
            f"{len(description.categories)} categories"
        )


def check_architecture(architecture: Any, place: str) -> Any:
    """An architecture's entries as attributes; raises FileError where one is missing, unknown or of another type."""
    kind = architecture.get("kind")
    if not isinstance(kind, str) or kind not in MODELS:
        raise FileError(f"{place}: unknown kind {kind!r:.40}; this version knows {', '.join(map(repr, MODELS))}")
    attributes = as_declared(architecture, _schema(kind), place)
    _refuse_huge(architecture, place)
    return attributes


def _refuse_huge(content: Any, place: str) -> None:
    """Raise FileError where a whole number has more than 64 bits: it may be a float's, but not in torch."""
    if isinstance(content, int) and not -(2**63) <= content < 2**63:
        raise FileError(f"{place}: is a whole number of more than 64 bits")
    for name, value in content.items() if isinstance(content, dict) else ():
        _refuse_huge(value, f"{place}: {name!r:.40}")
    for value in content if isinstance(content, (list, tuple)) else ():
        _refuse_huge(value, place)


@cache
def _schema(kind: str) -> type[msgspec.Struct]:
    """What the architecture of a model may hold, by the arguments of its class."""
    known = {name for name, *_ in _OF_ALL}
    own = [argument for argument in _arguments(MODELS[kind]) if argument[0] not in known]
    return msgspec.defstruct("Architecture", [*_OF_ALL, *own], kw_only=True, forbid_unknown_fields=True)


def _arguments(model: type) -> list[tuple[str, Any, Any] | tuple[str, Any]]:
    """Names, types and defaults of a class's arguments behind the backbone, those that it hands on included."""
    found: dict[str, tuple[str, Any, Any] | tuple[str, Any]] = {}
    for kind in model.__mro__:
        if "__init__" not in vars(kind):
            continue
        function: Any = vars(kind)["__init__"]
        parameters = list(inspect.signature(function).parameters.values())
        hints = get_type_hints(function)
        for one in parameters[2:]:
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
                default = () if one.default is one.empty else (one.default,)
                found.setdefault(one.name, (one.name, _in_json(hints.get(one.name, Any)), *default))
        if all(one.kind is not one.VAR_KEYWORD for one in parameters):
            break
    return list(found.values())


def _in_json(hint: Any) -> Any:
    """A type without what JSON cannot hold, such as tensors."""
    if get_origin(hint) in (Union, types.UnionType):
        held = [one for one in get_args(hint) if _held(one)]
        return reduce(operator.or_, held) if held else Any
    return hint if _held(hint) else Any


def _held(hint: Any) -> bool:
    """Whether JSON can hold a type."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint in (bool, int, float, str, type(None), Any) or origin is Literal:
        return True
    if origin in (Union, types.UnionType, list, tuple, dict, Sequence, Mapping):
        return all(one is ... or _held(one) for one in inside)
    return False


# ------------------------------------------------------------------ memory

_MAKES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
# Parts of a network that are made and cut off again, such as the dense layers of VGG, and what is no weight.
_SPARE = 150_000_000
_LEAST = 20_000  # numbers that a tensor counts as, if it has fewer: a million small layers take their time too


class _Bounded(TorchFunctionMode):
    """Refuses tensors that have, with those made before, more than so many numbers."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(
        self, func: Callable[..., Any], kinds: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MAKES and str(kwargs.get("device")) != "meta":
            size = kwargs.get("size", args[0] if args and isinstance(args[0], Iterable) else args)
            self.left -= max(_LEAST, math.prod(int(side) for side in size))
            if self.left < 0:
                raise ValueError("it describes a larger network than its weights are of")
        return func(*args, **kwargs)


@contextmanager
def bounded(weights: Path) -> Iterator[None]:
    """Inside, networks are not made much larger than a file of weights is; raises ValueError where one would be."""
    with _Bounded(weights.stat().st_size + _SPARE if weights.is_file() else _SPARE):
        yield
