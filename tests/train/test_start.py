"""What a run starts from: a whole earlier run, its backbone, a published detector, and which options come along."""

import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from rich.console import Console
from safetensors.torch import load_file

from detseg.data.annotations import Category
from detseg.detect.published import Published
from detseg.detect.yolo import YoloDetector
from detseg.models import MODELS, build_model, load_model, save_model
from detseg.train.config import TrainClassifier, TrainDetector, TrainLocalizer, config_for
from detseg.train.errors import TrainingError
from detseg.train.process import process
from detseg.train.resume import save_state
from detseg.train.runner import architecture_of, describe
from detseg.train.start import start_of
from tests.backbones.test_folding import shake_norms
from tests.contracts.test_models import annotations
from tests.train.runs import STATE

THEIRS, MINE = ["daisy", "rose", "tulip"], ["Tulip", "lily", "daisy"]
RATE = "; --lr 0.0001, for the head is trained"
ARCHITECTURE = {
    "kind": "yolo",
    "backbone": "test_efficientnet",
    "folded": True,
    "num_classes": 3,
    "strides": [8, 16],
    "anchors": [[[10.0, 12.0]], [[40.0, 44.0]]],
    "reach": 0.75,
    "width": 16,
}


def saved(folder, architecture=ARCHITECTURE, seed=3):
    """A run folder, with every norm and row a random one."""
    torch.manual_seed(seed)
    model = build_model(architecture)
    shake_norms(model)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.02
    categories = [{"id": k, "name": name} for k, name in enumerate([*THEIRS, "N/A"][: architecture["num_classes"]])]
    save_model(folder, model, {"architecture": architecture, "categories": categories, "size": 96})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("runs") / "detector-1")


@pytest.fixture(scope="module")
def data():
    return replace(annotations(), categories=tuple(Category(k, name) for k, name in enumerate(MINE)))


def started(config, data):
    """The model that a run begins with, its architecture, its options, and what was printed."""
    console = Console(file=io.StringIO(), width=300)
    with process(config, console) as this:
        this.config = replace(this.config, size=this.config.size or 320)
        architecture = architecture_of(this, data)
        model = this.build(architecture, data.names).eval()
    lines = console.file.getvalue().splitlines()
    return SimpleNamespace(model=model, architecture=architecture, config=this.config, lines=lines)


def detector(tmp_path, weights, **options):
    return TrainDetector(data=tmp_path, output=tmp_path / "run", weights=str(weights), **options)


@pytest.mark.parametrize("named", ["folder", "file"])
@pytest.mark.parametrize("folded", [True, False])
def test_a_whole_run_predicts_what_it_knows(run, data, tmp_path, named, folded):
    """Boxes, objectness and the logits of the classes of the same name are those of the earlier model, bit for bit."""
    if not folded:
        run = saved(tmp_path / "unfolded", ARCHITECTURE | {"folded": False})
    new = started(detector(tmp_path, run if named == "folder" else run / "model.safetensors"), data)
    assert new.architecture == ARCHITECTURE | {"folded": folded}
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (_, boxes, objectness, logits), known = new.model.predictions(images), load_model(run)[0].predictions(images)
    assert torch.equal(boxes, known[1]) and torch.equal(objectness, known[2])
    assert torch.equal(logits[..., [0, 2]], known[3][..., [2, 0]])
    assert not torch.equal(logits[..., 1], known[3][..., 1])
    config = new.config
    assert (config.backbone, config.size, config.strides, config.reach) == ("test_efficientnet", 96, (8, 16), 0.75)
    assert config.lr == 1e-4 and started(detector(tmp_path, run, lr=0.01), data).config.lr == 0.01
    assert new.lines == [
        f"as in {run}: --backbone test_efficientnet, --size 96, --strides 8 16, --reach 0.75, anchors, width{RATE}",
        f"weights: all of {run} (yolo, 3 classes): 2 classes kept by name, 1 new: lily; dropped: rose",
    ]


def test_options_that_are_given_prevail_and_what_they_change_starts_anew(run, data, tmp_path):
    new = started(detector(tmp_path, run, anchors=2, size=64, normalise="dataset"), data)
    fitted = describe(new.config, data)["anchors"]
    assert new.architecture == ARCHITECTURE | {"anchors": fitted} and len(fitted[0]) == 2
    assert torch.equal(new.model.anchors, torch.tensor(fitted))
    assert new.config.size == 64
    assert new.lines[-1].endswith(
        "0 classes kept by name; dropped: rose; layers that start anew: head.box, head.classes"
    )
    known = load_file(run / "model.safetensors")
    assert torch.equal(new.model.state_dict()["neck.lateral.0.0.weight"], known["neck.lateral.0.0.weight"])


def test_what_contradicts_the_run_is_refused(run, data, tmp_path):
    asked = partial(detector, tmp_path, run)
    grey = saved(tmp_path / "grey", ARCHITECTURE | {"in_channels": 1})
    for config, message in (
        (asked(backbone="resnet18"), "--backbone resnet18: .* has learnt with --backbone test_efficientnet; leave out"),
        (asked(channels=4), "--channels 4: .* with --channels 3; leave out --channels, or add --only-backbone"),
        (asked(strides=(8,)), r"does not fit \(leave out --strides, or add --only-backbone\): anchors must"),
        (detector(tmp_path, tmp_path), "no trained model here"),
        (detector(tmp_path, "none", only_backbone=True), "--only-backbone is for --weights of a run or coco"),
    ):
        with pytest.raises(ValueError, match=message):
            started(config, data)
    assert started(detector(tmp_path, grey), data).config.channels == 1


def test_the_backbone_alone_is_asked_for_or_all_that_another_model_can_use(run, data, tmp_path):
    known = {n: t for n, t in load_file(run / "model.safetensors").items() if n.startswith("backbone.")}
    one_map = saved(tmp_path / "deepest", ARCHITECTURE | {"strides": [8, 16, 32], "anchors": [[[9.0, 9.0]]] * 3})
    localizer = TrainLocalizer(data=tmp_path, weights=str(one_map), output=tmp_path / "run")
    for config, folder, line in (
        (detector(tmp_path, run, only_backbone=True, strides=(8, 16)), run, "as in {}: --backbone test_efficientnet"),
        (localizer, one_map, "as in {}: --backbone test_efficientnet; {} is a yolo: its backbone alone is taken"),
    ):
        new = started(config, data)
        known = {n: t for n, t in load_file(folder / "model.safetensors").items() if n.startswith("backbone.")}
        mine = new.model.state_dict()
        assert all(torch.equal(mine[name], tensor) for name, tensor in known.items())
        assert new.lines[0] == line.format(folder, folder)
        assert new.lines[-1].startswith(f"weights from {folder / 'model.safetensors'}: {len(known)} tensors copied")
        assert (new.config.size, new.config.lr) == (config.size or 320, None)
        assert new.architecture == describe(new.config, data)


def test_options_of_the_task_come_along(data, tmp_path):
    architecture = {
        "kind": "localizer",
        "backbone": "test_efficientnet",
        "folded": True,
        "num_classes": 3,
        "objectness": True,
        "loss": "giou",
        "square_root": False,
        "size": 96,
        "loss_weights": [1.0, 0.5],
        "normalisation": {"mean": [0.1, 0.2, 0.3], "std": [0.2, 0.2, 0.2]},
    }
    run = saved(tmp_path / "localizer", architecture)
    new = started(TrainLocalizer(data=tmp_path, weights=str(run), loss="mse", output=tmp_path / "run"), data)
    assert (new.config.objectness, new.config.square_root, new.config.loss) == (True, False, "mse")
    assert new.config.loss_weights == (1.0, 0.5)
    assert new.architecture == architecture | {"loss": "mse"}
    torch.testing.assert_close(new.model.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    assert new.lines[-1].endswith("2 classes kept by name, 1 new: lily; dropped: rose")


def test_a_resumed_run_needs_neither_the_run_it_came_from_nor_its_weights(run, data, tmp_path):
    config = detector(tmp_path, run, size=64)
    new = started(config, data)
    folder = tmp_path / "resumed"
    folder.mkdir()
    replace(new.config, weights="gone").save(folder)
    save_state(folder / "resume.pt", STATE | {"architecture": new.architecture})
    again = started(TrainDetector(resume=folder), data)
    assert again.architecture == new.architecture
    save_state(folder / "resume.pt", STATE)  # as an early version wrote it
    assert started(TrainDetector(resume=folder), data).architecture == describe(new.config, data)


def test_a_classifier_that_starts_whole_keeps_its_head(tmp_path):
    """Solved anew on these images alone, it would know no more than they tell."""
    from detseg.train.tasks.transfer import resolve

    architecture = {"kind": "classifier", "backbone": "test_efficientnet", "folded": True, "num_classes": 3}
    run = saved(tmp_path / "classifier", architecture)
    config = TrainClassifier(data=tmp_path, weights=str(run), strategy="finetune", output=tmp_path / "run")
    images = SimpleNamespace(labelled=SimpleNamespace(names=MINE))
    for given, fitted in ((config, "together"), (replace(config, only_backbone=True), "first")):
        with process(given, Console(quiet=True)) as this:
            assert resolve(this, images, this.start.architecture(3, lambda: architecture)).fit_head == fitted


# ------------------------------------------------------------------ published detectors

CATEGORIES = ["__background__", "daisy", "N/A", "TULIP ", "person"]
PUBLISHED = ARCHITECTURE | {"folded": False, "num_classes": len(CATEGORIES) - 1}


class Weights:
    """As an entry of torchvision's enumerations of weights."""

    url = "https://download.example/detector-1234.pth"

    def __init__(self, tensors):
        self.tensors, self.meta = tensors, {"categories": CATEGORIES}

    def get_state_dict(self, progress, check_hash, weights_only):
        assert check_hash
        if self.tensors is None:
            raise OSError("no route to host")
        return self.tensors


@pytest.fixture
def publish(monkeypatch, tmp_path):
    """Makes a state the one that torchvision publishes for yolo, under names of its own."""
    options = {name: PUBLISHED[name] for name in ("strides", "anchors", "reach", "width")} | {"bins": 0}

    def publish(tensors):
        entry = Published("some_builder", options, lambda t: {n.removeprefix("theirs."): v for n, v in t.items()})
        monkeypatch.setattr(YoloDetector, "coco", {"test_efficientnet": entry})
        monkeypatch.setattr("torchvision.models.get_model_weights", lambda name: {"COCO_V1": Weights(tensors)})

    return publish


def test_a_published_detector(publish, data, tmp_path):
    """Its norms are folded here, so the same numbers come out but for rounding."""
    run = saved(tmp_path / "published", PUBLISHED)
    publish({f"theirs.{name}": tensor for name, tensor in load_file(run / "model.safetensors").items()})
    new = started(detector(tmp_path, "coco"), data)
    assert new.architecture == ARCHITECTURE | {"bins": 0, "sharpness": 2.0, "vote_iou": 0.65}
    assert not any("running_mean" in name for name in new.model.backbone.state_dict())
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (_, boxes, objectness, logits), known = new.model.predictions(images), load_model(run)[0].predictions(images)
    for mine, theirs in ((boxes, known[1]), (objectness, known[2]), (logits[..., [0, 2]], known[3][..., [2, 0]])):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    known = f"--size 320, --strides 8 16, --reach 0.75, --bins 0, anchors, width{RATE}"
    assert new.lines[0] == f"as in torchvision's some_builder: --backbone test_efficientnet, {known}"
    kept = "2 classes kept by name, 1 new: lily; dropped: person"
    assert new.lines[-1] == f"weights: all of torchvision's some_builder (yolo, 3 classes): {kept}"

    alone = started(detector(tmp_path, "coco", only_backbone=True, strides=(8, 16)), data)
    assert alone.lines[-1].startswith("weights from torchvision's some_builder: ")
    mine, whole = alone.model.backbone.state_dict(), new.model.backbone.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in whole.items())


def test_weights_that_are_not_there(publish, data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there are no COCO weights for --model localizer; there are for"):
        start_of(TrainLocalizer(weights="coco"))
    publish(None)
    with pytest.raises(ValueError, match="COCO weights with --backbone test_efficientnet, not resnet18"):
        start_of(TrainDetector(weights="coco", backbone="resnet18"))
    with pytest.raises(ValueError, match=r"--anchors: the head that torchvision's some_builder has learnt is another"):
        start_of(TrainDetector(weights="coco", anchors=5, strides=(8, 16)))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(TrainingError) as error:
        started(detector(tmp_path, "coco"), data)
    for part in ("some_builder", "no route to host", Weights.url, str(tmp_path / "hub" / "checkpoints")):
        assert part in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backbone"), [(name, key) for name, kind in MODELS.items() for key in getattr(kind, "coco", {})]
)
def test_torchvisions_own(name, backbone, tmp_path, monkeypatch):
    """As with the weights that are downloaded: all of them find their places, the rows of COCO's classes by name.

    They are read by torchvision itself, from a file where torch keeps what it has downloaded.
    """
    published = MODELS[name].coco[backbone]
    theirs = getattr(torchvision.models.detection, published.builder)(weights=None, weights_backbone=None)
    shake_norms(theirs)
    tensors = theirs.state_dict()
    weights = torchvision.models.get_model_weights(published.builder)["COCO_V1"]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(tensors, tmp_path / "hub" / "checkpoints" / Path(weights.url).name)
    data = replace(annotations(), categories=tuple(Category(k, c) for k, c in enumerate(["cat", "lily", "Dog"])))
    config = config_for("detector", name)(data=tmp_path, output=tmp_path / "run", weights="coco", backbone=backbone)
    new = started(config, data)
    assert "): 2 classes kept by name, 1 new: lily; dropped: person, bicycle" in new.lines[-1]
    assert "anew" not in new.lines[-1]

    unfolded = {**new.architecture, "folded": False, "num_classes": 90}
    whole, renamed = build_model(unfolded).eval(), published.rename(tensors)
    assert not whole.load_state_dict(renamed, strict=False).unexpected_keys
    image = torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for mine, known in zip(new.model.backbone(image), whole.backbone(image), strict=True):
            torch.testing.assert_close(mine, known, rtol=1e-3, atol=1e-3 * float(known.abs().max()))
    categories = weights.meta["categories"]
    state, layers = new.model.state_dict(), new.model.class_layers()
    for tensor in (n for n in state if not n.startswith("backbone.")):
        rows = layers.get(tensor.rpartition(".")[0])
        if rows is None:
            assert torch.equal(state[tensor], renamed[tensor]), tensor
            continue
        mine = state[tensor].unflatten(0, (rows.groups, -1, rows.each))
        known = renamed[tensor].unflatten(0, (rows.groups, len(categories), rows.each))
        for place, category in ((0, "cat"), (2, "dog"), *([(-1, "__background__")] if rows.background else [])):
            there = known[:, categories.index(category)]
            assert torch.equal(mine[:, place + rows.background], there), (tensor, category)
