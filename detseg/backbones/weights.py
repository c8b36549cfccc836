"""Weights from files into modules, with a report; a parameter that gets nothing is an error."""

import difflib
import itertools
import logging
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from detseg.reading import reading

logger = logging.getLogger(__name__)

# Names other libraries wrap the state dict in, averaged weights first: they are what a run was evaluated with.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
# What wrapper modules put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "body.", "0.")
# First parts of the names of classification heads.
_HEADS = (
    "fc", "classifier", "head", "last_linear", "pre_logits", "conv_head", "head_fc", "head_conv", "head_drop",
    "final_layer", "downsamp_modules", "global_pool", "aux1", "aux2", "AuxLogits",
)  # fmt: skip
# First parts of names in timm's VGGs -> the same layer in torchvision's, whose files everyone has.
_IN_TORCHVISION = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}
_SHOWN = 8
# State dicts are so deep in wrappers, and names behind so many prefixes, at most: files of others may have thousands.
_DEEPEST = 4
_TENSORS_ALONE = (
    "files with other Python objects than tensors are refused, because reading them can run code; save "
    "model.state_dict() alone and give that"
)


@dataclass(frozen=True)
class WeightReport:
    """What became of the tensors of a file of weights."""

    source: str  # the file or where else the weights came from
    copied: tuple[str, ...]  # names in the module that were copied as they are
    skipped: tuple[str, ...]  # names in the file that have no place in the module: heads, layers that were cut off
    reshaped: tuple[str, ...] = ()  # names in the module whose input channels or dense layers were adapted
    missing: tuple[str, ...] = ()  # names in the module that got nothing: batch counters, all else is an error

    def __str__(self) -> str:
        parts = [f"{len(self.copied)} tensors copied"]
        parts += [f"{len(self.reshaped)} reshaped ({_some(self.reshaped)})"] if self.reshaped else []
        parts += [f"{len(self.skipped)} skipped ({_some(self.skipped)})"] if self.skipped else []
        return f"weights from {self.source}: " + ", ".join(parts)


def load_weights(module: nn.Module, path: str | os.PathLike[str]) -> WeightReport:
    """`copy_weights` of `read_weights`: the weights in the file `path`, by name; raises what the two raise."""
    return copy_weights(module, read_weights(path), source=str(path))


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a .safetensors or PyTorch file by name; FileError where it holds anything else. No code runs."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}; give the path of a .safetensors, .pth or .pt file")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        with reading(path, "it is no readable safetensors file; copy it again"):
            return load_file(path)
    with reading(path, _TENSORS_ALONE):
        refuse_packed(path)
        return _unwrap(torch.load(path, map_location="cpu", weights_only=True))


def refuse_packed(path: Path) -> None:
    """Raise ValueError for a file of torch that is packed: torch's own are not, and a small one could fill memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its content is compressed; save it with torch.save")


def same_kind(tensor: Tensor, wanted: Tensor) -> bool:
    """Whether both hold floating-point numbers, of 16 bits at least, or both whole ones."""
    if wanted.is_floating_point():
        return tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return not (tensor.is_floating_point() or tensor.is_complex())


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta)


def _unwrap(content: object) -> dict[str, Tensor]:
    """The state dict inside `content`, under one of the usual wrapper keys or bare."""
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
            odd = [name for name, v in tensors.items() if not _is_plain(v)]
            if odd:
                raise ValueError(f"{odd[0]} is sparse, nested, quantised or empty; plain tensors are wanted")
            if tensors:
                return tensors
            break
        content = inner
    raise ValueError(f"it holds no state dict: expected tensors by name, found {type(content).__name__}")


def cached_download(url: str) -> str:
    """Whether torch's cache of downloads has the file at `url`: "cached", else "download"."""
    cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    return "cached" if cached.is_file() else "download"


def copy_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> WeightReport:
    """Copy `tensors` into `module`, a `Backbone` or any other, by name; `source` is for messages.

    Prefixes such as `module.` are stripped, names flattened by timm (`stages_0.`) and the original ones
    (`stages.0.`) are the same, heads are skipped, and three-channel first convolutions are adapted to the
    module's `in_channels`. Nothing is copied unless everything fits.

    Raises:
        ValueError: a tensor of the module gets nothing, a shape differs, a value is not finite, or the source has
            layers that the module's network does not have.
    """
    plan = _Plan(module, tensors, source)
    report = plan.check()
    plan.copy()
    logger.debug("%s", report)
    if hasattr(module, "weight_report"):
        module.weight_report = report  # type: ignore[assignment]
    return report


def names_found(module: nn.Module, tensors: Mapping[str, Tensor]) -> set[str]:
    """The names of a module's tensors that `copy_weights` finds something for, whether it fits or not."""
    return set(_Plan(module, tensors, "").places)


class _Plan:
    """Which tensor goes where; made and checked before anything is copied."""

    def __init__(self, module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
        self.source = source
        self.tensors = tensors
        self.targets = module.state_dict()
        whole = getattr(module, "whole_network", None)
        self.whole: Mapping[str, torch.Size] = whole() if whole else {}
        self.in_channels = getattr(module, "in_channels", 3)
        self.prefix, self.places = self._best_prefix()

    def _best_prefix(self) -> tuple[str, dict[str, str]]:
        """The prefix of the source's names with which most targets are found, and target -> source name."""
        prefixes = {""}
        for name in self.tensors:
            prefix = ""
            for _ in range(_DEEPEST):
                prefix += next((p for p in _PREFIXES if name.startswith(p, len(prefix))), "")
                prefixes.add(prefix)
        aliases = {target: _aliases(target) for target in self.targets}
        found = [(prefix, self._places(prefix, aliases)) for prefix in sorted(prefixes, key=len)]
        return max(found, key=lambda item: len(item[1]))

    def _places(self, prefix: str, aliases: Mapping[str, list[str]]) -> dict[str, str]:
        places = {}
        for target, names in aliases.items():
            # A name the whole network has beats one that only looks alike.
            known = [n for n in names if n in self.whole] or names
            name = next((prefix + n for n in (*known, *names) if prefix + n in self.tensors), None)
            if name is not None:
                places[target] = name
        return places

    def check(self) -> WeightReport:
        """The report of a copy that will succeed, or ValueError with every reason why it would not."""
        missing = [t for t in self.targets if t not in self.places]
        counters = tuple(t for t in missing if t.endswith("num_batches_tracked"))
        used = set(self.places.values())
        assert len(used) == len(self.places), "one tensor of the source was meant for two places"
        left = [name for name in self.tensors if name not in used]
        reshaped = tuple(t for t in self.places if self._adaptable(t))
        problems = [
            *self._describe_missing([t for t in missing if t not in counters], left),
            *self._describe_shapes(reshaped),
            *self._describe_strangers(left),
            *self._describe_values(),
        ]
        if problems:
            shown = "\n  ".join(problems[: 2 * _SHOWN])
            more = f"\n  and {len(problems) - 2 * _SHOWN} more" if len(problems) > 2 * _SHOWN else ""
            raise ValueError(
                f"{self.source} does not fit: {len(problems)} problems, nothing was copied\n  {shown}{more}\n"
                "Give the weights of the same network, as deep as this one, or start from random ones (--weights none, "
                "in Python pretrained=False)."
            )
        copied = tuple(t for t in self.places if t not in reshaped)
        return WeightReport(self.source, copied, tuple(left), reshaped, counters)

    def _adaptable(self, target: str) -> bool:
        """Whether it is a fully connected layer elsewhere, or a convolution of three colours, not `in_channels`."""
        mine, theirs = self.targets[target].shape, self.tensors[self.places[target]].shape
        if len(mine) == 4 and len(theirs) == 2:
            return mine[0] == theirs[0] and mine[1:].numel() == theirs[1]
        return (
            len(mine) == len(theirs) == 4
            and mine != theirs
            and (mine[0], *mine[2:]) == (theirs[0], *theirs[2:])
            and (theirs[1], mine[1]) == (3, self.in_channels)
            and self._whole_shape(target) in (None, theirs)
        )

    def _fits(self, target: str) -> bool:
        return self.targets[target].shape == self.tensors[self.places[target]].shape or self._adaptable(target)

    def _whole_shape(self, name: str) -> torch.Size | None:
        """The shape of this tensor in the whole three-channel network; None if it is unknown."""
        return next((self.whole[alias] for alias in _aliases(name) if alias in self.whole), None)

    def _describe_missing(self, missing: list[str], left: list[str]) -> list[str]:
        near = {target: difflib.get_close_matches(target, left[:1000], n=2, cutoff=0.6) for target in missing[:_SHOWN]}
        hints = {target: f" (near: {', '.join(names)})" for target, names in near.items() if names}
        return [f"{t} {tuple(self.targets[t].shape)} gets nothing{hints.get(t, '')}" for t in missing]

    def _describe_shapes(self, reshaped: tuple[str, ...]) -> list[str]:
        return [
            f"{target} has shape {tuple(mine)}, {name} in the source has {tuple(theirs)}"
            for target, name in self.places.items()
            if (mine := self.targets[target].shape) != (theirs := self.tensors[name].shape) and target not in reshaped
        ]

    def _describe_strangers(self, left: list[str]) -> list[str]:
        """Names that are neither heads nor layers cut off the same network: a file of another network."""
        result = []
        for name in left:
            bare = name.removeprefix(self.prefix)
            known = bare.split(".")[0] in _HEADS or bare.endswith("num_batches_tracked")
            # Without the prefix it is another part of a larger model.
            if name.startswith(self.prefix) and not known and self._whole_shape(bare) is None:
                result.append(f"{name} {tuple(self.tensors[name].shape)} in the source has no place in this network")
        return result

    def _describe_values(self) -> list[str]:
        result = []
        for target, name in self.places.items():
            tensor, wanted = self.tensors[name], self.targets[target].dtype
            if not same_kind(tensor, self.targets[target]):
                result.append(f"{name} in the source holds {tensor.dtype}, {target} needs {wanted}")
            elif self._fits(target) and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                result.append(f"{name} in the source has values that are not finite")
        return result

    @torch.no_grad()
    def copy(self) -> None:
        """Copy everything into place."""
        for target, name in self.places.items():
            tensor = self.tensors[name]
            if tensor.ndim == 2 and self.targets[target].ndim == 4:
                tensor = tensor.view(self.targets[target].shape)
            elif self._adaptable(target):
                tensor = adapt_input(tensor, self.in_channels)
            self.targets[target].copy_(tensor)


def _aliases(target: str) -> list[str]:
    """The names a module's tensor may have in a file, the exact one first.

    timm's feature networks flatten `stages.0.` to `stages_0.`, so each underscore of the first part may be a point.
    """
    names = [target]
    for wrapper in ("net.", "body.", "model."):
        names += [n[len(wrapper) :] for n in names[-1:] if n.startswith(wrapper)]
    bare = names[-1]
    first, _, rest = bare.partition(".")
    parts = first.split("_")
    for i in range(1, len(parts)):
        names.append(f"{'_'.join(parts[:i])}.{'_'.join(parts[i:])}.{rest}")
    layer, _, leaf = bare.rpartition(".")
    if layer in _IN_TORCHVISION:
        names.append(f"{_IN_TORCHVISION[layer]}.{leaf}")
    return names


def adapt_input(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution's weight (O, in_channels, kh, kw) from one for red, green and blue, (O, 3, kh, kw).

    One channel sums the colours: a grey image gives what the same image in three equal channels gave.
    More channels repeat the colours in turn, scaled by 3 / in_channels so that the response keeps its size.
    """
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeats = -(-in_channels // 3)
    return weight.repeat(1, repeats, 1, 1)[:, :in_channels] * (3 / in_channels)


def rename_by_position(
    tensors: Mapping[str, Tensor], names: Mapping[str, torch.Size], source: str
) -> dict[str, Tensor]:
    """`tensors` under other names, one after the other, for state dicts of the same network written twice.

    `names` is name -> shape of the network elsewhere, in its order; `source` is for messages. ValueError where the
    numbers of tensors, a shape or the last part of a name (weight, ...) differ.
    """
    result = {}
    for (theirs, tensor), (mine, shape) in itertools.zip_longest(
        tensors.items(), names.items(), fillvalue=("nothing", None)
    ):
        alike = theirs.rpartition(".")[2] == mine.rpartition(".")[2]
        if not alike or tensor is None or tensor.shape != shape:
            found = () if tensor is None else tuple(tensor.shape)
            raise ValueError(f"{source}: {theirs} {found} stands where {mine} {tuple(shape or ())} should be")
        result[mine] = tensor
    return result


def _some(names: tuple[str, ...]) -> str:
    """The first names, and how many more there are."""
    more = f", and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
