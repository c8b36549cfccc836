"""The grid detector as a whole: shapes, laws, edges, any device."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from detseg.backbones import create_backbone
from detseg.boxes import box_iou
from detseg.detect import YoloDetector, fit_anchors
from detseg.detect.grid import encode, make_grid
from detseg.detect.yolo import ignored_places

SIZES = [[12, 10], [20, 25], [30, 28], [40, 60], [60, 40], [64, 66], [80, 90], [100, 90], [120, 125]]


def detector(classes: int = 3, **options) -> YoloDetector:
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", pretrained=False, strides=(8, 16, 32))
    return YoloDetector(backbone, classes, torch.tensor(fit_anchors(SIZES, 3, 3)), width=16, **options)


@pytest.fixture(scope="module")
def model() -> YoloDetector:
    return detector()


def target(boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None) -> dict[str, Tensor]:
    result = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }
    return result if crowd is None else {**result, "iscrowd": torch.tensor(crowd, dtype=torch.bool)}


def make_images(count: int = 2, height: int = 96, width: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def test_targets_decide_not_the_mode(model: YoloDetector) -> None:
    for mode in (True, False):
        model.train(mode)
        losses = model(make_images(), [target([[5, 5, 40, 40]], [1]), target([], [])])
        assert set(losses) == {"loss_box", "loss_objectness", "loss_class"}
        assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
        assert isinstance(model(make_images()), list)


def test_detections_keep_the_contract(model: YoloDetector) -> None:
    model.eval()
    for found in model(make_images(3, 90, 130)):
        assert found["boxes"].shape == (len(found["scores"]), 4)
        assert found["boxes"].dtype == found["scores"].dtype == torch.float32
        assert found["labels"].dtype == torch.int64
        assert (found["scores"].diff() <= 0).all(), "best first"
        assert (found["boxes"][:, :2] >= 0).all()
        assert (found["boxes"][:, 2] <= 130).all() and (found["boxes"][:, 3] <= 90).all()
        assert len(found["scores"]) <= model.max_detections
        for label in found["labels"].unique():
            same = found["boxes"][found["labels"] == label]
            assert (box_iou(same, same).fill_diagonal_(0) <= model.iou_threshold).all()


def test_uint8_and_unit_floats_are_the_same_image(model: YoloDetector) -> None:
    model.eval()
    images = make_images()
    for dtype in (torch.float32, torch.float64):
        for a, b in zip(model(images), model(images.to(dtype) / 255), strict=True):
            torch.testing.assert_close(a["scores"], b["scores"])
    with pytest.raises(ValueError, match=r"uint8 or float in \[0, 1\], got torch.int64"):
        model(images.long())


def test_no_images(model: YoloDetector) -> None:
    model.eval()
    assert model(make_images(0)) == []
    _, boxes, objectness, classes = model.predictions(make_images(0))
    assert (boxes.shape, objectness.shape, classes.shape) == ((0, 567, 4), (0, 567), (0, 567, 3))


def test_decoded_targets_give_zero_box_loss(model: YoloDetector, monkeypatch) -> None:
    """The box loss of a network that says exactly `encode(object)` everywhere is zero: loss and decode agree."""
    box = torch.tensor([30.0, 22.0, 78.0, 61.0])
    grid = make_grid([(12, 12), (6, 6), (3, 3)], (8, 16, 32), list(model.anchors))
    logits = encode(box.expand(len(grid.corners), 4), grid, model.reach)
    per_level = logits.split([12 * 12 * 3, 6 * 6 * 3, 3 * 3 * 3])
    outputs = iter(
        (torch.cat((level, torch.zeros(len(level), 1)), 1)[None], torch.zeros(1, len(level), 3)) for level in per_level
    )
    monkeypatch.setattr(model.head, "forward", lambda x: next(outputs))
    losses = model(make_images(1), [target([box.tolist()], [1])])
    assert float(losses["loss_box"]) == pytest.approx(0, abs=1e-4)


def test_images_without_objects_train(model: YoloDetector) -> None:
    losses = model.train()(make_images(), [target([], []), target([], [])])
    assert float(losses["loss_box"]) == float(losses["loss_class"]) == 0.0
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)
    model.zero_grad()


def test_a_crowd_region_is_not_background(model: YoloDetector) -> None:
    model.eval()
    images = make_images(1)
    plain = model(images, [target([], [], [])])
    whole = model(images, [target([[0, 0, 96, 96]], [0], [True])])
    half = model(images, [target([[0, 0, 48, 96]], [0], [True])])
    assert float(whole["loss_objectness"]) == 0.0
    assert 0 < float(half["loss_objectness"]) < float(plain["loss_objectness"])
    assert float(half["loss_box"]) == 0.0


@pytest.mark.parametrize("side", [0.5, 3.0, 5.0, 7.0, 9.0])
def test_a_crowd_region_is_ignored_on_every_level_however_small_it_is(side: float) -> None:
    """Oracle: a loop over the cells."""
    grid = make_grid([(12, 16), (6, 8), (3, 4)], (8, 16, 32), [torch.ones(1, 2)] * 3)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(30, 2, generator=generator) * (torch.tensor([128, 96]) - side)
    boxes = torch.cat((corners, corners + side), 1)
    boxes[-1] = torch.tensor([127.5, 95.5, 128, 96])  # the last cell of all
    crowd = torch.arange(30) % 5 > 0
    ignored = ignored_places(grid, boxes, torch.arange(30), crowd, 30)
    assert not ignored[~crowd].any()
    for box, places in zip(boxes[crowd].tolist(), ignored[crowd], strict=True):
        holds = [
            x <= (box[0] + box[2]) / 2 < x + s and y <= (box[1] + box[3]) / 2 < y + s
            for (x, y), s in zip(grid.corners.tolist(), grid.stride[:, 0].tolist(), strict=True)
        ]
        assert sum(holds) == 3
        assert places[torch.tensor(holds)].all()
    # A cell that does not touch the region is background.
    low, high = grid.corners, grid.corners + grid.stride
    apart = ((low[None] >= boxes[:, None, 2:]) | (high[None] <= boxes[:, None, :2])).any(-1)
    assert not (ignored & apart).any()


def test_a_thin_crowd_region_is_ignored_along_its_length() -> None:
    grid = make_grid([(4, 4)], (8,), [torch.ones(1, 2)])
    boxes = torch.tensor([[2.0, 9.0, 30.0, 10.0]])
    ignored = ignored_places(grid, boxes, torch.tensor([0]), torch.tensor([True]), 1)
    assert ignored.view(4, 4).tolist() == [[False] * 4, [True] * 4, [False] * 4, [False] * 4]


def test_images_do_not_influence_each_other(model: YoloDetector) -> None:
    """Losses of a batch follow from those of its images: pairs and sums add up."""
    model.eval()
    images = make_images()
    targets = [target([[5, 5, 40, 40]], [1]), target([], [])]
    together = model(images, targets)
    alone = model(images[:1], targets[:1])
    torch.testing.assert_close(together["loss_box"], alone["loss_box"])
    torch.testing.assert_close(together["loss_class"], alone["loss_class"])


def test_one_level_with_five_anchors_is_yolov2() -> None:
    backbone = create_backbone("resnet18", pretrained=False, strides=(32,))
    anchors = torch.tensor(fit_anchors(SIZES, 1, 5))
    model = YoloDetector(backbone, 3, anchors, width=16, reach=0.5)
    grid, boxes, objectness, classes = model.predictions(make_images())
    assert boxes.shape == (2, 3 * 3 * 5, 4) and objectness.shape == (2, 45) and classes.shape == (2, 45, 3)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    assert ((centres >= grid.corners) & (centres <= grid.corners + grid.stride)).all(), "centres stay in their cells"
    losses = model(make_images(), [target([[5, 5, 40, 40]], [1]), target([[50, 50, 90, 80]], [2])])
    assert all(float(v) > 0 for v in losses.values())


@pytest.mark.parametrize("size", [(32, 32), (33, 65), (97, 64)])
def test_any_input_size(model: YoloDetector, size: tuple[int, int]) -> None:
    model.eval()
    assert len(model(make_images(1, *size))) == 1
    losses = model(make_images(1, *size), [target([[1, 1, 20, 20]], [0])])
    assert all(v.isfinite() for v in losses.values())


class Everything(nn.Module):
    """Calls losses and raw predictions of a detector in one forward, for `functional_call`."""

    def __init__(self, model: YoloDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]]) -> tuple[dict[str, Tensor], tuple]:
        return self.model(images, targets), self.model.predictions(images)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_losses_and_decoding_stay_on_the_device_of_their_inputs(model: YoloDetector, precision: str) -> None:
    both = Everything(model)
    with FakeTensorMode():
        state = {
            name: torch.empty(t.shape, dtype=t.dtype, device="cuda", requires_grad=t.requires_grad)
            for name, t in (*both.named_parameters(), *both.named_buffers())
        }
        objects = {
            "boxes": torch.rand(3, 4, device="cuda"),
            "labels": torch.zeros(3, dtype=torch.int64, device="cuda"),
            "iscrowd": torch.zeros(3, dtype=torch.bool, device="cuda"),
        }
        images = torch.zeros(2, 3, 96, 96, dtype=torch.uint8, device="cuda")
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            losses, (grid, boxes, objectness, classes) = functional_call(both, state, (images, [objects, objects]))
        for tensor in (*losses.values(), grid.corners, boxes, objectness, classes):
            assert tensor.device.type == "cuda" and tensor.dtype == torch.float32


def test_half_precision_inside_float32_outside(model: YoloDetector) -> None:
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(make_images(), [target([[5, 5, 40, 40]], [1]), target([], [])])
        found = model(make_images())
    assert all(v.dtype == torch.float32 for v in losses.values())
    assert found[0]["boxes"].dtype == torch.float32


def test_wrong_arguments_are_named() -> None:
    backbone = create_backbone("resnet18", pretrained=False, strides=(8, 16, 32))
    good = torch.tensor(fit_anchors(SIZES, 3, 3))
    with pytest.raises(ValueError, match="3 levels"):
        YoloDetector(backbone, 3, good[:2])
    with pytest.raises(ValueError, match="positive"):
        YoloDetector(backbone, 3, -good)
    with pytest.raises(ValueError, match="num_classes"):
        YoloDetector(backbone, 0, good)
    with pytest.raises(ValueError, match="reach"):
        YoloDetector(backbone, 3, good, reach=0.2)
    with pytest.raises(ValueError, match="2 images but 1 targets"):
        YoloDetector(backbone, 3, good)(make_images(), [target([], [])])


def test_sharpness_is_a_power_of_the_objectness(model):
    images = make_images()
    plain, sharp = detector(), detector(sharpness=2.0)
    _, _, objectness, _ = plain.predictions(images)
    (boxes, scores), (same, squared) = plain.raw(images), sharp.raw(images)
    assert torch.equal(boxes, same)
    torch.testing.assert_close(squared, scores * objectness.sigmoid()[..., None])
