"""Classifiers as convolutional networks: the same answers, and those of explicit crops."""

import itertools
from collections import OrderedDict
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from detseg.backbones import create_deepest
from detseg.backbones.dense_to_conv.convolutional import Convolutional, dense_to_conv
from detseg.backbones.meta import on_meta
from detseg.classify.classifier import Classifier
from detseg.localize.localizer import Localizer
from tests.mistakes import assert_named


def lenet() -> nn.Sequential:
    """Unpadded, 32 x 32, stride 4; the last pooling leaves 5 x 5."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 5),
            tanh1=nn.Tanh(),
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            tanh2=nn.Tanh(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(400, 120),
            norm=nn.BatchNorm1d(120),
            tanh3=nn.Tanh(),
            dropout=nn.Dropout(),
            fc2=nn.Linear(120, 10),
        )
    )


class Functional(nn.Module):
    """Unpadded, with everything as functions; `pool` to this many cells, global at 1."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.conv1 = nn.Conv2d(3, 8, 4, stride=4)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3)
        self.fc1 = nn.Linear(12 * cells * cells, 20)
        self.fc2 = nn.Linear(20, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        x = F.relu(F.adaptive_avg_pool2d(x, self.cells) - 0.1)
        x = F.dropout(F.relu(self.fc1(x.view(x.size(0), -1))), 0.3, training=self.training)
        return self.fc2(x) * 2


class Parts(nn.Module):
    """Means of parts that are not alike, beside the mean of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 2, stride=2)
        self.whole = nn.Linear(6, 2)
        self.parts = nn.Linear(6 * 3 * 4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        parts = F.dropout(F.adaptive_avg_pool2d(x, (3, 4)).flatten(1), 0.2, self.training)
        return torch.cat((self.whole(x.mean((2, 3))), self.parts(parts)), -1)


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, -1)))


def settle(model: nn.Module) -> nn.Module:
    """Batch norms with statistics of their own, as after training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


# A network, its training size, its stride.
UNPADDED = {
    "sequential": (lenet, (32, 32), 4),
    "global pooling": (lambda: Functional(1), (40, 56), 4),
    "pooling to 2 x 2 of 8 x 8": (lambda: Functional(2), (40, 40), 4),
    "pooling that changes nothing": (lambda: Functional(3), (20, 20), 4),
    "mean": (Mean, (23, 31), 4),
    "pooling 7 x 5 to 3 x 4": (Parts, (14, 10), 2),
    "one window": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(4, 3), nn.Softmax(-1)),
        (16, 16),
        2,
    ),
    "no convolution": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 5, 7), nn.ReLU(), nn.Linear(7, 2)),
        (6, 5),
        1,
    ),
    "norms of flattened maps": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 2, 2), nn.AdaptiveAvgPool2d((3, 2)), nn.Dropout2d(), nn.Flatten(), nn.BatchNorm1d(24)),
            *(nn.AlphaDropout(), nn.BatchNorm1d(24), nn.Linear(24, 7, bias=False), nn.CELU()),
            *(nn.Dropout1d(), nn.LayerNorm(7), nn.Linear(7, 2)),
        ),
        (8, 8),
        2,
    ),
    "flattened in two steps": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 2, 2), nn.AdaptiveAvgPool2d(2), nn.Dropout2d(), nn.Flatten(2), nn.Flatten(1)),
            *(nn.BatchNorm1d(16), nn.Linear(16, 3)),
        ),
        (8, 8),
        2,
    ),
    "convolutions behind the pooling": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 2, 2), nn.AdaptiveMaxPool2d(1), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(6, 2)
        ),
        (16, 16),
        2,
    ),
}


@pytest.mark.parametrize("name", UNPADDED)
def test_every_cell_is_the_answer_for_its_crop(name: str) -> None:
    make, (height, width), stride = UNPADDED[name]
    torch.manual_seed(0)
    model = settle(make())
    converted = dense_to_conv(model, (height, width))
    channels = 1 if name == "sequential" else 3
    rows, columns = 5, 4
    image = torch.randn(2, channels, height + (rows - 1) * stride, width + (columns - 1) * stride)
    with torch.no_grad():
        cells = converted(image)
        assert cells.shape[-2:] == (rows, columns)
        for y in range(rows):
            for x in range(columns):
                crop = image[..., y * stride : y * stride + height, x * stride : x * stride + width]
                torch.testing.assert_close(cells[..., y, x], model(crop), rtol=1e-4, atol=1e-5)


class Headed(nn.Module):
    """A network whose last layers are functions."""

    def __init__(self, head) -> None:
        super().__init__()
        self.features, self.fc, self.norm = nn.Conv2d(3, 8, 3), nn.Linear(8, 3), nn.GroupNorm(2, 8)
        self.head = head

    def forward(self, x):
        return self.head(self, self.features(x))


EXACT = {
    "group norm": lambda: [nn.AdaptiveAvgPool2d(1), nn.GroupNorm(2, 8), nn.Flatten()],
    "group norm, flat": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.GroupNorm(2, 8)],
    "group norm of a maximum": lambda: [nn.AdaptiveMaxPool2d(1), nn.GroupNorm(4, 8), nn.Dropout(), nn.Flatten()],
    "group norm, convolved": lambda: [nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8), nn.Flatten()],
    "batch norm": lambda: [nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8), nn.Flatten()],
    "batch norm, flat": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8)],
    "instance norm": lambda: [nn.AdaptiveAvgPool2d(1), nn.InstanceNorm2d(8, track_running_stats=True), nn.Flatten()],
    "layer norm": lambda: [nn.AdaptiveAvgPool2d(1), nn.LayerNorm([8, 1, 1]), nn.Flatten()],
    "layer norm of a place": lambda: [nn.AdaptiveAvgPool2d(1), nn.LayerNorm([1, 1]), nn.Flatten()],
    "layer norm, flat": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8)],
    "rms norm": lambda: [nn.AdaptiveAvgPool2d(1), nn.RMSNorm([8, 1, 1]), nn.Flatten()],
    "rms norm, flat": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.RMSNorm(8)],
    "slopes": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.PReLU(8)],
}


@pytest.mark.parametrize("name", EXACT)
def test_what_comes_behind_pooling_sees_each_crop_by_itself(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *EXACT[name](), nn.Linear(8, 3)).eval()
    for values in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
        nn.init.uniform_(values, 0.3, 1.5)
    images = torch.randn(2, 3, 10, 9)
    found = dense_to_conv(model, (8, 8))(images)
    for y, x in itertools.product(range(3), range(2)):
        torch.testing.assert_close(found[..., y, x], model(images[..., y : y + 8, x : x + 8]))


def test_norms_without_a_form_for_each_crop_are_refused() -> None:
    def pooled(x):
        return F.adaptive_avg_pool2d(x, 1)

    for head, message in [
        (lambda m, x: m.fc(F.group_norm(pooled(x), 2).flatten(1)), "group_norm: a norm of the pooled map"),
        (lambda m, x: m.fc(F.layer_norm(pooled(x), (8, 1, 1)).flatten(1)), "layer_norm: a norm of the pooled map"),
        (lambda m, x: m.fc(F.layer_norm(x.mean((2, 3)), (8,))), "layer_norm: what comes behind the flattening"),
        (lambda m, x: m.fc(pooled(x * torch.sigmoid(pooled(x))).flatten(1)), "maps of the training size only"),
    ]:
        assert_named(message, dense_to_conv, Headed(head), (8, 8))
    for layers, message in [
        ([nn.AdaptiveAvgPool2d(2), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(32, 3)], "a layer between pooling"),
        ([nn.LayerNorm([8, 6, 6]), nn.Flatten(), nn.Linear(288, 3)], "maps of the training size only: Given normal"),
        ([nn.Flatten(), nn.GroupNorm(2, 288), nn.Linear(288, 3)], "what comes behind the flattening"),
        ([nn.Flatten(), nn.PReLU(288), nn.Linear(288, 3)], "a slope for each number of the flattened map"),
    ]:
        assert_named(message, dense_to_conv, nn.Sequential(nn.Conv2d(3, 8, 3), *layers), (8, 8))


def test_norms_of_the_pooled_map_see_one_cell_each() -> None:
    """As they saw the single cell of a crop, whatever they are made of."""
    torch.manual_seed(0)
    for norm in (
        nn.GroupNorm(4, 8),
        nn.LayerNorm((8, 1, 1)),
        timm.layers.GroupNorm(8, 4),
        timm.layers.GroupNormAct(8, 4),
    ):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), norm, nn.Flatten(), nn.Linear(8, 3)
        ).eval()
        images = torch.randn(2, 3, 18, 17)
        found = dense_to_conv(model, (16, 16))(images)
        assert found.shape == (2, 3, 3, 2), norm
        torch.testing.assert_close(found[..., 2, 1], model(images[..., 2:, 1:]), msg=str(norm))


def test_448_pixels_through_a_network_of_224_are_64_crops() -> None:
    """The shape of a VGG without its padding: stride 32, fully connected layers on what is left."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 8), (8, 8), (8, 8), (8, 8)):
        layers += [nn.Conv2d(before, after, 1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(392, 16), nn.ReLU(), nn.Linear(16, 3)
    )
    image = torch.randn(1, 3, 448, 448)
    crops = image.unfold(2, 224, 32).unfold(3, 224, 32)[0].permute(1, 2, 0, 3, 4)
    with torch.no_grad():
        cells = dense_to_conv(model, (224, 224))(image)
        assert cells.shape == (1, 3, 8, 8) == (1, 3, *crops.shape[:2])
        expected = model(crops.flatten(0, 1)).view(8, 8, 3).permute(2, 0, 1)
    torch.testing.assert_close(cells[0], expected, rtol=1e-4, atol=1e-6)


def test_padding_is_what_crops_differ_by() -> None:
    """A padded network: equal at the training size, not at a crop from the middle; the deviation is the border's."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 2))
    converted = dense_to_conv(model, (8, 8))
    image = torch.zeros(1, 3, 12, 12)
    image[..., 3:9, 3:9] = torch.randn(3, 6, 6)
    with torch.no_grad():
        cells = converted(image)
        crop = image[..., 2:10, 2:10]  # there is nothing around it: the padding tells the truth
        torch.testing.assert_close(cells[..., 2, 2], model(crop))
        assert not torch.allclose(cells[..., 0, 0], model(image[..., :8, :8]))


QUICK = ["torchvision/resnet18", "torchvision/squeezenet1_1", "timm/mobilenetv3_small_050", "timm/vgg11_bn narrow"]
SLOW = ["torchvision/alexnet", "torchvision/googlenet", "torchvision/vgg11_bn narrow"]
SLOW += ["torchvision/mobilenet_v3_small", "timm/tf_efficientnet_lite0"]
SLOW += ["torchvision/vgg16", "torchvision/vgg11_bn", "torchvision/densenet121", "torchvision/inception_v3"]
SLOW += ["timm/regnetx_002", "timm/convnext_atto", "timm/ghostnet_100", "timm/inception_v3", "timm/vgg16"]
SIZES = {"alexnet": (224, 224), "vgg16": (224, 224), "vgg11_bn": (224, 224), "inception_v3": (107, 139)}


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_published_networks_say_the_same_at_their_size(name: str) -> None:
    source, name = name.split("/")
    torch.manual_seed(0)
    size = SIZES.get(name.split()[0], (64, 96))
    model = build(source, name).eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    converted = dense_to_conv(model, size)
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(converted(x)[..., 0, 0], model(x), rtol=1e-3, atol=1e-4)
        larger = converted(torch.randn(1, 3, size[0] + 64, size[1] + 32))
    assert larger.shape == ((1, 7, 5, 3) if name == "squeezenet1_1" else (1, 7, 3, 2))
    assert not any(isinstance(m, nn.Linear) for m in converted.modules()) and converted.report
    after = model.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def build(source: str, name: str) -> nn.Module:
    if source == "timm":
        if name.endswith("narrow"):
            config = [8, "M", 8, "M", 8, "M", 8, "M", 8, "M"]
            model = timm.models.vgg.VGG(config, num_classes=7, norm_layer=nn.BatchNorm2d)
            model.pre_logits, model.head.fc = timm.models.vgg.ConvMlp(8, 32), nn.Linear(32, 7)
            return model
        return timm.create_model(name, num_classes=7)
    from torchvision import models

    if name.endswith("narrow"):  # its 120 million weights of fully connected layers take time
        with on_meta():
            model = models.get_model(name.split()[0], num_classes=7)
        model.features = models.vgg.make_layers(models.vgg.cfgs["A"], batch_norm=True)
        model.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 7))
        return model
    options = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, num_classes=7, **options)


def test_the_report() -> None:
    converted = dense_to_conv(lenet(), (32, 32))
    assert [name for name, _ in converted.report] == ["flatten", "fc1", "norm", "fc2"]
    became = dict(converted.report)
    assert became["fc1"].startswith("Conv2d(16, 120, kernel_size=(5, 5)")
    assert became["norm"].startswith("BatchNorm2d(120") and became["fc2"].startswith(
        "Conv2d(120, 10, kernel_size=(1, 1)"
    )
    assert became["flatten"] == "nothing"


def test_weights_are_the_same_numbers_under_the_same_names() -> None:
    model = lenet()
    state = dense_to_conv(model, (32, 32)).net.state_dict()
    assert set(state) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name].flatten(), tensor.flatten())
    # (O, C, h, w): neighbours of a cell are neighbours in the weight.
    torch.testing.assert_close(state["fc1.weight"][3, 7, 2, 4], model.fc1.weight[3, 7 * 25 + 2 * 5 + 4].detach())


def test_dropout_and_norms_still_train() -> None:
    converted = dense_to_conv(settle(Functional(1)), (20, 20)).train()
    x = torch.randn(4, 3, 24, 24)
    assert not torch.allclose(converted(x), converted(x)), "dropout"
    converted(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in converted.parameters())


def test_it_follows_device_and_dtype() -> None:
    converted = dense_to_conv(lenet().double(), (32, 32))
    assert {p.dtype for p in converted.parameters()} == {torch.float64}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        state = {name: mode.from_tensor(tensor).to("cuda") for name, tensor in converted.state_dict().items()}
        x = torch.zeros(1, 1, 40, 36, device="cuda", dtype=torch.float64)
        out = torch.func.functional_call(converted, state, (x,))
    assert out.shape == (1, 10, 3, 2) and out.device.type == "cuda"


class Decides(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Joins(Mean):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return torch.cat([x.mean((2, 3)), x.flatten(1)], 1)


class Unrolls(nn.Module):
    """Means by a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.dense = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.convolution(x).flatten(2).mean(2))


class PoolsByFunction(nn.Module):
    """The last pooling is no layer but a function, of a size that is given or asked of the map."""

    def __init__(self, size: int | None, pool: Callable[..., Tensor] = F.avg_pool2d) -> None:
        super().__init__()
        self.convolution, self.dense, self.size, self.pool = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), size, pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        return self.dense(self.pool(x, self.size or x.size()[2:]).flatten(1))


@pytest.mark.parametrize(("size", "pool"), [(7, F.avg_pool2d), ((7, 7), F.max_pool2d), (None, F.avg_pool2d)])
def test_pooling_by_a_function_slides_too(size: int | None, pool: Callable[..., Tensor]) -> None:
    model = PoolsByFunction(size, pool).eval()
    images = torch.randn(2, 3, 12, 10)
    found = dense_to_conv(model, (9, 9))(images)
    assert found.shape == (2, 2, 4, 2)
    for y in range(4):
        for x in range(2):
            torch.testing.assert_close(found[..., y, x], model(images[..., y : y + 9, x : x + 9]))


class Answers(nn.Module):
    """Features, a mean and a fully connected layer, each end in a way of its own."""

    def __init__(self, mean: Callable[[Tensor], Tensor], answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.convolution, self.dense, self.mean, self.answer = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), mean, answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.dense(self.mean(self.convolution(x))))


def test_chances_by_a_function() -> None:
    for number, answer in enumerate([
        lambda x: F.softmax(x, 1),
        lambda x: F.log_softmax(x, dim=-1),
        lambda x: torch.softmax(x, -1),
        lambda x: torch.log_softmax(x, 1, dtype=torch.float64),
        lambda x: x.softmax(1),
        lambda x: x.log_softmax(dim=1),
    ]):  # fmt: skip
        model = Answers(lambda x: x.mean((2, 3)), answer).eval()
        images = torch.randn(2, 3, 11, 9)
        found = dense_to_conv(model, (9, 9))(images)
        assert found.shape == (2, 5, 3, 1), number
        for y in range(3):
            torch.testing.assert_close(found[..., y, 0], model(images[..., y : y + 9, :]), msg=f"function {number}")


def behind_a_convolution(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers)


def test_what_has_no_convolutional_form() -> None:
    for model, size, message in [
        (behind_a_convolution(nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(64, 2)), (8, 8), "6 x 6 cells to 4 x 4"),
        (
            behind_a_convolution(nn.AdaptiveAvgPool2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)),
            (8, 8),
            "a layer between pooling to",
        ),
        (
            behind_a_convolution(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.ReLU(), nn.Linear(64, 2)),
            (8, 8),
            "between the means of unequal parts",
        ),
        (Joins(), (11, 11), "joining a flat tensor"),
        (
            behind_a_convolution(nn.Flatten(), nn.BatchNorm1d(144), nn.ReLU(), nn.Linear(144, 2)),
            (8, 8),
            "between batch norm of a flattened map and",
        ),
        (behind_a_convolution(nn.Flatten(), nn.LayerNorm(144), nn.Linear(144, 2)), (8, 8), r"2 \(LayerNorm"),
        (behind_a_convolution(nn.Flatten(), nn.Linear(144, 2)), (9, 9), "cannot run on images of"),
        (behind_a_convolution(nn.AdaptiveAvgPool2d(2), nn.Conv2d(4, 4, 2), nn.Flatten()), (10, 10), "between pooling"),
        (behind_a_convolution(), (9, 9), r"gives \(N, K\)"),
        (nn.Sequential(nn.Flatten()), (9, 9), "neither a convolution"),
        (Decides(), (23, 23), "torch.fx cannot trace"),
        (
            Answers(lambda x: x.mean(3).mean(2), nn.ReLU()),
            (9, 9),
            r"mean: what turns a map \(4, 7, 7\) into \(4, 7\) has",
        ),
        (
            Answers(lambda x: x.flatten(2).mean(2), nn.ReLU()),
            (9, 9),
            r"flatten: what turns .* into \(4, 49\) has no conv",
        ),
        (Answers(lambda x: x.mean((2, 3)), lambda x: F.softmax(x, 0)), (9, 9), "softmax: what comes behind the flatt"),
        (PoolsByFunction(5), (9, 9), "a pooling that leaves one cell of 7 x 7"),
        (lenet(), (0, 4), "input_size"),
        (lenet(), 32, r"input_size must be height and width in pixels, such as \(224, 224\), got 32"),
        (Unrolls(), (8, 8), r"what turns a map \(4, 6, 6\) into \(4, 36\) has no convolutional form"),
    ]:
        with pytest.raises(ValueError, match=message):
            dense_to_conv(model, size)


def test_weights_that_are_not_finite_are_named() -> None:
    model = lenet()
    with torch.no_grad():
        model.fc2.bias[3] = float("nan")
    with pytest.raises(ValueError, match=r"its weights hold NaN or infinity, fc2\.bias first \(1 of \d+ tensors do\)"):
        dense_to_conv(model, (32, 32))


def test_an_overflow_is_told_from_bad_weights() -> None:
    model = lenet()
    with torch.no_grad():
        model.fc2.weight.fill_(3e38)
        model.fc1.bias.fill_(9.0)
    with pytest.raises(ValueError, match=r"though its weights are finite: something overflows in torch\.float32"):
        dense_to_conv(model, (32, 32))


def test_images_that_are_too_small() -> None:
    converted = dense_to_conv(lenet(), (32, 32))
    assert isinstance(converted, Convolutional)
    with pytest.raises(ValueError, match="at least 32 x 32"):
        converted(torch.zeros(1, 1, 31, 40))


def test_a_map_that_is_flattened_rows_first() -> None:
    class RowsFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.dense = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8 * 8 * 8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.dense(self.conv(x).permute(0, 2, 3, 1).flatten(1))

    with pytest.raises(ValueError, match=r"an image twice as wide gives .* flattened in another order"):
        dense_to_conv(RowsFirst(), (32, 32))


@pytest.mark.parametrize("kind", ["classifier", "localizer", "localizer with objectness"])
def test_trained_models_of_detseg(kind: str) -> None:
    """They take uint8 and give losses: `plain` is what is converted."""
    torch.manual_seed(0)
    backbone = create_deepest("test_efficientnet")
    model = (
        Classifier(backbone, 3)
        if kind == "classifier"
        else Localizer(backbone, 3, objectness=kind == "localizer with objectness")
    ).eval()
    image = torch.randint(256, (1, 3, 160, 160), dtype=torch.uint8)
    converted = dense_to_conv(model, (160, 160))
    with torch.no_grad():
        cell = converted(image / 255)[..., 0, 0]
        if isinstance(model, Classifier):
            expected = model(image)
        else:
            logits, numbers, presence = model.outputs(image)
            expected = torch.cat([logits, numbers, *([] if presence is None else [presence[:, None]])], 1)
            cell[:, 3:7] = cell[:, 3:7].sigmoid()
    torch.testing.assert_close(cell, expected, rtol=1e-4, atol=1e-5)
    assert [name for name, _ in converted.report if name == "classifier"]
    assert converted(torch.rand(1, 3, 192, 224)).shape[-2:] == (2, 3)
