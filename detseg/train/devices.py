"""The device that a process of a run trains on: the best there is, or the one that `--device` names."""

import os

import torch
from accelerate import Accelerator

from detseg.options import device_of
from detseg.train.rendezvous import rendezvous_options


def accelerator_on(device: str) -> Accelerator:
    """Devices and processes; --precision decides the number format, not the launcher's settings.

    Args:
        device: "auto", or what torch calls a device; "1" is the second GPU.

    Raises:
        ValueError: there is no such device here; several are named, or one though there are several processes.
    """
    if device == "auto":
        # One of several processes on a machine without a GPU has to say so: else each would believe it is alone.
        without = launched() and not torch.accelerator.is_available()
        return Accelerator(mixed_precision="no", cpu=without, kwargs_handlers=rendezvous_options())
    if launched() and device != "cpu":
        raise ValueError(f"--device {device}: each of several processes has a GPU of its own; leave out --device")
    if "," in device:
        raise ValueError(start_several(device, "detseg train …"))
    try:
        wanted = torch.device(device_of(device))
    except RuntimeError as error:
        raise ValueError(
            f"--device {device}: is none that torch knows; cpu, cuda, cuda:1 (or 1) and mps are"
        ) from error
    if wanted.type == "cpu":
        return Accelerator(mixed_precision="no", cpu=True, kwargs_handlers=rendezvous_options())
    here, count = torch.accelerator.current_accelerator(), torch.accelerator.device_count()
    if here is None or here.type != wanted.type or (wanted.index or 0) >= count:
        found = f"{here.type} 0 to {count - 1}" if here is not None and count else "no GPU"
        raise ValueError(f"--device {device}: is not on this machine, which has {found}; leave it out, or name another")
    if wanted.index is not None:
        torch.accelerator.set_device_index(wanted.index)
    return Accelerator(mixed_precision="no")


def launched() -> bool:
    """Whether torchrun or accelerate has started this process."""
    return "LOCAL_RANK" in os.environ


def start_several(device: str, command: str) -> str:
    """What to do for a run on several devices, such as "0,1", by a command."""
    numbers = [number.strip() for number in device.split(",") if number.strip()]
    return (
        f"--device {device}: on several GPUs as many processes train; start them with: accelerate launch --multi_gpu "
        f"--num_processes {len(numbers)} --gpu_ids {','.join(numbers)} --no_python {command}"
    )
