"""What a network costs: memory of its parameters and activations, multiplications; on the meta device, unbuilt.

    cost = network_cost(create_network("resnet18"), (224, 224), batch_size=8)
    print(cost.parameters, cost.training_bytes, cost.multiplications)

In training every activation that a gradient needs is kept until the backward pass; in inference a layer's input is
freed as soon as nothing more depends on it, so the largest pair of layers, roughly, decides.
"""

import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from detseg.backbones.measure import first_line
from detseg.backbones.meta import evaluating

ADAM = 4  # numbers a parameter in training: itself, its gradient, the two averages of AdamW


@dataclass(frozen=True)
class NetworkCost:
    """Of one forward pass of a batch in float32; bytes."""

    parameters: int  # how many
    parameter_bytes: int
    optimizer_bytes: int  # parameters, gradients and AdamW's two averages
    training_bytes: int  # activations kept for the backward pass, images included
    inference_bytes: int  # most that is alive at a time, images included
    multiplications: int  # of convolutions and matrix products, for one image


def network_cost(
    net: nn.Module, size: Sequence[int], *, batch_size: int = 1, in_channels: int | None = None
) -> NetworkCost:
    """The cost of a network for images of `size` = (height, width).

    The network may be anywhere; nothing is computed. Layers of which PyTorch keeps more than their inputs (indices of
    a pooling, statistics of a norm) are counted with all of it.

    Args:
        in_channels: of the images; by default `net.in_channels`, else 3.

    Raises:
        ValueError: the network cannot run on such images.
    """
    channels = int(getattr(net, "in_channels", 3)) if in_channels is None else in_channels
    state = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    shadows = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    weights = {name: shadows[name].requires_grad_() for name, _ in net.named_parameters()}

    def run(batch: int) -> Any:
        images = torch.empty(batch, channels, *size, device="meta")
        return torch.func.functional_call(net, shadows, (images,))

    try:
        net_bytes = sum(map(_bytes, weights.values()))
        with FlopCounterMode(display=False) as flops, torch.no_grad(), evaluating(net):
            run(1)
        with torch.no_grad(), evaluating(net), _LiveMemory(shadows) as live:
            run(batch_size)
        training = _saved_bytes(lambda: run(batch_size), shadows, net)
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        where = " x ".join(map(str, size))
        raise ValueError(f"it cannot run on images of {where} pixels: {first_line(error)}") from error
    count = sum(weight.numel() for weight in weights.values())
    return NetworkCost(count, net_bytes, ADAM * net_bytes, training, live.peak, flops.get_total_flops() // 2)


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _storage(tensor: Tensor) -> int:
    """What views of one tensor have in common."""
    return int(tensor.untyped_storage()._cdata)


def _saved_bytes(run: Any, known: Mapping[str, Tensor], net: nn.Module) -> int:
    """Bytes of what autograd keeps of a forward pass in training, and of the result; each memory once."""
    own = {_storage(tensor) for tensor in known.values()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(_storage(tensor), tensor)
        return tensor

    modes = {module: module.training for module in net.modules()}
    try:
        net.train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.enable_grad():
            for output in tree_leaves(run()):
                if isinstance(output, Tensor):
                    keep(output)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return sum(_bytes(tensor) for storage, tensor in kept.items() if storage not in own)


class _LiveMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, those in `known` apart; `peak` is the most."""

    def __init__(self, known: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.own = {_storage(tensor) for tensor in known.values()}
        self.users: Counter[int] = Counter()  # storage -> live tensors that use it
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage, size = _storage(tensor), _bytes(tensor)
        if storage in self.own:
            return
        if not self.users[storage]:
            self.live += size
            self.peak = max(self.peak, self.live)
        self.users[storage] += 1
        weakref.finalize(tensor, self._release, storage, size)

    def _release(self, storage: int, size: int) -> None:
        self.users[storage] -= 1
        if not self.users[storage]:
            self.live -= size
