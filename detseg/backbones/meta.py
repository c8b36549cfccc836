"""Networks on the meta device: built and run for names and shapes only, in a tenth of a second and no memory.

Also what every look at a run needs: evaluation mode or no gradients of weights for a
while, hooks that are taken away again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init
from torch.overrides import TorchFunctionMode

T = TypeVar("T")
# What initialisation calls; on the meta device each of them goes through many lines of Python to do nothing, and
# elsewhere it makes numbers that nobody asks for.
_FILLS = (torch.Tensor.uniform_, torch.Tensor.normal_, init.uniform_, init.normal_, init.kaiming_uniform_)
# What keeps every shape and has no parameters: its output depends on what its input depends on.
_ACTIVATIONS = {
    *(F.relu, F.relu6, F.hardtanh, F.leaky_relu, F.elu, F.silu, F.gelu, F.mish, F.hardswish, F.hardsigmoid),
    *(torch.relu, torch.relu_, torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_, Tensor.relu_),
}


class _Instead(TorchFunctionMode):
    """Something else in place of some of torch's functions."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.answer(func, args, kwargs or {})

    def answer(self, func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """What calling the function gives."""
        return func(*args, **named)


class _NoFills(_Instead):
    """Leaves tensors that initialisation would fill as they are."""

    def answer(self, func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """The tensor itself."""
        if func in _FILLS:
            return args[0] if args else named["tensor"]
        return super().answer(func, args, named)


class _Norm(torch.autograd.Function):
    """The batch norm of an input, as far as shapes and what depends on what go."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor | None) -> Tensor:
        """One of the same shape."""
        ctx.weights = weights
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients for all that it depends on."""
        return grads[0], *(None if one is None else torch.empty_like(one) for one in ctx.weights)


class _Short(_Instead):
    """Batch norms and activations as the shortest that shows shapes and what depends on what.

    On the meta device torch takes each of them apart in hundreds of lines of Python, forward and backward: most of the
    time that a look at a network would take.
    """

    def answer(self, func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """A tensor of the same shape, which depends on the same."""
        if func in _ACTIVATIONS and args:
            return args[0]
        weight = named.get("weight") if func is F.batch_norm else None
        if weight is not None and len(weight) == args[0].shape[1]:
            return _Norm.apply(args[0], weight, named["bias"])
        return super().answer(func, args, named)


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules made inside are on the meta device, names and shapes only, and nothing initialises them."""
    with torch.device("meta"), _NoFills():
        yield


def build_on_meta(build: Callable[[], T]) -> T:
    """The network that `build` makes, for its names and shapes; on the meta device where it can be built there."""
    try:
        with on_meta():
            return build()
    except (RuntimeError, AssertionError):  # some networks compute while they are built
        with _NoFills():
            return build()


def shapes_of(net: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes of its state dict, in order."""
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


@contextmanager
def hooked(
    modules: Iterable[nn.Module], after: Callable[..., Any] | None = None, *, before: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Inside, `before(module, inputs)` and `after(module, inputs, output)` are called for each of the modules.

    What they return, unless it is None, replaces inputs (a tuple) and output.
    """
    modules = list(modules)
    handles = [module.register_forward_pre_hook(before) for module in modules] if before else []
    handles += [module.register_forward_hook(after) for module in modules] if after else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each module gets its own mode back."""
    modes = {module: module.training for module in net.modules()}
    try:
        net.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """No parameter requires gradients for a while: what else requires them is all that a graph is kept for."""
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def run_on_meta(net: nn.Module, shape: torch.Size) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs (meta tensors) of `net`, and by name the meta tensors that stood for its parameters."""
    state = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    # Under a FakeTensorMode nothing is computed anyhow, and meta tensors are not allowed.
    faked = any(type(tensor.data) is not Tensor for tensor in state.values())
    device = torch.device("cpu" if faked else "meta")
    shadows = {name: torch.empty_like(tensor, device=device) for name, tensor in state.items()}
    parameters = {name: shadows[name].requires_grad_() for name, _ in net.named_parameters()}
    with _Short():
        return list(torch.func.functional_call(net, shadows, (torch.empty(shape, device=device),))), parameters
