"""Networks by name: `create_backbone` gives feature maps at the strides asked for, `create_network` classifiers."""

from detseg.backbones.atrous import dilate_last_stage
from detseg.backbones.backbone import Backbone
from detseg.backbones.create import create_backbone, create_deepest, list_backbones, register_backbone
from detseg.backbones.dense_to_conv.convolutional import Convolutional, dense_to_conv
from detseg.backbones.network import create_network, imagenet_classes, register_network
from detseg.backbones.weights import WeightReport, load_weights
from detseg.backbones.zoo.classic import AlexNet, LeNet5, ZFNet
from detseg.backbones.zoo.layers import DepthwiseMaxPool, SqueezeExcitation
from detseg.backbones.zoo.residual import ResidualUnit, ResNet34
from detseg.backbones.zoo.ssd import ScaledUnit
from detseg.backbones.zoo.vgg import convolutional_vgg

__all__ = [
    "AlexNet",
    "Backbone",
    "Convolutional",
    "DepthwiseMaxPool",
    "LeNet5",
    "ResNet34",
    "ResidualUnit",
    "ScaledUnit",
    "SqueezeExcitation",
    "WeightReport",
    "ZFNet",
    "convolutional_vgg",
    "create_backbone",
    "create_deepest",
    "create_network",
    "dense_to_conv",
    "dilate_last_stage",
    "imagenet_classes",
    "list_backbones",
    "load_weights",
    "register_backbone",
    "register_network",
]
