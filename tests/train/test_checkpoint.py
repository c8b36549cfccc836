"""Models and states on disk: whole round trips, one clear message for whatever is wrong, no code run."""

import errno
import json
import os
import pickle
import random
import resource
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import detseg
from detseg.models import build_model, load_model, save_model
from detseg.reading import FileError
from detseg.train.resume import load_state, random_states, restore_random_states, save_state
from tests.train.runs import PROCESS, STATE, differences

ARCHITECTURE = {
    "kind": "yolo",
    "backbone": "test_efficientnet",
    "strides": [8, 16, 32],
    "num_classes": 2,
    "anchors": [[[10.0, 12.0]], [[20.0, 22.0]], [[40.0, 44.0]]],
    "width": 16,
}
DESCRIPTION = {
    "architecture": ARCHITECTURE,
    "categories": [{"id": 4, "name": "rose"}, {"id": 0, "name": "Gänseblümchen"}],
    "size": 64,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "new" / "run"
    torch.manual_seed(3)
    model = build_model(ARCHITECTURE).to(memory_format=torch.channels_last)
    save_model(folder, model, DESCRIPTION)
    return folder, model


@pytest.fixture
def run(saved, tmp_path):
    """A copy that may be damaged."""
    for path in saved[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def edit(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_model_comes_back_as_it_was(saved):
    folder, model = saved
    back, description = load_model(folder)
    assert not back.training
    assert description == {"format": 1, **DESCRIPTION}
    assert differences(dict(back.state_dict()), dict(model.state_dict())) == []
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        back.to(memory_format=torch.channels_last)  # as the model; another layout rounds differently
        assert differences(back(images), model.eval()(images)) == []


def test_a_model_in_a_folder_whose_name_is_no_text(saved, tmp_path):
    folder, (_, model) = tmp_path / os.fsdecode(b"caf\xe9"), saved
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    save_model(folder, model, DESCRIPTION)
    assert differences(dict(load_model(folder)[0].state_dict()), dict(model.state_dict())) == []


def test_nothing_but_two_files_is_written_and_others_may_read_them(saved):
    assert sorted(path.name for path in saved[0].iterdir()) == ["model.json", "model.safetensors"]
    modes = {path.stat().st_mode for path in saved[0].iterdir()}
    assert len(modes) == 1


def test_load_gives_a_detector(saved):
    detector = detseg.load(saved[0])
    assert detector.names == ["rose", "Gänseblümchen"]
    assert detector.categories == [(4, "rose"), (0, "Gänseblümchen")]
    assert detector.size == 64


def message_of(folder):
    with pytest.raises(ValueError) as error:
        detseg.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_empty_folder(tmp_path):
    message = message_of(tmp_path)
    assert str(tmp_path) in message
    assert "no trained model here (model.json is missing)" in message


def test_missing_weights(run):
    (run / "model.safetensors").unlink()
    assert f"{run / 'model.safetensors'}: cannot be read" in message_of(run)


@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_cut_weights(run, keep):
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert f"{path}: cannot be read" in message_of(run)


def test_weights_of_another_model(run):
    third = {"id": 5, "name": "tulip"}
    edit(run / "model.json", lambda c: c["categories"].append(third) or c["architecture"].update(num_classes=3))
    message = message_of(run)
    assert f"{run / 'model.safetensors'}: these weights do not belong to" in message
    assert "head.classes" in message


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float8_e4m3fn, torch.float16])
def test_weights_of_another_kind_of_number(run, dtype):
    path = run / "model.safetensors"
    state = load_file(path)
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    save_file(state | {name: state[name].to(dtype)}, path)
    if dtype is torch.float16:
        detseg.load(run)
    else:
        assert f"{path}: {name} holds {dtype}, the model needs torch.float32" in message_of(run)


def test_a_description_that_is_a_pipe(run):
    (run / "model.json").unlink()
    os.mkfifo(run / "model.json")
    assert message_of(run).startswith(f"{run / 'model.json'}: is a pipe and no file")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "3", '"format"', "{}", '{"format": 1}', "\x00"])
def test_damaged_descriptions(run, text):
    (run / "model.json").write_text(text)
    assert message_of(run).startswith(f"{run / 'model.json'}: ")


def test_a_description_that_is_no_text(run):
    (run / "model.json").write_bytes(b"\xff\xfe\x00\x81")
    assert message_of(run).startswith(f"{run / 'model.json'}: line 1")


def test_another_version(run):
    edit(run / "model.json", lambda c: c.update(format=99))
    assert "format 99 is not the one of this version" in message_of(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "sdd"}, "unknown kind 'sdd'; this version knows"),
        ({"kind": ["yolo"]}, "unknown kind ['yolo']"),
        ({"backbone": "no_such_net"}, "cannot be read: no backbone is named 'no_such_net'"),
        ({"num_classes": None}, "num_classes: Expected `int`, got `null`"),
        ({"num_classes": 10**12}, "num_classes: Expected `int` <= 1000000"),
        ({"num_classes": 3}, "num_classes is 3, but there are 2 categories"),
        ({"calibration": [10**25, 0]}, "'calibration': is a whole number of more than 64 bits"),
        ({"anchors": [[1]]}, "anchors[0][0]: Expected `array`, got `int`"),
        ({"anchors": [[[1, 1]]]}, "cannot be read: anchors must have the shape"),
        ({"in_channels": 0}, "in_channels: Expected `int` >= 1"),
        ({"strides": [8, 0]}, "strides[1]: Expected `int` >= 1"),
        ({"width": 10**9}, "cannot be read: it describes a larger network than its weights are of"),
        ({"bins": 10**12}, "cannot be read: it describes a larger network than its weights are of"),
        ({"calibration": [1]}, "calibration: Expected `array` of length 2"),
        ({"normalisation": {"mean": [0, 0, 0], "std": [1, 0, 1]}}, "normalisation.std[1]: Expected `float` > 0"),
        ({"surplus": 1}, "Object contains unknown field `surplus`"),
    ],
)
def test_wrong_architectures(run, change, message):
    edit(run / "model.json", lambda c: c["architecture"].update(change))
    assert message_of(run).startswith(f"{run / 'model.json'}: architecture: {message}")


def test_a_missing_entry_of_the_architecture(run):
    edit(run / "model.json", lambda c: c["architecture"].pop("anchors"))
    assert "architecture: Object missing required field `anchors`" in message_of(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": [{"id": 1}, {"id": 2, "name": "b"}]}, "categories[0]: Object missing required field `name`"),
        ({"categories": [{"id": 2**63, "name": "a"}] * 2}, "categories[0].id: Expected `int` <="),
        ({"size": 10**9}, "size: Expected `int` <= 8192"),
        ({"size": True}, "size: Expected `int`, got `bool`"),
        ({"objects": {"sides": [1, 2]}}, "objects.sides: Expected `array` of length 3"),
    ],
)
def test_wrong_descriptions(run, change, message):
    edit(run / "model.json", lambda c: c.update(change))
    assert message_of(run).startswith(f"{run / 'model.json'}: {message}")


def test_a_state_comes_back_as_it_was(tmp_path):
    path = tmp_path / "resume.pt"
    save_state(path, STATE | {"step": 1})
    save_state(path, STATE)
    assert differences(load_state(path), {"format": 3, **STATE}) == []
    assert [p.name for p in tmp_path.iterdir()] == ["resume.pt"]


def test_a_crash_while_saving_leaves_the_old_state(tmp_path):
    path = tmp_path / "resume.pt"
    save_state(path, STATE)
    with pytest.raises(Exception, match="pickle"):
        save_state(path, {"step": lambda: None})
    assert load_state(path)["step"] == 3


@contextmanager
def small_files(most):
    """No file gets longer than so many bytes: like a full disk, an error of the system while it is written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_where_there_is_no_room_the_system_says_so_and_what_was_there_stays(saved, tmp_path):
    path = tmp_path / "resume.pt"
    save_state(path, STATE)
    save_model(tmp_path, saved[1], DESCRIPTION)
    before = (tmp_path / "model.safetensors").read_bytes()
    for most in (0, 1000, 100_000):
        with small_files(most):
            with pytest.raises(OSError) as error:
                save_state(path, {"step": 4, "model": torch.zeros(10**6)})
            assert error.value.errno == errno.EFBIG
            with pytest.raises(OSError, match=f"{tmp_path / 'model.safetensors'}: cannot be written: File too large"):
                save_model(tmp_path, saved[1], DESCRIPTION)
    assert load_state(path)["step"] == 3
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors", "resume.pt"]


def test_random_states_come_back(tmp_path):
    def draw():
        return random.random(), random.gauss(), np.random.normal(), float(torch.rand(1))  # noqa: NPY002

    device = torch.device("cpu")
    draw()  # half a pair of normal numbers is left in each
    save_state(tmp_path / "resume.pt", STATE | {"processes": [{"random": random_states(device), "sums": {}}]})
    expected = draw()
    assert draw() != expected
    restore_random_states(load_state(tmp_path / "resume.pt")["processes"][0]["random"], device)
    assert draw() == expected


def test_random_states_of_an_earlier_version(tmp_path):
    """Those of numpy and Python were not kept, and of several processes the first one's alone."""
    first = {"random": {"host": torch.get_rng_state()}, "sums": {"a": torch.tensor(1.5)}}
    state = {name: value for name, value in STATE.items() if name != "processes"}
    torch.save({"format": 2, **state, "world": 2, **first}, tmp_path / "resume.pt")
    expected = torch.rand(1)
    (process,) = load_state(tmp_path / "resume.pt")["processes"]
    assert process["sums"] == first["sums"]
    restore_random_states(process["random"], torch.device("cpu"))
    assert torch.rand(1) == expected


def test_a_missing_state(tmp_path):
    with pytest.raises(ValueError, match=r"resume\.pt: there is no state to resume from"):
        load_state(tmp_path / "resume.pt")


@pytest.mark.parametrize("keep", [0, 10, 300, -1])
def test_a_cut_state(tmp_path, keep):
    path = tmp_path / "resume.pt"
    save_state(path, STATE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"resume\.pt: cannot be read: ") as error:
        load_state(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{"step": 1}, [1], 5])
def test_a_state_without_a_version(tmp_path, content):
    torch.save(content, tmp_path / "resume.pt")
    with pytest.raises(ValueError, match=r"resume\.pt: cannot be read: "):
        load_state(tmp_path / "resume.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "3"}, "step: Expected `int`, got `str`"),
        ({"step": -1}, "step: Expected `int` >= 0"),
        ({"elapsed": float("nan")}, "elapsed: Expected `float` >= 0"),
        ({"processes": []}, "processes: Expected `array` of length >= 1"),
        ({"processes": [PROCESS] * 2}, "processes: are 2, not the 1 of world"),
        ({"processes": [PROCESS | {"sums": {"a": 1.5}}]}, "processes[0].sums[...]: Expected `Tensor`, got `float`"),
        (
            {"processes": [PROCESS | {"sums": {"a": torch.zeros(2)}}]},
            "processes: 0: sums: a: is float32 (2,) where float32 () is wanted",
        ),
        (
            {"processes": [PROCESS | {"random": {"host": torch.zeros(7, dtype=torch.uint8)}}]},
            "processes: 0: random: cannot be read: ",
        ),
        ({"choice": ["fp16", True]}, "choice[0]: Invalid enum value 'fp16'"),
        ({"architecture": {"kind": "no_such"}}, "architecture: unknown kind 'no_such'"),
        ({"optimizer": {"state": {}}}, "optimizer: Object missing required field `param_groups`"),
    ],
)
def test_an_entry_of_a_state_that_is_another(tmp_path, change, message):
    save_state(tmp_path / "resume.pt", STATE | change)
    with pytest.raises(FileError) as error:
        load_state(tmp_path / "resume.pt")
    assert str(error.value).startswith(f"{tmp_path / 'resume.pt'}: {message}")


def test_a_state_that_is_packed_is_not_unpacked(tmp_path):
    path = tmp_path / "resume.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(FileError, match="its content is compressed"):
        load_state(path)


def test_a_state_of_another_version(tmp_path):
    torch.save({"format": 99}, tmp_path / "resume.pt")
    with pytest.raises(
        ValueError, match=r"format 99 is not the one .* resume the run with the version that started it"
    ):
        load_state(tmp_path / "resume.pt")


class Code:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("save", [lambda x, p: torch.save(x, p), lambda x, p: p.write_bytes(pickle.dumps(x, 2))])
def test_code_in_a_state_is_not_run(tmp_path, save):
    path, trace = tmp_path / "resume.pt", tmp_path / "trace"
    save({"format": 2, "step": Code(trace)}, path)
    with pytest.raises(ValueError, match=r"resume\.pt: cannot be read: "):
        load_state(path)
    assert not trace.exists()


def test_code_in_place_of_weights_is_not_run(run, tmp_path):
    trace = tmp_path / "trace"
    (run / "model.safetensors").write_bytes(pickle.dumps(Code(trace)))
    assert "cannot be read" in message_of(run)
    assert not trace.exists()
