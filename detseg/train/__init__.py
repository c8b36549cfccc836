"""Training: options, tasks, the loop, checkpoints and logs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.train.callbacks.callback import Callback as Callback
    from detseg.train.runner import train as train

_PUBLIC = {"Callback": "detseg.train.callbacks.callback", "train": "detseg.train.runner"}


def __getattr__(name: str) -> Any:
    # Imported when asked for: the help of commands needs nothing of it.
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
