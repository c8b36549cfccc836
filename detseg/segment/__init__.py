"""Semantic segmentation: networks, losses and their parts."""

from detseg.segment.components import masks_to_boxes
from detseg.segment.decoder import Decoder, register_decoder
from detseg.segment.fcn import FCN, FCN8s, FCN16s, FCN32s
from detseg.segment.losses import IGNORE_INDEX
from detseg.segment.upsampling import BilinearUpsample, bilinear_kernel

__all__ = [
    "FCN",
    "IGNORE_INDEX",
    "BilinearUpsample",
    "Decoder",
    "FCN8s",
    "FCN16s",
    "FCN32s",
    "bilinear_kernel",
    "masks_to_boxes",
    "register_decoder",
]
