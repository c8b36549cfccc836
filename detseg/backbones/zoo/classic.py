"""The networks that began it, by hand from their papers: LeNet-5, AlexNet, ZF Net."""

from collections import OrderedDict
from functools import partial
from typing import Literal

from torch import nn

from detseg.backbones.network import Classifier, named_layers, register_network

Norm = Literal["lrn", "batch"]
# Mean and standard deviation of MNIST's pixels, white ink on black.
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)


class LeNet5(Classifier):
    """LeNet-5 for images of 32 x 32 (LeCun et al., Gradient-based learning applied to document recognition, 1998).

    The form it is built in today: each map of C3 sees all of S2's (61 706 parameters; the paper's table of
    connections had 60 000), pooling is the plain average, and the output is linear, for a softmax, in place of radial
    basis functions. Digits of 28 x 28 get 2 pixels of border, as in the paper.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__(
            lenet5_features(in_channels),
            OrderedDict(
                flatten=nn.Flatten(),
                classifier=nn.Sequential(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, num_classes)),
            ),
            in_channels=in_channels,
            input_size=(32, 32),
            mean=MNIST_MEAN,
            std=MNIST_STD,
        )


def lenet5_features(in_channels: int = 1) -> nn.Sequential:
    """C1 to C5 of LeNet-5: (N, in_channels, 32, 32) -> (N, 120, 1, 1)."""
    return named_layers(
        conv1=nn.Conv2d(in_channels, 6, 5),
        tanh1=nn.Tanh(),
        pool2=nn.AvgPool2d(2),
        conv3=nn.Conv2d(6, 16, 5),
        tanh3=nn.Tanh(),
        pool4=nn.AvgPool2d(2),
        conv5=nn.Conv2d(16, 120, 5),
        tanh5=nn.Tanh(),
    )


class AlexNet(Classifier):
    """AlexNet for images of 227 x 227 (Krizhevsky et al., ImageNet classification with deep CNNs, 2012).

    The paper says 224; its own sizes need 227. `norm` is "lrn", local response normalisation as in the paper, or
    "batch" in its place, between activation and pooling; `groups` is 2 as in the paper, where two GPUs held half of the
    maps each (60 965 224 parameters), or 1 for whole convolutions (62 378 344).
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, *, norm: Norm = "lrn", groups: int = 2) -> None:
        super().__init__(
            alexnet_features(in_channels, norm=norm, groups=groups),
            OrderedDict(flatten=nn.Flatten(), classifier=_two_hidden_layers(256 * 6 * 6, num_classes)),
            in_channels=in_channels,
            input_size=(227, 227),
        )


def alexnet_features(in_channels: int = 3, *, norm: Norm = "lrn", groups: int = 2) -> nn.Sequential:
    """The convolutional part of AlexNet: (N, in_channels, 227, 227) -> (N, 256, 6, 6)."""
    if norm not in ("lrn", "batch"):
        raise ValueError(f"norm must be 'lrn' or 'batch', got {norm!r}")
    if groups not in (1, 2):
        raise ValueError(f"groups must be 1 or 2, got {groups!r}")
    normalise = local_response_norm if norm == "lrn" else nn.BatchNorm2d
    return named_layers(
        conv1=nn.Conv2d(in_channels, 96, 11, stride=4),
        relu1=nn.ReLU(inplace=True),
        norm1=normalise(96),
        pool1=nn.MaxPool2d(3, stride=2),
        conv2=nn.Conv2d(96, 256, 5, padding=2, groups=groups),
        relu2=nn.ReLU(inplace=True),
        norm2=normalise(256),
        pool2=nn.MaxPool2d(3, stride=2),
        **_last_convolutions(groups),
    )


class ZFNet(Classifier):
    """ZF Net for images of 224 x 224 (Zeiler & Fergus, Visualizing and understanding CNNs, 2013, figure 3).

    AlexNet with a finer first layer (7 x 7 at stride 2), so that fewer of its filters die; whole convolutions
    (62 357 608 parameters); normalised after the pooling.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__(
            zfnet_features(in_channels),
            OrderedDict(flatten=nn.Flatten(), classifier=_two_hidden_layers(256 * 6 * 6, num_classes)),
            in_channels=in_channels,
            input_size=(224, 224),
        )


def zfnet_features(in_channels: int = 3) -> nn.Sequential:
    """The convolutional part of ZF Net: (N, in_channels, 224, 224) -> (N, 256, 6, 6).

    Paddings are those that give the figure's sizes: 110, 55, 26, 13, 13, 13, 13, 6.
    """
    return named_layers(
        conv1=nn.Conv2d(in_channels, 96, 7, stride=2, padding=1),
        relu1=nn.ReLU(inplace=True),
        pool1=nn.MaxPool2d(3, stride=2, padding=1),
        norm1=local_response_norm(96),
        conv2=nn.Conv2d(96, 256, 5, stride=2),
        relu2=nn.ReLU(inplace=True),
        pool2=nn.MaxPool2d(3, stride=2, padding=1),
        norm2=local_response_norm(256),
        **_last_convolutions(),
    )


def _last_convolutions(groups: int = 1) -> dict[str, nn.Module]:
    """The three convolutions without a pooling between them, of AlexNet and ZF Net."""
    return {
        "conv3": nn.Conv2d(256, 384, 3, padding=1),
        "relu3": nn.ReLU(inplace=True),
        "conv4": nn.Conv2d(384, 384, 3, padding=1, groups=groups),
        "relu4": nn.ReLU(inplace=True),
        "conv5": nn.Conv2d(384, 256, 3, padding=1, groups=groups),
        "relu5": nn.ReLU(inplace=True),
        "pool5": nn.MaxPool2d(3, stride=2),
    }


def local_response_norm(_channels: int) -> nn.LocalResponseNorm:
    """Bright neurons inhibit those at the same place in the 2 maps on either side (AlexNet, section 3.3).

    b[i] = a[i] / (k + α Σ a[j]²)^β over |j - i| <= r, with r = 2, α = 2e-5, β = 0.75, k = 1. torch counts the 2r + 1
    maps and takes their mean, not their sum: so its alpha is 5 α.
    """
    radius, alpha = 2, 2e-5
    size = 2 * radius + 1
    return nn.LocalResponseNorm(size, alpha=size * alpha, beta=0.75, k=1.0)


def _two_hidden_layers(inputs: int, num_classes: int) -> nn.Sequential:
    """The fully connected end of AlexNet and ZF Net."""
    return nn.Sequential(
        nn.Linear(inputs, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(4096, num_classes),
    )


register_network("lenet5", LeNet5, lenet5_features)
register_network("alexnet_2012", AlexNet, alexnet_features)
register_network("alexnet_2012_bn", partial(AlexNet, norm="batch"), partial(alexnet_features, norm="batch"))
register_network("zfnet", ZFNet, zfnet_features)
