"""VGG as the first fully convolutional networks had it: fc6 and fc7 are convolutions (Long et al. 2015)."""

import copy
import functools
from collections.abc import Sequence

from torch import nn

from detseg.backbones.backbone import Backbone, check_strides
from detseg.backbones.chain import Chain, require_strides
from detseg.backbones.create import register_backbone
from detseg.backbones.dense_to_conv.convolutional import dense_to_conv
from detseg.backbones.meta import shapes_of

# What VGGs are trained with; five poolings make 7 x 7 cells of it.
SIZE = (224, 224)
STRIDES = (2, 4, 8, 16, 32)


def convolutional_vgg(
    classifier: nn.Module, *, strides: Sequence[int] = (8, 16, 32), name: str = "convolutional_vgg"
) -> Backbone:
    """A backbone of a VGG classifier, trained or not: its poolings 3 and 4 and, at stride 32, its fc7.

    fc6, a convolution of 7 x 7 now, pads its map by 3 cells to keep its size; the paper pads the image by 100 pixels
    and crops later.

    Args:
        classifier: one of torchvision's VGGs, or another chain of layers with five poolings and three fully connected
            layers. The backbone has copies of its weights.
        strides: of the outputs: 2 to 16 are the poolings', 32 is fc7's.
        name: for messages.
    """
    strides = check_strides(strides)
    require_strides("a VGG", strides, STRIDES)
    layers = _layers(classifier)
    poolings = [name for name, layer in layers.items() if isinstance(layer, nn.MaxPool2d)]
    names = list(layers)
    dense = [n for n in names[names.index(poolings[-1]) :] if isinstance(layers[n], nn.Conv2d)] if poolings else []
    if len(poolings) != 5 or len(dense) != 3:
        raise ValueError(
            f"{type(classifier).__name__} is no VGG: it has {len(poolings)} poolings and then {len(dense)} fully "
            "connected layers, not 5 and 3"
        )
    fc6 = layers[dense[0]]
    assert isinstance(fc6, nn.Conv2d)
    fc6.padding = tuple(k // 2 for k in fc6.kernel_size)
    taps = dict(zip(STRIDES, [*poolings[:4], names[names.index(dense[-1]) - 1]], strict=True))
    keep = names[: names.index(taps[strides[-1]]) + 1]
    chain = Chain({key: layers[key] for key in keep}, [taps[stride] for stride in strides])
    # The classifier's own names: a file of it fits, fc8 is known as what was cut off.
    return Backbone(chain, strides=strides, name=name, whole_network=functools.partial(dict, shapes_of(classifier)))


def _layers(classifier: nn.Module) -> dict[str, nn.Module]:
    """The layers of the converted classifier in the order of their calls."""
    net = dense_to_conv(classifier, SIZE).net
    layers: dict[str, nn.Module] = {}
    for node in net.graph.nodes:
        if node.op == "call_module":
            layer, name = net.get_submodule(node.target), node.target.replace(".", "_")
            if name in layers:  # an activation that is called again: a chain needs one for each place
                layer, name = copy.deepcopy(layer), f"{name}_{node.name}"
            layers[name] = layer
        elif node.op not in ("placeholder", "output"):
            raise ValueError(f"{type(classifier).__name__} is no VGG: there is {node.name} between its layers")
    return layers


@register_backbone("vgg16_fcn", weights_of="vgg16")
def vgg16_fcn(*, strides: tuple[int, ...], in_channels: int) -> Backbone:
    """The paper's network; torchvision's VGG-16 gives it weights (``pretrained=True``, or a file of them)."""
    from torchvision.models import vgg16

    if in_channels != 3:
        raise ValueError(f"vgg16_fcn has 3 input channels, not {in_channels}; vgg16 has any number")
    return convolutional_vgg(vgg16(), strides=strides, name="vgg16_fcn")
