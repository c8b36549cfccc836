"""Every decoder keeps the contract of `Decoder`, alone and inside of `FCN`: shapes, gradients, devices, what counts."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from detseg.backbones import create_backbone
from detseg.segment import FCN, IGNORE_INDEX
from detseg.segment.decoder import DECODERS, Decoder
from detseg.segment.upsampling import BilinearUpsample


@pytest.fixture(scope="module", params=list(DECODERS))
def model(request: pytest.FixtureRequest) -> FCN:
    torch.manual_seed(0)
    strides = DECODERS[request.param].usual_strides
    model = FCN(create_backbone("resnet10t", strides=strides), 3, decoder=request.param, width=16)
    for parameter in model.decoder.parameters():  # scores may begin at zero, which shows nothing
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def images(count: int, height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)


def test_what_it_declares(model: FCN) -> None:
    kind = type(model.decoder)
    assert issubclass(kind, Decoder)
    *_, last = kind.usual_strides
    assert kind.strides_for(atrous=False) == kind.usual_strides == tuple(sorted(kind.usual_strides))
    assert kind.strides_for(atrous=True) == tuple(s for s in kind.usual_strides if 2 * s != last)
    learnt = [m.weight is not None for m in model.modules() if isinstance(m, BilinearUpsample)]
    assert learnt and all(learnt) == any(learnt) == kind.learns_upsampling


def test_it_is_built_from_channels_and_strides(model: FCN) -> None:
    """On maps of the sizes that backbones give, any strides, a single one too."""
    for strides in ((8,), (4, 8), (8, 32), (4, 8, 16, 32)):
        channels = range(5, 5 + len(strides))
        decoder = type(model.decoder)(list(channels), strides, 4, width=8).eval()
        for height, width in ((1, 1), (33, 64), (67, 5)):
            maps = [torch.randn(2, c, -(-height // s), -(-width // s)) for c, s in zip(channels, strides, strict=True)]
            assert decoder(maps).shape == (2, 4, *maps[0].shape[-2:]), (strides, height, width)
    with pytest.raises(ValueError, match="no multiple"):
        type(model.decoder)([3, 3], (8, 12), 2, width=8)


def test_any_size_trains(model: FCN) -> None:
    for size in ((1, 1), (2, 67), (31, 33), (32, 32), (65, 17)):
        assert model.eval()(images(1, *size)).shape == (1, 3, *size)
        model.train().zero_grad()
        targets = torch.randint(0, 3, (2, *size))
        sum(model(images(2, *size), targets).values()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), (size, name)


def test_an_image_that_is_all_ignored_trains(model: FCN) -> None:
    model.train().zero_grad()
    losses = model(images(2, 64, 96), torch.full((2, 64, 96), IGNORE_INDEX))
    assert losses["loss_ce"].item() == 0
    losses["loss_ce"].backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in model.parameters())


@torch.no_grad()
def test_images_do_not_influence_each_other(model: FCN) -> None:
    x = images(3, 64, 96)
    together = model.eval()(x)
    for i in (2, 0, 1):
        torch.testing.assert_close(together[i : i + 1], model(x[i : i + 1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_everything_stays_on_the_device_of_its_inputs(model: FCN, precision: str) -> None:
    with FakeTensorMode():
        state = {
            name: torch.empty(t.shape, dtype=t.dtype, device="cuda", requires_grad=t.requires_grad)
            for name, t in (*model.named_parameters(), *model.named_buffers())
        }
        x = torch.zeros(2, 3, 65, 96, dtype=torch.uint8, device="cuda")
        targets = torch.zeros(2, 65, 96, dtype=torch.uint8, device="cuda")
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            losses, logits = (functional_call(model, state, arguments) for arguments in ((x, targets), (x,)))
        for tensor in (*losses.values(), logits):
            assert tensor.device.type == "cuda" and tensor.dtype == torch.float32


def test_weights_make_the_round_trip(model: FCN) -> None:
    name = next(name for name, kind in DECODERS.items() if type(model.decoder) is kind)
    other = FCN(create_backbone("resnet10t", strides=model.backbone.strides), 3, decoder=name, width=16)
    other.load_state_dict(model.state_dict())
    x = images(1, 64, 96)
    torch.testing.assert_close(other.eval()(x), model.eval()(x))


def test_fixed_upsampling_has_nothing_to_learn(model: FCN) -> None:
    """What was saved with `learn_upsampling` false, of any decoder, is built and answers as it did."""
    name = next(name for name, kind in DECODERS.items() if type(model.decoder) is kind)
    backbone = create_backbone("resnet10t", strides=model.backbone.strides)
    fixed = FCN(backbone, 3, decoder=name, width=16, learn_upsampling=False).eval()
    assert all(m.weight is None for m in fixed.modules() if isinstance(m, BilinearUpsample))
    state = {key: value for key, value in model.state_dict().items() if key in fixed.state_dict()}
    fixed.load_state_dict(state)
    interpolating = FCN(backbone, 3, decoder=name, width=16).eval()  # kernels as they begin
    interpolating.load_state_dict(interpolating.state_dict() | state)
    x = images(1, 45, 70)
    torch.testing.assert_close(fixed(x), interpolating(x), rtol=1e-4, atol=1e-4)
