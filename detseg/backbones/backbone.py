"""The contract every backbone keeps: an image goes in, one feature map per asked stride comes out."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones.measure import cut_unused
from detseg.backbones.weights import WeightReport

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A feature network with its channels, strides, normalisation and stages.

    The law of `forward`: for an input of shape (N, in_channels, H, W), any H and W >= 1, output i has shape
    (N, channels[i], ceil(H / strides[i]), ceil(W / strides[i])). Where H or W is no multiple of
    `size_multiple`, zeros (the mean colour of a normalised image) are added at the bottom and right and the
    surplus cells are cut off again, so cell (y, x) looks at the same pixels whatever the image's size.

    Attributes:
        net: the wrapped network, without the layers that no output depends on.
        channels, strides: of each output; input pixels per cell, rising.
        size_multiple: sizes that are multiples of this are not padded.
        mean, std: what the caller must normalise with, `(x - mean) / std` for x in [0, 1]; in_channels long.
        stages: the modules with parameters, stem first, grouped by the stride they work at: for freezing and
            learning-rate groups. Every parameter is in exactly one stage.
        stage_strides: the stride each stage ends at; as long as `stages`.
        unused_parameters: parameters that influence no output yet cannot be cut out (HRNet's last fusion when
            stride 4 is not asked for). They must not require gradients: distributed training waits for all of those.
        weight_report: what was copied from a file of weights, None with random weights.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        strides: Sequence[int],
        in_channels: int = 3,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        name: str = "backbone",
        whole_network: Callable[[], Mapping[str, torch.Size]] | None = None,
    ) -> None:
        """Wrap `net`, (N, in_channels, H, W) -> list of (N, C, h, w), the finest first.

        Args:
            net: changed in place; ValueError unless its outputs are regular grids at `strides`.
            strides: of its maps, rising.
            in_channels: channels of the input.
            mean, std: normalisation for three colours; repeated (or averaged for one channel) to in_channels.
            name: for messages.
            whole_network: names and shapes of the tensors of the network this one was cut from, head included;
                `load_weights` then knows layers that were cut off from layers that do not belong.
        """
        super().__init__()
        self.name = name
        self.strides = check_strides(strides)
        self.in_channels = in_channels
        self.mean = spread_colours(mean, in_channels)
        self.std = spread_colours(std, in_channels)
        self.whole_network = whole_network
        self.weight_report: WeightReport | None = None
        run = cut_unused(net, self.strides, in_channels, name)
        self.net = net
        self.channels = run.channels
        self.unused_parameters = tuple(f"net.{parameter}" for parameter in run.unused_parameters)
        for parameter in self.unused_parameters:
            self.get_parameter(parameter).requires_grad_(False)
        self._stage_names = run.stages
        self.stage_strides = tuple(run.stages)
        self.size_multiple = max((*self.strides, *self.stage_strides))

    @property
    def stages(self) -> list[list[nn.Module]]:
        """The modules of each stage, stem first; see the class."""
        return [[self.net.get_submodule(name) for name in names] for names in self._stage_names.values()]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps, the finest first, of images (N, in_channels, H, W) normalised with `mean` and `std`."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"expected images of shape (N, {self.in_channels}, H, W), got {tuple(x.shape)}")
        height, width = x.shape[-2:]
        right, bottom = -width % self.size_multiple, -height % self.size_multiple
        if not (right or bottom):
            return list(self.net(x))
        maps = self.net(F.pad(x, (0, right, 0, bottom)))
        return [
            m[:, :, : -(-height // stride), : -(-width // stride)] for m, stride in zip(maps, self.strides, strict=True)
        ]

    def extra_repr(self) -> str:
        """Name, channels and strides."""
        return f"name={self.name!r}, channels={self.channels}, strides={self.strides}"


def check_strides(strides: Sequence[int]) -> tuple[int, ...]:
    """`strides` as a tuple, or ValueError unless they are positive whole numbers that rise."""
    result = tuple(strides)
    if not result or any(not isinstance(s, int) or s < 1 for s in result):
        raise ValueError(f"strides must be one or more positive integers, such as (8, 16, 32); got {result}")
    if any(a >= b for a, b in itertools.pairwise(result)):
        raise ValueError(f"strides must rise, the finest first; got {result}, sort them and drop repeats")
    return result


def check_multiples(strides: Sequence[int]) -> list[int]:
    """How many times coarser each stride is than the one before; ValueError where it is no whole number of times."""
    for fine, coarse in itertools.pairwise(strides):
        if coarse % fine:
            raise ValueError(
                f"stride {coarse} is no multiple of stride {fine}; give the backbone strides such as (8, 16, 32)"
            )
    return [coarse // fine for fine, coarse in itertools.pairwise(strides)]


def cut(x: Tensor, like: Tensor) -> Tensor:
    """`x` without what reaches over the bottom and right of `like`, both (N, C, H, W)."""
    return x[..., : like.shape[-2], : like.shape[-1]]


def spread_colours(values: Sequence[float], in_channels: int) -> tuple[float, ...]:
    """One value per input channel from the three of red, green and blue, to go with `adapt_input`.

    One channel gets the average; more than three repeat the colours in turn.
    """
    values = tuple(float(v) for v in values)
    if len(values) == in_channels:
        return values
    if in_channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(in_channels))
