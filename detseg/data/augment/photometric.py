"""Light, colour, blur and noise; the one module that imports albumentations.

Import it only where images are augmented: it pulls in scipy and pydantic.

Measured for 320 x 320 x 3, one thread: albumentations' brightness and contrast 45 us, gamma 30 us, blurs
400-500 us (used rarely): good. HueSaturationValue takes 470 us, ColorJitter 650 us, and GaussNoise 7 ms, more
than everything else together, so colour and noise are our own transforms in albumentations' interface.
"""

import os
import random
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# albumentations asks PyPI for its newest version on import; a library must not use the network unasked.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)


def colour_matrix(saturation: float, hue: float, gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (3, 3) map of RGB that turns the hue by `hue` radians, multiplies saturation, then the channels.

    Hue and saturation work in YIQ: luma is unchanged, and so is every grey.
    """
    cos, sin = saturation * np.cos(hue), saturation * np.sin(hue)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return gains[:, None] * (_YIQ_TO_RGB @ turn @ _RGB_TO_YIQ)


class ColourMatrix(A.ImageOnlyTransform):
    """Hue, saturation and white balance in one matrix product a pixel (about 50 us)."""

    def __init__(self, saturation: float, hue: float, gain: float, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.saturation, self.hue, self.gain = saturation, hue, gain

    def get_params(self) -> dict[str, Any]:
        """Draw the matrix."""
        draws = 2 * self.random_generator.random(5) - 1
        gains = 1 + self.gain * draws[2:]
        return {"matrix": colour_matrix(1 + self.saturation * draws[0], self.hue * draws[1], gains)}

    def apply(self, img: NDArray[np.uint8], matrix: NDArray[np.float64], **_: Any) -> NDArray[np.uint8]:
        """Img (H, W, C) uint8 -> the same shape and type, saturated; of bands the first three are colours."""
        if img.shape[2] < 3:
            return img
        coloured = np.asarray(cv2.transform(np.ascontiguousarray(img[..., :3]), matrix.astype(np.float32)), np.uint8)
        return coloured if img.shape[2] == 3 else np.concatenate([coloured, img[..., 3:]], axis=2)


class TableNoise(A.ImageOnlyTransform):
    """Gaussian noise cut at a random place from one periodic table drawn beforehand (about 80 us).

    `strength` is the range of the standard deviation, in grey levels.
    """

    PERIOD = 512  # pixels
    DEVIATION = 32.0  # of the table; 8 bits resolve it well and clip only beyond 4 deviations

    def __init__(self, strength: tuple[float, float], p: float = 1.0) -> None:
        super().__init__(p=p)
        self.strength = strength
        table = np.random.default_rng(0).standard_normal((self.PERIOD, self.PERIOD, 3), dtype=np.float32)
        self.period = np.clip(np.rint(128 + self.DEVIATION * table), 0, 255).astype(np.uint8)
        self.table = self.period

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the strength and the place."""
        height, width = params["shape"][:2]
        draws = self.random_generator.random(3)
        low, high = self.strength
        top, left = (int(v) for v in draws[1:] * self.PERIOD)
        more = max(height, width)
        if len(self.table) < self.PERIOD + more:  # repeated: being periodic, it gives the same noise as before
            self.table = np.pad(self.period, ((0, more), (0, more), (0, 0)), mode="wrap")
        noise = self.table[top : top + height, left : left + width]
        return {"noise": noise, "weight": (low + (high - low) * draws[0]) / self.DEVIATION}

    def apply(self, img: NDArray[np.uint8], noise: NDArray[np.uint8], weight: float, **_: Any) -> NDArray[np.uint8]:
        """Img (H, W, C) uint8 plus weighted noise, saturated."""
        if img.shape[2] != 3:
            noise = np.ascontiguousarray(noise[..., np.arange(img.shape[2]) % 3])
        return np.asarray(cv2.addWeighted(img, 1.0, noise, weight, -128.0 * weight), np.uint8).reshape(img.shape)


class Photometric:
    """`photometric(image, rng)`: uint8 (H, W, 3) in and out; the same rng state gives the same image.

    Args:
        light: largest change of brightness (of the full range) and contrast; half the
            images get a random gamma in 1 / (1 + light) to 1 + light too.
        colour: largest relative change of saturation; hue turns up to 15 degrees times it, channels gain
            up to a fifth of it.
        blur: probability of a Gaussian or a motion blur.
        noise: probability of Gaussian noise.
    """

    def __init__(self, *, light: float, colour: float, blur: float, noise: float) -> None:
        for name, value in {"light": light, "colour": colour, "blur": blur, "noise": noise}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in 0..1, not {value}")
        transforms: list[A.ImageOnlyTransform | A.OneOf] = []
        if light > 0:
            transforms.append(A.RandomBrightnessContrast(light, light, p=1.0))
            gamma = (100 / (1 + light), 100 * (1 + light))
            transforms.append(A.RandomGamma(gamma, p=0.5))
        if colour > 0:
            transforms.append(ColourMatrix(colour, np.radians(15) * colour, colour / 5))
        if blur > 0:
            kinds = [A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 1.2), p=1), A.MotionBlur((3, 5), p=1)]
            transforms.append(A.OneOf(kinds, p=blur))
        if noise > 0:
            transforms.append(TableNoise((2.0, 12.0), p=noise))
        self.compose = A.Compose(transforms) if transforms else None
        self._random = random.Random()

    def __call__(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Returns a new image, or `image` itself when all is switched off."""
        if self.compose is None:
            return image
        # albumentations draws from one numpy and one Python generator. Handing over ours and reseeding one
        # Python generator takes 8 us; set_random_seed would build new generators, 150 us.
        self._random.seed(int(rng.integers(2**62)))
        self.compose.set_random_state(rng, self._random)
        return np.ascontiguousarray(self.compose(image=image)["image"]).reshape(image.shape)
