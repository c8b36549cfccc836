"""Sliding windows: every cell against its crop cut out by hand, boxes put back by hand, edges, any device."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from detseg.backbones import AlexNet, Backbone, LeNet5, ZFNet, create_deepest, dense_to_conv
from detseg.boxes import box_iou
from detseg.data import windows
from detseg.data.sample import PADDING
from detseg.detect import nms
from detseg.localize import SlidingWindowDetector
from detseg.localize.localizer import Localizer, decode
from detseg.localize.sliding_window import AGREE, LARGEST, SURROUNDINGS, accumulate


class Unpadded(nn.Module):
    """Cells of 8 pixels that see nothing but themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 4, stride=4)
        self.second = nn.Conv2d(16, 24, 2, stride=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.second(F.relu(self.first(x)))]


def localizer(backbone: Backbone | None = None, **options) -> Localizer:
    """With random weights so large that cells differ."""
    torch.manual_seed(0)
    options = {"objectness": True, "grid": 7} | options
    model = Localizer(backbone or Backbone(Unpadded(), strides=(8,)), 3, **options).eval()
    for layer in (model.classifier, model.box[-1], model.objectness):
        if layer is not None:
            nn.init.normal_(layer.weight, std=0.5)
            nn.init.normal_(layer.bias)
    return model


@pytest.mark.parametrize("square_root", [True, False])
@pytest.mark.parametrize(("grid", "window"), [(1, 40), (2, 40), (3, 64), (4, 40), (4, 64), (5, 16)])
def test_every_window_is_the_crop_of_it(grid: int, window: int, square_root: bool) -> None:
    """Parts that divide the map, that do not, and more parts than cells; on two levels of an image of odd sides."""
    model = localizer(grid=grid, square_root=square_root)
    detector = SlidingWindowDetector(model, window).eval()
    images = torch.rand(2, 3, window + 5, window - 3)
    with torch.no_grad():
        boxes, scores = detector.predictions(images)
        expected = [
            crops_of_level(model, images, size, window) for size in detector.level_sizes(window + 5, window - 3)
        ]
    assert len(expected) >= 2
    torch.testing.assert_close(boxes, torch.cat([b for b, _ in expected], 1), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(scores, torch.cat([s for _, s in expected], 1), rtol=1e-4, atol=1e-5)


def crops_of_level(model: Localizer, images: Tensor, size: tuple[int, int], window: int) -> tuple[Tensor, Tensor]:
    """Boxes (N, P, 4) and scores (N, P, K), window by window."""
    stride = model.backbone.strides[0]
    height, width = images.shape[-2:]
    level = F.interpolate(images, size, mode="bilinear", antialias=True) if size != (height, width) else images
    room = F.pad(level, (window,) * 4, value=PADDING / 255)
    boxes, scores = [], []
    for row in range(math.ceil(size[0] / stride)):
        for column in range(math.ceil(size[1] / stride)):
            # The middle of a window lies in the middle of its cell.
            left, top = (stride * (cell + 0.5) - window / 2 for cell in (column, row))
            crop = room[..., int(top) + window :, int(left) + window :][..., :window, :window]
            logits, numbers, presence = model.outputs(crop)
            box = decode(numbers, (window, window), square_root=model.square_root) + torch.tensor([left, top] * 2)
            boxes.append(box * torch.tensor([width / size[1], height / size[0]] * 2))
            scores.append(logits.softmax(1) * presence.sigmoid()[:, None])
    return torch.stack(boxes, 1), torch.stack(scores, 1)


def test_what_windows_are_is_the_same_here_and_in_the_data() -> None:
    assert SURROUNDINGS * 255 == PADDING and LARGEST == windows.LARGEST


def test_levels_by_hand() -> None:
    detector = SlidingWindowDetector(localizer(), 40)  # its windows have objects of up to 30 pixels
    assert detector.level_sizes(60, 40) == [(60, 40), (42, 28), (30, 20)]
    assert detector.level_sizes(20, 30) == [(20, 30)]
    assert detector.level_sizes(33, 1) == [(33, 1), (23, 1)]
    assert SlidingWindowDetector(localizer(), 40, ratio=2).level_sizes(70, 120) == [(70, 120), (35, 60), (18, 30)]


class White(nn.Module):
    """How white each cell of 8 pixels is."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Conv2d(3, 1, 8, stride=8, bias=False)
        nn.init.constant_(self.mean.weight, 1 / 192)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.mean(x)]


def test_an_object_is_found_by_the_window_that_holds_it() -> None:
    """The localizer takes a window of 32 for an object of three quarters of its side if more than half is white."""
    model = Localizer(Backbone(White(), strides=(8,), mean=(0, 0, 0), std=(1, 1, 1)), 2, objectness=True, grid=1)
    with torch.no_grad():
        for layer in (model.classifier, model.box[-1], model.objectness):
            layer.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([-9.0, 9.0]))
        model.box[-1].bias.copy_(torch.logit(torch.tensor([0.5, 0.5, 0.75**0.5, 0.75**0.5])))
        model.objectness.weight.fill_(100.0)
        model.objectness.bias.fill_(-52.0)
    detector = SlidingWindowDetector(model.eval(), 32, score_threshold=0.5)
    images = torch.zeros(2, 3, 96, 128)
    images[0, :, 32:56, 56:80] = 1  # its middle is that of window (5, 8): (5.5, 8.5) cells of 8 pixels
    one, none = detector(images)
    assert none["boxes"].shape == (0, 4)
    torch.testing.assert_close(one["labels"], torch.tensor([1]))
    torch.testing.assert_close(
        one["scores"], torch.tensor([1 - math.exp(-1 / (1 + math.exp(-4.25)))]), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(one["boxes"], torch.tensor([[56.0, 32, 80, 56]]))


def test_selection_is_what_it_says() -> None:
    """Against loops: non-max suppression class by class, then every box merged with those that agree with it."""
    detector = SlidingWindowDetector(localizer(), 40, score_threshold=0.2, iou_threshold=0.3, max_detections=7)
    images = torch.rand(2, 3, 61, 83)
    with torch.no_grad():
        boxes, scores = detector.predictions(images)
        found = detector(images)
    limit = torch.tensor([83.0, 61, 83, 61])
    for i, detections in enumerate(found):
        assert set(detections) == {"boxes", "scores", "labels"}
        clipped = torch.minimum(boxes[i].clamp(min=0), limit)
        kept = []
        for label in range(3):
            rows = nms(clipped, scores[i, :, label], 0.3).tolist()
            kept += [(float(scores[i, j, label]), label, j) for j in rows]
        kept = sorted((found for found in kept if found[0] >= 0.2), reverse=True)[:7]
        assert len(kept) == 7, "or the limit is not tested"
        merged = []
        for _, label, j in kept:
            total, mean = 0.0, torch.zeros(4)
            for other in range(len(clipped)):
                score = float(scores[i, other, label])
                if score >= 0.2 and (other == j or box_iou(clipped[None, j], clipped[None, other]) >= AGREE):
                    total, mean = total + score, mean + score * clipped[other]
            merged.append((1 - math.exp(-total), label, (mean / total).tolist()))
        merged.sort(reverse=True)
        torch.testing.assert_close(detections["scores"], torch.tensor([score for score, _, _ in merged]))
        assert detections["labels"].tolist() == [label for _, label, _ in merged]
        torch.testing.assert_close(detections["boxes"], torch.tensor([box for _, _, box in merged]))


def test_agreement_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 10], [5, 5, 5, 5], [90, 90, 99, 99]])
    labels = torch.tensor([0, 0, 1, 0, 0])
    merged, scores = accumulate(boxes, torch.tensor([0.6, 0.2, 0.5, 0.3, 0.0]), labels, torch.tensor([0, 2, 3, 4]))
    torch.testing.assert_close(merged[:3], torch.tensor([[0, 0, 10, 9.5], [0, 0, 10, 10], [5, 5, 5, 5]]))
    torch.testing.assert_close(scores, 1 - torch.tensor([-0.8, -0.5, -0.3, 0.0]).exp())
    merged, scores = accumulate(boxes[:0], scores[:0], labels[:0], labels[:0])
    assert merged.shape == (0, 4) and scores.shape == (0,)


def test_uint8_is_what_float_is() -> None:
    detector = SlidingWindowDetector(localizer(), 40)
    images = torch.randint(256, (1, 3, 50, 45), dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64):
        (a,), (b,) = detector(images), detector(images.to(dtype) / 255)
        torch.testing.assert_close(a, b)


def test_no_images() -> None:
    assert SlidingWindowDetector(localizer(), 40)(torch.zeros(0, 3, 50, 45)) == []


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (8, 8)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    detector = SlidingWindowDetector(localizer(), 40, score_threshold=0)
    (found,) = detector(torch.rand(1, 3, *size))
    assert len(found["boxes"]) > 0
    assert (found["boxes"] >= 0).all() and (found["boxes"] <= torch.tensor([*size[::-1], *size[::-1]])).all()


def test_the_localizer_is_left_as_it_is() -> None:
    model = localizer(create_deepest("test_efficientnet"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    detector = SlidingWindowDetector(model, 64).eval()
    assert model.training and all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert dict(detector.network.report)["classifier"].startswith("Conv2d(64, 3, kernel_size=(1, 1)")
    assert not any(isinstance(module, nn.Linear) for module in detector.modules())


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="train one with objectness"):
        SlidingWindowDetector(localizer(objectness=False), 40)
    for window in (8, 44):
        with pytest.raises(ValueError, match="multiple of the stride 8, and twice it at least"):
            SlidingWindowDetector(localizer(), window)
    for ratio in (1.0, 5.0, math.nan):
        with pytest.raises(ValueError, match="ratio must be above 1"):
            SlidingWindowDetector(localizer(), 40, ratio=ratio)


def test_it_follows_the_device_of_its_input() -> None:
    detector = SlidingWindowDetector(localizer(create_deepest("test_efficientnet")), 96)
    with FakeTensorMode(allow_non_fake_inputs=True):
        tensors = (*detector.named_parameters(), *detector.named_buffers())
        state = {name: torch.empty_like(tensor, device="cuda") for name, tensor in tensors}
        images = torch.zeros(2, 3, 130, 100, dtype=torch.uint8, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            boxes, scores = torch.func.functional_call(Predictions(detector), prefixed(state), (images,))
    assert boxes.shape[:2] == scores.shape[:2] and scores.shape[2] == 3
    for tensor in (boxes, scores):
        assert tensor.device.type == "cuda" and tensor.dtype == torch.float32


def test_merging_follows_the_device_of_its_input() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        kept = torch.arange(7)
        merged, scores = accumulate(torch.zeros(20, 4), torch.zeros(20), torch.zeros(20, dtype=torch.int64), kept)
    for tensor, shape in ((merged, (7, 4)), (scores, (7,))):
        assert (tensor.device.type, tensor.dtype, tensor.shape) == ("cuda", torch.float32, shape)


class BelowAll:
    """A threshold that drops nothing: numbers to choose by there are none in fake tensors."""

    def __le__(self, scores: Tensor) -> slice:
        return slice(None)


def test_selection_follows_the_device_of_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Non-max suppression, whose number of boxes hangs on the numbers too, is tested on its own."""
    seen = []

    def first_seven(*tensors_and_threshold: Tensor | float, max_detections: int) -> Tensor:
        seen.extend(value for value in tensors_and_threshold if isinstance(value, Tensor))
        return torch.arange(7, device=seen[0].device)

    monkeypatch.setattr("detseg.detect.model.batched_nms", first_seven)
    detector = SlidingWindowDetector(localizer(), 40)
    detector.score_threshold = BelowAll()  # type: ignore[assignment]
    with FakeTensorMode():
        boxes, scores = torch.zeros(50, 4, device="cuda"), torch.zeros(50, 3, device="cuda")
        found = detector._select(boxes, scores, torch.Size((60, 80)))
    assert [tensor.device.type for tensor in seen] == ["cuda"] * 3
    assert {name: (value.device.type, len(value)) for name, value in found.items()} == dict.fromkeys(
        ("boxes", "scores", "labels"), ("cuda", 7)
    )


class Predictions(nn.Module):
    def __init__(self, detector: SlidingWindowDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.detector.predictions(images)


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"detector.{name}": tensor for name, tensor in state.items()}


# --- networks with names, by dense_to_conv ---

# Make, input size, stride. Without padding; the first layers of AlexNet and ZF Net have some in between.
CLASSIC = {
    "lenet5": (lambda: LeNet5(in_channels=3), 32, 4),
    "alexnet": (lambda: AlexNet(10), 227, 32),
    "zfnet": (lambda: ZFNet(10), 224, 32),
}


def unpad(model: nn.Module) -> nn.Module:
    """Fully connected layers with few neurons, to be quick, and no padding."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            module.padding = 0
    return model


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_networks_without_their_padding_are_their_crops(name: str) -> None:
    make, size, stride = CLASSIC[name]
    torch.manual_seed(0)
    model = unpad(make()).eval()
    with torch.no_grad():
        maps = model.features(torch.zeros(1, 3, size, size)).shape
        if name != "lenet5":  # without padding the map is smaller, and 4096 neurons would take seconds
            model.classifier = nn.Sequential(nn.Linear(maps[1:].numel(), 32), nn.ReLU(), nn.Linear(32, 10))
        network = dense_to_conv(model, (size, size))
        image = torch.randn(1, 3, size + stride, size + 2 * stride)
        cells = network(image)
        assert cells.shape == (1, 10, 2, 3)
        for y in range(2):
            for x in range(3):
                crop = image[..., y * stride : y * stride + size, x * stride : x * stride + size]
                torch.testing.assert_close(cells[..., y, x], model(crop), rtol=1e-4, atol=1e-5)
