"""The colour matrix and the noise table keep their laws."""

import numpy as np
import pytest

from detseg.data.augment.photometric import TableNoise, colour_matrix


def test_colour_matrix_laws() -> None:
    one = np.ones(3)
    np.testing.assert_allclose(colour_matrix(1, 0, one), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(colour_matrix(1.7, 0.3, one) @ one, one, atol=1e-3)  # grey stays grey
    np.testing.assert_allclose(
        colour_matrix(1, 0.3, one) @ colour_matrix(1, 0.4, one), colour_matrix(1, 0.7, one), atol=1e-12
    )
    luma = np.tile([0.299, 0.587, 0.114], (3, 1))
    np.testing.assert_allclose(colour_matrix(0, 0, one), luma, atol=1e-3)
    np.testing.assert_allclose(colour_matrix(0, 0, np.array([1, 2, 3.0])), luma * [[1], [2], [3]], atol=4e-3)


@pytest.mark.parametrize("side", [64, 700])
def test_noise_has_the_strength_asked_for(side: int) -> None:
    noise = TableNoise((8.0, 8.0))
    noise.set_random_seed(0)
    grey = np.full((side, side, 3), 128, np.uint8)
    error = noise(image=grey)["image"].astype(float) - 128
    assert abs(error.std() - 8) < 0.4 and abs(error.mean()) < 0.4
    assert abs(np.corrcoef(error[..., 0].ravel(), error[..., 1].ravel())[0, 1]) < 0.1


def test_noise_does_not_depend_on_the_sizes_seen_before() -> None:
    fresh, used = TableNoise((8.0, 8.0)), TableNoise((8.0, 8.0))
    used(image=np.zeros((900, 900, 3), np.uint8))
    grey = np.full((200, 300, 3), 128, np.uint8)
    for noise in (fresh, used):
        noise.set_random_seed(4)
    np.testing.assert_array_equal(fresh(image=grey)["image"], used(image=grey)["image"])
