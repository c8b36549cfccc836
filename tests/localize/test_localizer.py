"""The localizer: codes and their laws, which object counts, losses by hand, learning by heart, any device."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from detseg.backbones import Backbone, create_deepest
from detseg.boxes import paired_iou
from detseg.localize.localizer import SMOOTH_L1_BETA, Localizer, decode, encode, largest_objects

SIZE = (200, 100)  # width, height


def target(*objects):
    """Boxes with label and whether they are crowds: (x1, y1, x2, y2, label, crowd)."""
    rows = torch.tensor(objects, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": rows[:, :4], "labels": rows[:, 4].long(), "iscrowd": rows[:, 5].bool()}


def boxes(count=50, seed=0):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)).sort(1).values
    return corners.flatten(1) * torch.tensor([*SIZE, *SIZE])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Localizer(create_deepest("test_efficientnet"), 3)


def make_images(count=2, height=64, width=64):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


# ------------------------------------------------------------------ codes


def test_a_box_encoded_by_hand():
    box = torch.tensor([[20.0, 10, 70, 46]])
    assert encode(box, SIZE, square_root=False).tolist() == [pytest.approx([0.225, 0.28, 0.25, 0.36])]
    assert encode(box, SIZE).tolist() == [pytest.approx([0.225, 0.28, 0.5, 0.6])]


@pytest.mark.parametrize("square_root", [True, False])
def test_decoding_undoes_encoding(square_root):
    given = boxes()
    numbers = encode(given, SIZE, square_root=square_root)
    assert (numbers >= 0).all()
    assert (numbers <= 1).all()
    assert torch.allclose(decode(numbers, SIZE, square_root=square_root), given, atol=1e-4)
    assert torch.allclose(
        encode(decode(numbers, SIZE, square_root=square_root), SIZE, square_root=square_root), numbers, atol=1e-5
    )


def test_the_size_of_the_image_makes_no_difference():
    given = boxes()
    assert torch.allclose(encode(given * 3, (600, 300)), encode(given, SIZE), atol=1e-6)


def test_with_square_roots_a_pixel_matters_more_on_a_small_box():
    def difference(width, square_root):
        box = torch.tensor([[50.0, 50, 50 + width, 60]])
        wider = box + torch.tensor([[-5.0, 0, 5, 0]])
        return float(
            (encode(wider, SIZE, square_root=square_root) - encode(box, SIZE, square_root=square_root)).abs().max()
        )

    assert difference(10, True) > 2 * difference(90, True)
    assert difference(10, False) == pytest.approx(difference(90, False))


def test_no_boxes_and_empty_boxes():
    assert encode(torch.zeros(0, 4), SIZE).shape == (0, 4)
    assert decode(torch.zeros(0, 4), SIZE).shape == (0, 4)
    assert decode(encode(torch.tensor([[5.0, 5, 5, 5]]), SIZE), SIZE).tolist() == [[5, 5, 5, 5]]


# ------------------------------------------------------------------ which object


def test_the_largest_that_is_no_crowd_counts():
    found = largest_objects(
        [
            target((0, 0, 10, 10, 1, 0), (0, 0, 30, 5, 2, 0), (0, 0, 90, 90, 0, 1)),
            target(),
            target((0, 0, 9, 9, 2, 1)),
            target((1, 2, 3, 4, 1, 0)),
        ]
    )
    assert found.there.tolist() == [True, False, False, True]
    assert found.known.tolist() == [True, True, False, True]
    assert found.boxes[found.there].tolist() == [[0, 0, 30, 5], [1, 2, 3, 4]]
    assert found.labels[found.there].tolist() == [2, 1]


def test_no_objects_at_all():
    found = largest_objects([target(), target()])
    assert found.there.tolist() == [False, False]
    assert found.known.tolist() == [True, True]
    assert found.boxes.shape == (2, 4)


# ------------------------------------------------------------------ the model


def test_one_detection_an_image(model):
    found = model.eval()(make_images(3, 64, 96))
    assert len(found) == 3
    for one in found:
        assert one["boxes"].shape == (1, 4)
        assert one["scores"].shape == one["labels"].shape == (1,)
        x1, y1, x2, y2 = one["boxes"][0].tolist()
        assert 0 <= x1 <= x2 <= 96
        assert 0 <= y1 <= y2 <= 64
        assert 1 / 3 <= float(one["scores"]) <= 1


@pytest.mark.parametrize("square_root", [True, False])
@pytest.mark.parametrize("loss", ["mse", "smooth_l1", "giou", "ciou"])
def test_losses_by_hand(loss, square_root):
    torch.manual_seed(0)
    backbone = create_deepest("test_efficientnet")
    model = Localizer(backbone, 3, loss=loss, square_root=square_root, loss_weights=(2.0, 3.0)).eval()
    images, wanted = make_images(2, 100, 200), torch.tensor([[20.0, 10, 70, 46], [0, 0, 200, 100]])
    with torch.no_grad():
        losses = model(images, [target((20, 10, 70, 46, 1, 0)), target((0, 0, 200, 100, 2, 0))])
        logits, numbers, presence = model.outputs(images)
    assert losses.keys() == {"loss_class", "loss_box"}
    assert presence is None
    assert float(losses["loss_class"]) == pytest.approx(
        2 * float(F.cross_entropy(logits, torch.tensor([1, 2]))), rel=1e-5
    )
    difference = (numbers - encode(wanted, SIZE, square_root=square_root)).abs()
    if loss == "mse":
        value = difference.square().mean()
    elif loss == "smooth_l1":
        b = SMOOTH_L1_BETA
        value = torch.where(difference < b, difference.square() / (2 * b), difference - b / 2).mean()
    else:
        shares = wanted / torch.tensor([*SIZE, *SIZE])
        value = (1 - paired_iou(decode(numbers, (1, 1), square_root=square_root), shares, kind=loss)).mean()
    assert float(losses["loss_box"]) == pytest.approx(3 * float(value), rel=1e-4)


def test_images_without_an_object_teach_only_objectness():
    torch.manual_seed(0)
    model = Localizer(create_deepest("test_efficientnet"), 3, objectness=True).eval()
    images = make_images(2)
    none = model(images, [target(), target()])
    assert none["loss_class"].tolist() == none["loss_box"].tolist() == 0
    assert float(none["loss_objectness"].detach()) == pytest.approx(math.log(2), abs=0.1)
    one = target((5, 5, 40, 40, 1, 0))
    both = model(images, [one, target()])
    alone = model(images[:1], [one])
    assert torch.allclose(both["loss_class"], alone["loss_class"], rtol=1e-4)
    assert torch.allclose(both["loss_box"], alone["loss_box"], rtol=1e-4)
    torch.stack(list(none.values())).sum().backward()
    assert model.box[-1].weight.grad.abs().sum() == 0
    assert model.objectness.weight.grad.abs().sum() > 0


def test_crowds_alone_are_neither_an_object_nor_none():
    torch.manual_seed(0)
    model = Localizer(create_deepest("test_efficientnet"), 3, objectness=True).eval()
    images, one, crowd = make_images(3), target((5, 5, 40, 40, 1, 0)), target((5, 5, 60, 60, 1, 1))
    with torch.no_grad():
        model.objectness.bias.fill_(2.0)  # what is taken for an object and for none costs differently
        everything = model(images, [one, crowd, target()])
        without = model(images[[0, 2]], [one, target()])
        beside = model(images[:1], [target((5, 5, 40, 40, 1, 0), (0, 0, 60, 60, 1, 1))])
        alone = model(images[:1], [one])
    for name, value in everything.items():
        assert float(value) == pytest.approx(float(without[name]), rel=1e-4), name
        assert float(beside[name]) == float(alone[name]), name
    nothing = model(images, [crowd, crowd, crowd])
    assert [float(value.detach()) for value in nothing.values()] == [0, 0, 0]
    torch.stack(list(nothing.values())).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_objectness_lowers_the_scores():
    torch.manual_seed(0)
    model = Localizer(create_deepest("test_efficientnet"), 3, objectness=True).eval()
    with torch.no_grad():
        model.objectness.bias.fill_(-10.0)
    assert all(float(found["scores"]) < 1e-3 for found in model(make_images()))


@pytest.mark.parametrize(
    ("stride", "size", "grid"), [(32, 224, 7), (32, 64, 2), (64, 96, 2), (16, 224, 14), (4, 224, 14), (64, 32, 1)]
)
def test_the_box_is_decoded_from_the_cells_of_the_map(stride, size, grid):
    net = nn.Conv2d(3, 2, 1, stride)
    net.forward = lambda x, forward=net.forward: [forward(x)]
    model = Localizer(Backbone(net, strides=(stride,)), 2, size=size, width=3)
    assert (model.grid, model.box[0].in_features) == (grid, 3 * grid**2 if grid > 1 else 2)


@pytest.mark.parametrize("grid", [1, 2, 5])
def test_any_grid(grid):
    model = Localizer(create_deepest("test_efficientnet"), 3, grid=grid).eval()
    assert model.outputs(make_images(2, 70, 50))[1].shape == (2, 4)


@pytest.mark.parametrize("loss", ["mse", "smooth_l1", "giou", "ciou"])
def test_every_part_learns(loss):
    torch.manual_seed(0)
    model = Localizer(create_deepest("test_efficientnet"), 3, loss=loss, objectness=True)
    losses = model(make_images(), [target((5, 5, 40, 40, 1, 0)), target()])
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"loss": "iou"}, "unknown loss 'iou': use one of mse"),
        ({"loss_weights": (1,)}, "loss_weights are two numbers"),
        ({"loss_weights": (1, -1)}, "loss_weights are two numbers"),
        ({"grid": 0}, "grid"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        Localizer(create_deepest("test_efficientnet"), **({"num_classes": 3} | options))


def test_uint8_and_float_images_are_the_same(model):
    model.eval()
    for dtype in (torch.float32, torch.float64):
        for a, b in zip(model(make_images()), model(make_images().to(dtype) / 255), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_types_answer_in_float32(dtype):
    torch.manual_seed(0)
    model = Localizer(create_deepest("test_efficientnet"), 3, objectness=True).eval()
    expected = model.outputs(make_images())
    got = model.to(dtype).outputs(make_images())
    assert {value.dtype for value in got} == {torch.float32}
    torch.testing.assert_close(got, expected, rtol=0, atol=0.02)
    sum(model(make_images(), [target((5, 5, 40, 40, 1, 0)), target()]).values()).backward()


def test_on_another_device():
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        model = Localizer(create_deepest("test_efficientnet"), 4, objectness=True, loss="ciou")
        images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8, device="cuda")
        found = model(images)
        assert all(value.device.type == "cuda" for one in found for value in one.values())
        wanted = {
            "boxes": torch.ones(1, 4, device="cuda"),
            "labels": torch.zeros(1, dtype=torch.int64, device="cuda"),
            "iscrowd": torch.zeros(1, dtype=torch.bool, device="cuda"),
        }
        losses = model(images, [wanted, wanted])
        assert all(value.device.type == "cuda" for value in losses.values())
