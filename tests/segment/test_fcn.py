"""The segmentation networks as a whole: shapes, alignment, laws, edges, any device."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.backbones import Backbone, create_backbone
from detseg.segment import FCN, IGNORE_INDEX, FCN8s, FCN16s, FCN32s, bilinear_kernel
from detseg.segment.decoder import ScoreDecoder

STRIDES = {"fcn": (8, 16, 32), "pyramid": (4, 8, 16, 32)}


def network(decoder: str = "fcn", classes: int = 3, backbone: str = "resnet18", **options) -> FCN:
    torch.manual_seed(0)
    model = FCN(create_backbone(backbone, strides=STRIDES[decoder]), classes, decoder=decoder, width=16, **options)
    return scored(model)


def scored(model: FCN) -> FCN:
    """Random scores instead of the zeros that training starts from, so that there is something to compare."""
    for name, module in model.decoder.named_modules():
        if name.startswith("score") and isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.2)
    return model


def make_images(count: int = 2, height: int = 64, width: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def truth(count: int = 2, height: int = 64, width: int = 96, classes: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(0, classes, (count, height, width), dtype=torch.uint8, generator=generator)
    targets[:, : height // 4] = IGNORE_INDEX
    return targets


@pytest.fixture(scope="module", params=["fcn", "pyramid"])
def model(request: pytest.FixtureRequest) -> FCN:
    return network(request.param)


def test_targets_decide_not_the_mode(model: FCN) -> None:
    for mode in (True, False):
        model.train(mode)
        losses = model(make_images(), truth())
        assert set(losses) == {"loss_ce"} and losses["loss_ce"].ndim == 0
        logits = model(make_images())
        assert logits.shape == (2, 3, 64, 96) and logits.dtype == torch.float32
    model.eval()
    expected = F.cross_entropy(model(make_images()), truth().long(), ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(model(make_images(), truth())["loss_ce"], expected)
    torch.testing.assert_close(model(make_images(), truth().long())["loss_ce"], expected)


def test_uint8_and_unit_floats_are_the_same_image(model: FCN) -> None:
    model.eval()
    for dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(model(make_images()), model(make_images().to(dtype) / 255))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("decoder", ["fcn", "pyramid"])
def test_models_of_other_types_answer_in_float32(decoder: str, dtype: torch.dtype) -> None:
    options = {"loss": "ce+dice+focal", "class_weights": [1, 2, 3]}
    model = network(decoder, backbone="resnet10t", **options).eval()
    expected = model(make_images())
    logits, losses = model.to(dtype)(make_images()), model(make_images(), truth())
    assert {logits.dtype, *(loss.dtype for loss in losses.values())} == {torch.float32}
    torch.testing.assert_close(logits, expected, rtol=0.1, atol=0.1)
    sum(losses.values()).backward()


class Cells(Backbone):
    """The mean colour of each cell, at every stride: a backbone whose alignment is known exactly."""

    def __init__(self, strides: tuple[int, ...]) -> None:
        super().__init__(Means(strides), strides=strides, mean=(0, 0, 0), std=(1, 1, 1), name="means")


class Means(nn.Module):
    def __init__(self, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.gain * F.avg_pool2d(x, stride) for stride in self.strides]


def cells(strides: tuple[int, ...], **options) -> FCN:
    """Scores of class 0 are the sum of the means of all strides, divided by their number."""
    model = FCN(Cells(strides), 2, **options).eval()
    assert isinstance(model.decoder, ScoreDecoder)
    for layer in model.decoder.score.values():
        with torch.no_grad():
            layer.weight[0] = 1 / (3 * len(strides))
    return model


@pytest.mark.parametrize("learnt", [False, True])
def test_a_spot_keeps_its_place(learnt: bool) -> None:
    """What is lit in the middle of a coarsest cell has its centre of gravity there after going down and up."""
    images = torch.zeros(1, 3, 160, 192)
    images[..., 64:96, 96:128] = 1
    x, y = torch.arange(192) + 0.5, torch.arange(160) + 0.5
    for strides in ((32,), (16, 32), (8, 16, 32), (4, 8, 32)):
        answer = cells(strides, learn_upsampling=learnt)(images)[0, 0].detach()
        assert float((answer.sum(0) * x).sum() / answer.sum()) == pytest.approx(112, abs=0.01), strides
        assert float((answer.sum(1) * y).sum() / answer.sum()) == pytest.approx(80, abs=0.01), strides


@pytest.mark.parametrize("decoder", ["fcn", "pyramid"])
def test_a_shift_by_one_stride_shifts_the_output(decoder: str) -> None:
    """Where neither sees the border, and the image as a whole stays the same (pyramid)."""
    down, right = 32, 64
    model = FCN(Cells(STRIDES[decoder]), 3, decoder=decoder, width=8).eval()
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    images = torch.zeros(1, 3, 512, 512)
    images[..., 192:256, 192:256] = torch.rand(3, 64, 64)
    moved = images.roll((down, right), (2, 3))
    before, after = model(images), model(moved)
    expected = before.roll((down, right), (2, 3))
    inner = (..., slice(192, -128), slice(192, -128))  # not what has a border in sight, before or after
    torch.testing.assert_close(after[inner], expected[inner], rtol=1e-4, atol=1e-5)
    assert (after[inner] - before[inner]).abs().max() > 1e-2


def test_the_papers_networks_learn_their_upsampling() -> None:
    """By default the transposed convolutions are weights that begin as bilinear interpolation; fixed, interpolation."""
    for build, strides in ((FCN32s, (32,)), (FCN16s, (16, 32)), (FCN8s, (8, 16, 32))):
        learnt, fixed = (build(Cells(strides), 3, **options) for options in ({}, {"learn_upsampling": False}))
        kernels = {name for name, _ in learnt.named_parameters() if name.startswith(("upsample.", "decoder.finer."))}
        assert kernels == {"upsample.weight", *(f"decoder.finer.{stride}.weight" for stride in strides[1:])}
        assert set(learnt.state_dict()) - set(fixed.state_dict()) == kernels
        torch.testing.assert_close(learnt.upsample.weight[2, 0].detach(), bilinear_kernel(strides[0]))
        scored(learnt)
        fixed.load_state_dict(learnt.state_dict(), strict=False)
        torch.testing.assert_close(learnt(make_images()), fixed(make_images()), rtol=1e-4, atol=1e-4)
        learnt(make_images(), truth())["loss_ce"].backward()
        assert all((learnt.get_parameter(name).grad != 0).any() for name in kernels), build.__name__


def test_fcn8s_by_hand() -> None:
    """Scores of three strides, added after interpolation, against the formula written out."""
    model = FCN8s(create_backbone("resnet18", strides=(8, 16, 32)), 3).eval()
    scored(model)
    images = make_images(1, 70, 90)
    maps = model.backbone((images / 255 - model.mean) / model.std)
    s8, s16, s32 = (model.decoder.score[str(s)](m) for s, m in zip((8, 16, 32), maps, strict=True))

    def up(x: Tensor, factor: int, height: int, width: int) -> Tensor:
        return F.interpolate(x, scale_factor=factor, mode="bilinear")[..., :height, :width]

    expected = up(s8 + up(s16 + up(s32, 2, 5, 6), 2, 9, 12), 8, 70, 90)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder", ["fcn", "pyramid"])
def test_output_scale(decoder: str) -> None:
    """Twice as fine: the same scores, interpolated by twice the factor; targets of that size."""
    once, twice = (network(decoder, output_scale=scale, learn_upsampling=False).eval() for scale in (1, 2))
    twice.load_state_dict(once.state_dict())
    images = make_images(1, 45, 70)
    fine = twice(images)
    assert fine.shape == (1, 3, 90, 140)
    # Fine pixels 2i and 2i + 1 lie a quarter pixel to either side of pixel i; inside of a linear piece their mean is
    # its value, and pieces bend only at the middles of cells, which are borders of pixels.
    torch.testing.assert_close(F.avg_pool2d(fine, 2), once(images), rtol=1e-4, atol=1e-4)
    assert set(twice(images, truth(1, 90, 140))) == {"loss_ce"}
    with pytest.raises(ValueError, match=r"\(1, 90, 140\)"):
        twice(images, truth(1, 45, 70))


def test_staged_training_starts_where_the_last_stage_ended() -> None:
    torch.manual_seed(0)
    stages = [
        FCN32s(create_backbone("resnet18", strides=(32,)), 3),
        FCN16s(create_backbone("resnet18", strides=(16, 32)), 3),
        FCN8s(create_backbone("resnet18", strides=(8, 16, 32)), 3),
    ]
    scored(stages[0])
    images = make_images(1, 96, 128)
    for earlier, later in pairwise(stages):
        later.start_from(earlier)
        earlier.eval(), later.eval()
        scores = [m.decoder(m.backbone((images / 255 - m.mean) / m.std)) for m in (earlier, later)]
        assert scores[0].abs().max() > 0.1
        coarse = F.interpolate(scores[0], scale_factor=2, mode="bilinear")
        torch.testing.assert_close(coarse, scores[1])
        # In one step or in two: no further apart than an eighth of the second differences of both directions.
        bend = sum(F.pad(scores[0], pad, mode="replicate").diff(2, dim).abs().max() / 8 for dim, pad in BORDERS)
        assert (earlier(images) - later(images)).abs().max() <= bend + 1e-5
        assert not set(dict(later.named_parameters())) <= set(dict(earlier.named_parameters()))
        for layer in later.decoder.score.values():  # as if trained
            nn.init.normal_(layer.weight, std=0.2)


BORDERS = ((2, (0, 0, 1, 1)), (3, (1, 1, 0, 0)))


def test_learnt_kernels_are_taken_over_where_they_fit() -> None:
    first = FCN16s(create_backbone("resnet18", strides=(16, 32)), 3)
    for parameter in first.parameters():
        parameter.data += 0.1
    later = FCN8s(create_backbone("resnet18", strides=(8, 16, 32)), 3)
    kernel = later.upsample.weight.detach().clone()
    later.start_from(first)
    torch.testing.assert_close(later.decoder.finer["32"].weight, first.decoder.finer["32"].weight)
    torch.testing.assert_close(later.upsample.weight.detach(), kernel)  # of another factor: still bilinear


def test_stages_that_do_not_follow_each_other() -> None:
    fcn16s = FCN16s(create_backbone("resnet18", strides=(16, 32)), 3)
    with pytest.raises(ValueError, match="cannot start from"):
        FCN32s(create_backbone("resnet18", strides=(32,)), 3).start_from(fcn16s)
    with pytest.raises(ValueError, match="4 classes"):
        FCN8s(create_backbone("resnet18", strides=(8, 16, 32)), 4).start_from(fcn16s)
    with pytest.raises(ValueError, match="'resnet10t'"):
        FCN8s(create_backbone("resnet10t", strides=(8, 16, 32)), 3).start_from(fcn16s)
    with pytest.raises(ValueError, match='decoder="fcn"'):
        network("pyramid").start_from(fcn16s)


def test_training_from_zero_scores_gets_going() -> None:
    """The first step moves the scores, the second the backbone."""
    torch.manual_seed(0)
    model = FCN8s(create_backbone("resnet10t", strides=(8, 16, 32)), 3)
    assert (model(make_images()) == 0).all()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        model.zero_grad()
        model(make_images(), truth())["loss_ce"].backward()
        optimiser.step()
    assert all(p.grad is not None and (p.grad != 0).any() for p in model.decoder.parameters())
    assert any((p.grad != 0).any() for p in model.backbone.parameters())


@pytest.mark.parametrize("options", [{"loss": "ce+dice"}, {"loss": {"focal": 0.5}, "class_weights": [1.0, 2.0, 0.5]}])
def test_losses_are_options(options: dict) -> None:
    model = network(**options).eval()
    losses = model(make_images(), truth())
    assert set(losses) == ({"loss_ce", "loss_dice"} if options["loss"] == "ce+dice" else {"loss_focal"})
    assert "class_weights" not in model.state_dict()


def test_half_precision_inside_float32_outside(model: FCN) -> None:
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        logits, losses = model(make_images()), model(make_images(), truth())
    assert logits.dtype == losses["loss_ce"].dtype == torch.float32
    torch.testing.assert_close(logits, model(make_images()), rtol=0.1, atol=0.1)


def test_wrong_arguments_are_named() -> None:
    backbone = create_backbone("resnet10t", strides=(8, 16, 32))
    for classes in (1, 256):
        with pytest.raises(ValueError, match=r"2\.\.255"):
            FCN(backbone, classes)
    with pytest.raises(ValueError, match=r"'unet'; there are fcn, pyramid"):
        FCN(backbone, 2, decoder="unet")
    with pytest.raises(ValueError, match="output_scale"):
        FCN(backbone, 2, output_scale=0)
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="class_weights"):
            FCN(backbone, 2, class_weights=weights)
    for shape in ((1, 4, 64, 64), (3, 64, 64)):
        with pytest.raises(ValueError, match=rf"must be \(N, 3, H, W\), .*; got \({', '.join(map(str, shape))}\)"):
            FCN(backbone, 2)(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"strides=\(32,\)"):
        FCN32s(backbone, 2)
    with pytest.raises(ValueError, match="no multiple"):
        ScoreDecoder([3, 3], (8, 12), 2)


def test_a_network_of_the_same_form_starts_as_the_other() -> None:
    other = FCN8s(create_backbone("resnet18", strides=(8, 16, 32)), 3).eval()
    for parameter in other.parameters():
        parameter.data += 0.1
    same = FCN8s(create_backbone("resnet18", strides=(8, 16, 32)), 3).eval()
    same.start_from(other)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(same(images), other(images))


def test_options_that_would_do_nothing() -> None:
    backbone = create_backbone("resnet18", strides=(8, 16, 32))
    with pytest.raises(ValueError, match="learn_upsampling"):
        FCN(backbone, 3, decoder="pyramid", learn_upsampling=True)
    with pytest.raises(ValueError, match="width"):
        FCN(backbone, 3, width=0)
