"""The device that a run, or a command, is told to use."""

import pytest
import torch

from detseg.options import device_of
from detseg.train.config import TrainDetector, load_config
from detseg.train.devices import accelerator_on, start_several

WITHOUT_GPU = pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU here")


def test_bare_numbers_are_gpus():
    names = {"0": "cuda:0", "3": "cuda:3", "cpu": "cpu", "cuda:1": "cuda:1", "mps": "mps", "²": "²"}
    assert {name: device_of(name) for name in names} == names
    with pytest.raises(ValueError, match="--device 0,1: name one device, such as 0"):
        device_of("0,1")


def test_the_processor_may_be_chosen():
    assert accelerator_on("cpu").device.type == "cpu"


@WITHOUT_GPU
@pytest.mark.parametrize("name", ["0", "cuda", "cuda:1", "mps"])
def test_devices_that_are_not_here(name, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match=f"--device {name}: is not on this machine, which has no GPU"):
        accelerator_on(name)


def test_names_of_no_device_and_several(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match="--device gpu: is none that torch knows"):
        accelerator_on("gpu")
    with pytest.raises(ValueError, match="--num_processes 2 --gpu_ids 2,3 "):
        accelerator_on("2,3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="each of several processes has a GPU of its own"):
        accelerator_on("cuda:1")


def test_what_starts_several():
    assert start_several("0, 1,", "x").endswith("--num_processes 2 --gpu_ids 0,1 --no_python x")


def test_a_device_is_of_the_process_not_of_the_run(tmp_path):
    TrainDetector(data=tmp_path, device="cpu").save(tmp_path)
    assert load_config(tmp_path).device == "auto"
    TrainDetector(resume=tmp_path, device="cpu").check()
