"""ResNet-34 from residual units (He et al., Deep residual learning for image recognition, 2015)."""

from collections import OrderedDict

from torch import Tensor, nn

from detseg.backbones.network import Classifier, register_network

# How many units work with how many maps; the first with more maps than the one before halves the image.
RESNET34_UNITS = ((64, 3), (128, 4), (256, 6), (512, 3))


class ResidualUnit(nn.Module):
    """Two 3 x 3 convolutions that learn what to add to their input.

    Where the stride is above 1, the input skips through a 1 x 1 convolution of that stride; at stride 1 it is added
    as it is, so `in_channels` and `channels` must agree.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        if stride == 1 and in_channels != channels:
            raise ValueError(f"at stride 1 a residual unit keeps its channels, got {in_channels} in, {channels} out")
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.skip = nn.Sequential()
        if stride > 1:
            self.skip = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        return self.relu(self.main(x) + self.skip(x))


class ResNet34(Classifier):
    """ResNet-34 for images of 224 x 224: a stem, 16 residual units, the mean over the image, one linear layer.

    21 797 672 parameters for 1000 classes. Its tensors are in the order and shapes of torchvision's `resnet34`.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__(
            resnet34_features(in_channels),
            OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(512, num_classes)),
            in_channels=in_channels,
            input_size=(224, 224),
        )


def resnet34_features(in_channels: int = 3) -> nn.Sequential:
    """The convolutional part of ResNet-34: (N, in_channels, H, W) -> (N, 512, ceil(H / 32), ceil(W / 32))."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False),
        norm=nn.BatchNorm2d(64),
        relu=nn.ReLU(inplace=True),
        pool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    previous = 64
    for channels in (channels for channels, count in RESNET34_UNITS for _ in range(count)):
        layers[f"unit{len(layers) - 3}"] = ResidualUnit(previous, channels, stride=1 if channels == previous else 2)
        previous = channels
    features = nn.Sequential(layers)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):  # keeps the size of gradients through ReLUs (He et al., 2015, PReLU paper)
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return features


register_network("resnet34_units", ResNet34, resnet34_features)
