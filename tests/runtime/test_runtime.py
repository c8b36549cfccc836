"""Exported models without torch: what is imported, what is refused, masks and label maps laid into images."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data.letterbox import Letterbox
from detseg.detect.masks import paste_masks
from detseg.predict.segmenter import _decide, _inside
from detseg.reading import FileError
from detseg.runtime import engines, load
from detseg.runtime.paste import decided, in_image
from detseg.runtime.torchscript_file import check_torchscript

WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "numba", "albumentations", "accelerate"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
"""


def python(code, *words):
    return subprocess.run([sys.executable, "-c", WITHOUT + code, *map(str, words)], capture_output=True, text=True)


def test_nothing_needs_torch():
    done = python("import detseg, detseg.runtime, detseg.results, detseg.sources; detseg.load; print('fine')")
    assert done.stdout == "fine\n", done.stderr


def test_files_that_are_none(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    (tmp_path / "a.xml").write_text("<net/>")
    for name, message in (
        ("a.onnx", "a.onnx: cannot be opened"),
        ("b.onnx", "b.onnx: there is no such file"),
        ("a.xml", "a.bin is missing"),
        ("a.engine", "exported models end in .onnx"),
    ):
        if name != "a.engine":
            pytest.importorskip({"onnx": "onnxruntime", "xml": "openvino"}[name[2:]])
        with pytest.raises(ValueError, match=message):
            load(tmp_path / name)


def test_openvino_lives_as_long_as_the_process():
    pytest.importorskip("openvino")
    assert engines._openvino() is engines._openvino(), "the stack for signals ends with it, and Ctrl-C then crashes"


def test_a_model_of_others_is_refused(tmp_path):
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = Relu(x)}'
    )
    onnx.save(graph, str(tmp_path / "relu.onnx"))
    with pytest.raises(ValueError, match="was not written by `detseg export`"):
        load(tmp_path / "relu.onnx")


class Adding(torch.nn.Module):
    def __init__(self):
        super().__init__()
        both = torch.arange(6.0)
        self.register_buffer("first", both[:3])
        self.register_buffer("second", both[3:].view(3, 1).t())

    def forward(self, x):
        return x + self.first + self.second + torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_that_says_more_than_it_holds_is_refused(tmp_path):
    good = tmp_path / "good.torchscript"
    torch.jit.script(Adding()).save(good)
    torch.jit.trace(Adding(), torch.zeros(3)).save(tmp_path / "traced.torchscript")
    check_torchscript(good)
    check_torchscript(tmp_path / "traced.torchscript")
    with zipfile.ZipFile(good) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    storage = "good/data/0"
    for name, change, message in (
        ("empty", {storage: b""}, r"data.pkl: good/data/0 has 0 bytes, and its tensor has 24"),
        ("short", {storage: entries[storage][:20]}, "has 20 bytes, and its tensor has 24"),
        ("missing", {storage: None}, "good/data/0 is missing"),
        (
            "view",
            {"good/data.pkl": entries["good/data.pkl"].replace(b"K\x03(K\x01K\x03", b"K\x03(K\x01K\x09")},
            "a tensor of",
        ),
        ("words", {"good/data.pkl": b"junk"}, r"data.pkl: "),
        ("none", dict.fromkeys(entries), "cannot be opened"),
    ):
        path = tmp_path / f"{name}.torchscript"
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in (entries | change).items():
                if content is not None:
                    archive.writestr(entry, content)
        with pytest.raises(FileError, match=message) as caught:
            load(path)
        assert str(path) in str(caught.value)
    with zipfile.ZipFile(good, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(storage, b"")
    with pytest.raises(FileError, match="good/data/0 is in it twice"):
        load(good)


def test_boxes_in_the_grey_border_take_no_place():
    found = {
        "boxes": np.array([[0, 55, 64, 63], [0, 0, 64, 40], [3, 20, 3, 30], [0, 20, 9, 30]], np.float32),
        "scores": np.array([0.9, 0.8, 0.7, 0.6], np.float32),
        "labels": np.arange(4),
        "masks": np.ones((4, 2, 2), np.float32),
        "regions": np.array([[0, 0, 64, 64]] * 4, np.float32),
    }
    box = Letterbox.fit(200, 100, 64)
    every = in_image(found, box, (100, 200), coded=False)
    assert every["labels"].tolist() == [1, 3] and every["boxes"][0].tolist() == [0, 0, 200, 75]
    assert every["masks"].shape == (2, 100, 200) and every["masks"][0].sum() > 200 * 70
    assert in_image(found, box, (100, 200), coded=True, most=1)["labels"].tolist() == [1], "the best with area"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 50), height=st.integers(1, 50), whole=st.booleans())
def test_masks_lie_where_the_compiled_loops_lay_them(seed, width, height, whole):
    random = np.random.default_rng(seed)
    count, box = random.integers(0, 4), Letterbox.fit(width, height, 32)
    corners = random.uniform(-4, 36, (count, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    regions = np.broadcast_to(np.array([-4, -4, 36, 36], np.float32), boxes.shape) if whole else boxes
    masks = random.random((count, 6, 5)).astype(np.float32)
    found = {"boxes": boxes, "scores": np.ones(count), "labels": np.arange(count), "masks": masks, "regions": regions}
    laid = in_image(found, box, (height, width), coded=False)
    rows = laid["labels"]
    placed = torch.from_numpy(box.to_original(regions[rows].astype(np.float64), None))
    kept = torch.from_numpy(laid["boxes"])
    expected = paste_masks(torch.from_numpy(masks[rows]), placed, kept, (height, width)).numpy()
    assert laid["masks"].shape == expected.shape and (laid["masks"] != expected).sum() <= 1, "but for a rounding error"


@pytest.mark.parametrize(("width", "height"), [(64, 64), (90, 30), (7, 200), (1, 1)])
def test_label_maps_are_those_of_torch(width, height):
    random = torch.rand(4, 64, 64, generator=torch.Generator().manual_seed(width))
    probabilities = random.softmax(0)
    ours, confidence = decided(probabilities.numpy(), (height, width), 64)
    theirs = _decide([_inside(probabilities, (width, height), 64)], (width, height))
    assert (ours == theirs.mask).mean() > 0.99
    np.testing.assert_allclose(confidence, theirs.confidence, atol=1e-5)
