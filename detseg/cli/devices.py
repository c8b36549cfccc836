"""The device that a command's `--device` names."""

from typing import Any

from detseg.options import device_of


def chosen_device(text: str) -> Any:
    """What torch takes as a device: for "auto" the best there is, for "1" the second GPU.

    Raises:
        ValueError: several are named.
    """
    if text != "auto":
        return device_of(text)
    from accelerate import PartialState

    return PartialState().device
