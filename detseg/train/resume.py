"""The state that a run resumes from: `resume.pt`, read by torch's weights-only loader, so no code runs from it."""

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detseg.backbones.weights import refuse_packed
from detseg.files import replacing
from detseg.reading import FileError, reading
from detseg.train.state_check import AGAIN, check_state

RESUME = "resume.pt"
STATE_FORMAT = 3
READABLE = (2, 3)  # 2: of several processes, only the first one's random states are kept


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a resume state so that a crash leaves the old one whole.

    Raises:
        OSError: there is no room for it, say.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save({"format": STATE_FORMAT, **state}, file)
        except RuntimeError as error:  # torch's own, of what was not written
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())  # some disks tell only here that they are full


def load_state(path: Path) -> dict[str, Any]:
    """Read a resume state; the file cannot run code.

    Raises:
        FileError: it is missing, damaged, of another version, or holds more than data; the message names it.
    """
    if not path.is_file():
        raise FileError(f"{path}: there is no state to resume from: nothing was saved yet; start the run again")
    with reading(path, AGAIN):
        refuse_packed(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
    if not isinstance(version, int) or version not in READABLE:
        raise FileError(
            f"{path}: format {version!r:.40} is not the one of this version of detseg ({STATE_FORMAT}); resume the run "
            "with the version that started it, or start a new one"
        )
    if version == 2:
        state = {**state, "processes": [{name: state.get(name) for name in ("random", "sums")}]}
    check_state(state, path)
    return dict(state)


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of all global random generators: torch's of the host and, where it has one, of the device, numpy's and
    Python's, which networks and callbacks of others may use."""
    numpy: Any = np.random.get_state()  # noqa: NPY002  # the one that all share
    kind, keys, *rest = numpy
    states = {"host": torch.get_rng_state(), "numpy": (kind, keys.tolist(), *rest), "python": random.getstate()}
    if hasattr(torch.get_device_module(device), "get_rng_state"):
        states["device"] = torch.get_device_module(device).get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Inverse of `random_states`; a state of a device of another kind is left out, and so are those that an earlier
    version did not save."""
    torch.set_rng_state(states["host"])
    if states.get("numpy") is not None:
        np.random.set_state(states["numpy"])  # noqa: NPY002
        random.setstate(states["python"])
    if "device" in states and hasattr(torch.get_device_module(device), "set_rng_state"):
        torch.get_device_module(device).set_rng_state(states["device"])
