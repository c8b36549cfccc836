"""Which operations of a run take which tensors: for changes that hold only where nothing else looks on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Call(NamedTuple):
    """An operation of a run: its name ("convolution", "native_batch_norm", "relu_", …), what it took and gave."""

    name: str
    arguments: Sequence[Any]
    output: Any


class Watch(TorchDispatchMode):
    """Notes in `calls`, by id, which operations take certain tensors or the outputs of convolutions."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._kept = list(tensors)  # so that their ids stay their own
        self.calls: dict[int, list[Call]] = {id(tensor): [] for tensor in self._kept}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        call = Call(func.overloadpacket.__name__, args, output)
        for leaf in tree_leaves((args, kwargs)):
            if id(leaf) in self.calls:
                self.calls[id(leaf)].append(call)
        if call.name == "convolution":
            self._kept.append(output)
            self.calls[id(output)] = []
        return output


def only_call(calls: Sequence[Call], kind: str) -> Call | None:
    """The call, if there is exactly one and it is of this kind."""
    return calls[0] if len(calls) == 1 and kind in calls[0].name else None
