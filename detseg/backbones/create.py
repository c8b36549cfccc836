"""Backbones by name: registered builders first, then timm, then torchvision."""

import fnmatch
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from detseg.backbones.backbone import Backbone, check_strides
from detseg.backbones.folding import load_backbone
from detseg.backbones.sources import LIBRARIES, OF_TORCHVISION, find_weights, library_of, no_weights
from detseg.backbones.weights import copy_weights
from detseg.registry import Registry


class Builder(Protocol):
    """Makes a backbone with random weights."""

    def __call__(self, *, strides: tuple[int, ...], in_channels: int) -> Backbone:
        """Make one; ValueError where it has no such stride."""


B = TypeVar("B", bound=Builder)
Weights = bool | str | os.PathLike[str] | Mapping[str, Tensor]
BACKBONES: Registry[Builder] = Registry("backbone")
# Where a network may end, the deepest first.
DEPTHS = (64, 32, 16, 8, 4, 2, 1)


def register_backbone(name: str, *, weights_of: str | None = None) -> Callable[[B], B]:
    """Decorator: make a builder known to `create_backbone` and `list_backbones` as `name`; ValueError if it is taken.

    `weights_of` is torchvision's classifier whose ImageNet weights fit.
    """

    def register(builder: B) -> B:
        BACKBONES.register(name)(builder)
        if weights_of is not None:
            OF_TORCHVISION[name] = weights_of
        return builder

    return register


def create_backbone(
    name: str,
    *,
    pretrained: Weights = False,
    strides: Sequence[int] = (8, 16, 32),
    in_channels: int = 3,
) -> Backbone:
    """The backbone `name`.

    Args:
        name: a registered name, else one of timm's, else one of torchvision's; see `list_backbones`.
        pretrained: False for random weights; True for ImageNet weights from an installed package, else from
            the hub; or a file of weights (see `load_weights`), also of a trained model with such a backbone: where
            its batch norms were folded into its convolutions, so are those of the result; or such tensors by name.
        strides: strides of the outputs, rising. Layers beyond the last are left out.
        in_channels: channels of the input.

    Raises:
        ValueError: unknown name, strides it does not have, or weights that do not fit.
        FileNotFoundError: no file at `pretrained`.
        RuntimeError: the hub cannot be reached.
    """
    strides = check_strides(strides)
    if in_channels < 1:
        raise ValueError(f"in_channels must be at least 1, got {in_channels}")
    backbone = _builder(name)(strides=strides, in_channels=in_channels)
    if not isinstance(pretrained, bool):
        backbone = load_backbone(backbone, pretrained)
    elif pretrained and name in BACKBONES and name not in OF_TORCHVISION:
        raise no_weights(name)
    elif pretrained:
        copy_weights(backbone, *find_weights(backbone.name))
    return backbone


def create_deepest(name: str, *, pretrained: Weights = False, in_channels: int = 3) -> Backbone:
    """The backbone `name` with its deepest map only, whatever its stride; otherwise as `create_backbone`."""
    for stride in DEPTHS:
        try:
            # Without weights: what is wrong with those is no question of the stride.
            backbone = create_backbone(name, strides=(stride,), in_channels=in_channels)
            break
        except ValueError:
            if stride == DEPTHS[-1]:
                raise
    if pretrained is False:
        return backbone
    return create_backbone(name, pretrained=pretrained, strides=backbone.strides, in_channels=in_channels)


def list_backbones(pattern: str = "*") -> list[str]:
    """Names that match `pattern` (`*` and `?` are wildcards), sorted."""
    return sorted(fnmatch.filter(_all_names(), pattern))


def unknown_backbone(name: str) -> ValueError:
    """The error for a name that nothing has, with the names near it."""
    return BACKBONES.unknown(name, known=_all_names())


def require_backbone(name: str) -> None:
    """Raise ValueError, with the names near it, where no backbone has a name."""
    _builder(name)


def _all_names() -> set[str]:
    return {*BACKBONES, *(name for library in LIBRARIES for name in library.names())}


def _builder(name: str) -> Builder:
    """The builder of `name`, or ValueError with the names near it."""
    if name in BACKBONES:
        return BACKBONES[name]
    if (library := library_of(name)) is not None:
        return functools.partial(library.build_backbone, name)
    raise unknown_backbone(name)
