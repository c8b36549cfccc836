"""What every registered model keeps to, whatever it is: a new one is tested by being registered."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from detseg.boxes import box_iou
from detseg.cli import main
from detseg.data.annotations import Annotations, Category
from detseg.models import MODELS, build_model, load_model, save_architecture, save_model
from detseg.tasks import TASKS, task_of
from detseg.train.config import config_for
from detseg.train.runner import describe
from tests.dividing import distance, gradient, in_processes

SIZE, CLASSES = 64, 3


def annotations():
    """Two images with two objects each: what options are fitted to."""
    boxes = np.array([[2, 2, 30, 40], [10, 12, 60, 60], [5, 5, 20, 20], [0, 30, 50, 64]], np.float64)
    return Annotations(
        categories=tuple(Category(i, name) for i, name in enumerate("abc")),
        image_ids=np.arange(2),
        paths=np.array(["a.jpg", "b.jpg"]),
        sizes=np.full((2, 2), SIZE, np.int32),
        image_index=np.array([0, 0, 1, 1]),
        boxes=boxes,
        labels=np.array([0, 1, 2, 0]),
        iscrowd=np.zeros(4, bool),
        ids=np.arange(4),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
    )


# Each model as it is by default, and where options make another one of it.
VARIANTS = [*((name, {}) for name in MODELS), ("yolo", {"masks": True}), ("yolo", {"bins": 0})]


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: "-".join([variant[0], *variant[1]]))
def built(request):
    """Name, architecture and model, on a small backbone with random weights."""
    name, options = request.param
    kind = config_for(task_of(MODELS[name].task), name)
    config = kind(backbone="test_efficientnet", weights="none", size=SIZE, **options)
    torch.manual_seed(0)
    architecture = describe(config, annotations())
    return SimpleNamespace(name=name, architecture=architecture, model=build_model(architecture))


def images(count=2, size=SIZE):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def without_objects(task, count):
    """Targets that hold nothing to learn."""
    if task == "segment":
        return torch.full((count, SIZE, SIZE), 255, dtype=torch.uint8)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    masks = torch.zeros(0, SIZE, SIZE, dtype=torch.uint8)
    return [nothing | {"iscrowd": torch.zeros(0, dtype=torch.bool), "masks": masks}] * count


def tensors(found):
    """All tensors of a prediction."""
    if isinstance(found, torch.Tensor):
        return [found]
    return [t for part in (found.values() if isinstance(found, dict) else found) for t in tensors(part)]


def test_the_class_says_what_it_is(built):
    model = built.model
    assert model.name == built.name and model.task in {entry.models for entry in TASKS.values()}
    assert json.loads(json.dumps(built.architecture)) == built.architecture, "as JSON holds it"
    assert len(model.backbone.stages) == len(model.backbone.stage_strides)


def test_targets_decide_and_losses_are_finite_with_gradients(built):
    model = built.model.train()
    losses = model(images(), model.example_targets(2, SIZE, "cpu"))
    assert all(value.ndim == 0 and value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)
    model.zero_grad()
    for mode in (True, False):
        assert not isinstance(model.train(mode)(images()), dict), "predictions, whatever the mode"


def test_one_cell_of_one_image_is_told_with_its_remedy(built):
    model = built.model.train()
    with pytest.raises(ValueError, match=r"batch norm cannot learn from one value .*; give several images at a time"):
        model(images(1, 32), model.example_targets(1, 32, "cpu"))
    with torch.no_grad():
        model.eval()(images(1, 32))


def test_images_without_objects_train_too(built):
    model = built.model.train()
    if model.task == "classify":
        return  # every image has a class
    losses = model(images(), without_objects(model.task, 2))
    assert all(value.isfinite() for value in losses.values())
    assert all(value == 0 for name, value in losses.items() if "box" in name or model.task == "segment")
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()


def test_images_do_not_influence_each_other(built):
    model = built.model.eval()
    with torch.no_grad():
        both, first = tensors(model(images())), tensors(model(images()[:1]))
    for alone, together in zip(first, both, strict=False):
        torch.testing.assert_close(alone, together[: len(alone)] if alone.ndim else together, rtol=1e-4, atol=1e-4)


def test_uint8_and_floats_are_the_same(built):
    model = built.model.eval()
    with torch.no_grad():
        for a, b in zip(tensors(model(images())), tensors(model(images().float() / 255)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_saved_and_loaded_is_the_same(built, tmp_path):
    model = built.model.eval()
    categories = [{"id": i, "name": str(i)} for i in range(CLASSES)]
    save_model(tmp_path, model, {"architecture": built.architecture, "categories": categories, "size": SIZE})
    loaded, description = load_model(tmp_path)
    assert description["architecture"] == built.architecture and type(loaded) is type(model)
    with torch.no_grad():
        for a, b in zip(tensors(model(images())), tensors(loaded(images())), strict=True):
            assert torch.equal(a, b)


def test_suppression_between_classes_leaves_one_of_those_that_overlap(built):
    """None by default, and as little overlap as the threshold allows."""
    model = built.model.eval()
    if model.task != "detect":
        return
    usual, boxes = (model.iou_threshold, model.vote_iou), {}
    try:
        for model.agnostic in (False, True):
            model.iou_threshold, model.vote_iou = 0.4, None
            with torch.no_grad():
                boxes[model.agnostic] = model(images())[0]["boxes"]
    finally:
        model.agnostic, (model.iou_threshold, model.vote_iou) = False, usual
    assert box_iou(boxes[True], boxes[True]).fill_diagonal_(0).max() <= 0.4
    assert box_iou(boxes[False], boxes[False]).fill_diagonal_(0).max() > 0.4


def test_the_cap_and_the_calibration_of_detections_are_saved_and_loaded(built, tmp_path):
    if built.model.task != "detect":
        return
    assert (built.model.max_detections, built.model.calibration) == (100, None)
    architecture = built.architecture | {"max_detections": 321}
    categories = [{"id": i, "name": str(i)} for i in range(CLASSES)]
    description = {"architecture": architecture, "categories": categories, "size": SIZE}
    save_model(tmp_path, build_model(architecture), description)
    save_architecture(tmp_path, architecture | {"calibration": [2.0, 0.5]})
    loaded = load_model(tmp_path)[0]
    assert (loaded.max_detections, loaded.calibration) == (321, (2.0, 0.5))


def test_class_layers_are_the_layers_that_depend_on_the_number_of_classes(built):
    """Their rows are as they say, so that classes can be matched by name from run to run."""
    shapes = {name: t.shape for name, t in built.model.state_dict().items()}
    more = build_model(built.architecture | {"num_classes": CLASSES + 1}).state_dict()
    layers = built.model.class_layers()
    assert {name.rpartition(".")[0] for name, t in more.items() if t.shape != shapes[name]} == layers.keys()
    for name, tensor in more.items():
        if rows := layers.get(name.rpartition(".")[0]):
            counts = [rows.groups * (rows.background + count) * rows.each for count in (CLASSES, CLASSES + 1)]
            assert [shapes[name][0], len(tensor)] == counts, name


def test_exportable_is_plain_tensors(built):
    module = built.model.eval().exportable()
    with torch.no_grad():
        outputs = module(images().float() / 255)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    assert outputs and all(isinstance(out, torch.Tensor) and len(out) == 2 for out in outputs)


def test_losses_stay_on_the_device_of_their_inputs(built):
    model = built.model.train()
    # With an environment for sizes that the device alone knows: how many boxes non-max suppression keeps.
    with FakeTensorMode(shape_env=ShapeEnv()):
        state = {
            name: torch.empty(t.shape, dtype=t.dtype, device="cuda", requires_grad=t.requires_grad)
            for name, t in (*model.named_parameters(), *model.named_buffers())
        }
        batch = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8, device="cuda")
        for bf16 in (False, True):
            with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
                losses = functional_call(model, state, (batch, model.example_targets(2, SIZE, "cuda")))
            assert all(v.device.type == "cuda" and v.dtype == torch.float32 for v in losses.values())


def test_its_options_are_in_the_help_of_its_task(built, capsys):
    model = built.model
    with pytest.raises(SystemExit) as stop:
        main(["train", task_of(model.task), "--model", built.name, "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    for option in ("model", *getattr(model.Options, "__dataclass_fields__", ())):
        assert f"--{option.replace('_', '-')}" in told, option


def test_a_model_of_another_task_or_none_is_refused(capsys):
    with pytest.raises(ValueError, match=r"--model classifier is no detector; detseg train detector takes .*yolo"):
        config_for("detector", "classifier")
    with pytest.raises(SystemExit, match=r"no model is named 'yolos'; did you mean yolo\?"):
        main(["train", "detector", "--model", "yolos", "--data", "x"])


def uneven_targets(model, task):
    """Of four images, with less to learn in the second two."""
    targets = type(model).example_targets(4, SIZE, "cpu")
    if task == "segment":
        targets[2, : SIZE // 2] = targets[3] = 255
    elif task != "classify":
        targets[2] = {name: values[:1] for name, values in targets[2].items()}
        targets[3] = without_objects(task, 1)[0]
    return targets


def test_the_gradient_of_a_batch_does_not_depend_on_how_processes_divide_it(built, monkeypatch):
    model, task = built.model.eval(), built.model.task
    batch, targets = images(4), uneven_targets(model, task)
    parameters = [p for p in model.parameters() if p.requires_grad]
    # The samples of two-stage detectors are drawn by chance: here the same of an image, whatever is beside it.
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.linspace(0, 1, shape[-1]).expand(shape))

    def losses(share):
        return model(batch[share], targets[share])

    whole = gradient(losses(slice(4)), parameters)
    divided = [gradient(found, parameters) for found in in_processes(losses, [slice(0, 2), slice(2, 4)])]
    assert distance(divided, whole) < 1e-5
