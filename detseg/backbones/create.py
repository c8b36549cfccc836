"""Backbones by name: registered builders first, then timm, then torchvision."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import os
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from detseg.backbones import pretrained as _pretrained
from detseg.backbones.backbone import Backbone, check_strides
from detseg.backbones.folding import load_backbone
from detseg.backbones.sources import OF_TORCHVISION, load_pretrained, no_weights


class Builder(Protocol):
    """Makes a backbone with random weights."""

    def __call__(self, *, strides: tuple[int, ...], in_channels: int) -> Backbone:
        """A backbone with these strides and input channels; ValueError where it has no such stride."""


B = TypeVar("B", bound=Builder)
_BUILDERS: dict[str, Builder] = {}


def register_backbone(name: str) -> Callable[[B], B]:
    """Decorator: make a builder known to `create_backbone` and `list_backbones` as `name`.

    Raises:
        ValueError: the name is taken.
    """

    def register(builder: B) -> B:
        if name in _BUILDERS:
            raise ValueError(f"a backbone named {name!r} is registered already; choose another name")
        _BUILDERS[name] = builder
        return builder

    return register


def create_backbone(
    name: str,
    *,
    pretrained: bool | str | os.PathLike[str] = False,
    strides: Sequence[int] = (8, 16, 32),
    in_channels: int = 3,
) -> Backbone:
    """The backbone `name`.

    Args:
        name: a registered name, else one of timm's, else one of torchvision's; see `list_backbones`.
        pretrained: False for random weights; True for ImageNet weights from an installed package, else from
            the hub; or the path of a file of weights (see `load_weights`), also of a trained model with such a
            backbone: where its batch norms were folded into its convolutions, so are those of the result.
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
    elif pretrained and name in _BUILDERS and name not in OF_TORCHVISION:
        raise no_weights(name)
    elif pretrained:
        load_pretrained(backbone)
    return backbone


def list_backbones(pattern: str = "*") -> list[str]:
    """Names that match `pattern` (`*` and `?` are wildcards), sorted."""
    return sorted(fnmatch.filter(_all_names(), pattern))


def _all_names() -> set[str]:
    import timm
    from torchvision import models

    return {*_BUILDERS, *timm.list_models(), *models.list_models(module=models)}


def _builder(name: str) -> Builder:
    """The builder of `name`, or ValueError with the names near it."""
    if name in _BUILDERS:
        return _BUILDERS[name]
    if _pretrained.is_timm(name):
        return functools.partial(_pretrained.build_timm, name)
    if _pretrained.is_torchvision(name):
        return functools.partial(_pretrained.build_torchvision, name)
    raise unknown_backbone(name)


def unknown_backbone(name: str) -> ValueError:
    """The error for a name that nothing has, with the names near it."""
    near = difflib.get_close_matches(name, _all_names(), n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "list_backbones('*resnet*') shows names."
    return ValueError(f"no backbone is named {name!r}; {hint}")
