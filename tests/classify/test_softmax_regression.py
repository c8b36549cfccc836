"""The solved head: the same as scikit-learn's, whatever the scale of the features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from detseg.classify import fit_softmax_regression


def clouds(images=60, channels=8, classes=3, seed=0, spread=1.0):
    """Features around a centre for each class, the channels of very different scales."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    centres = rng.normal(size=(classes, channels))
    features = centres[labels] + spread * rng.normal(size=(images, channels))
    features = features * np.geomspace(0.01, 100, channels) + 5
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


@pytest.mark.parametrize("penalty", [0.3, 0.01])
def test_it_is_the_solution_of_scikit_learn(penalty):
    features, labels = clouds()
    x = features.double().numpy()
    x = (x - x.mean(0)) / x.std(0)
    # scikit-learn sums the cross-entropy and weighs it with C, the penalty being |weight|² / 2.
    oracle = LogisticRegression(C=1 / (penalty * len(x)), max_iter=5000, tol=1e-8).fit(x, labels.numpy())
    found = fit_softmax_regression(features, labels, 3, penalties=[penalty])
    logits = (features @ found.weight.T + found.bias).double()
    wanted = torch.from_numpy(oracle.decision_function(x))
    assert torch.allclose(logits.softmax(1), wanted.softmax(1), atol=2e-3)
    assert found.penalty == penalty
    assert found.losses == {}


def test_the_scale_of_a_channel_makes_no_difference():
    features, labels = clouds()
    other = features * torch.linspace(0.5, 3, features.shape[1]) - 2
    a, b = (fit_softmax_regression(x, labels, 3, penalties=[0.1]) for x in (features, other))
    assert torch.allclose(features @ a.weight.T + a.bias, other @ b.weight.T + b.bias, atol=1e-2)


@pytest.mark.slow
def test_the_penalty_with_the_lowest_loss_on_images_held_out_is_taken():
    # Noise without a class in it: the more it is penalised the better.
    noise = torch.randn(60, 40, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 3
    found = fit_softmax_regression(noise, labels, 3, penalties=[0.001, 10.0, 0.1])
    assert found.penalty == 10.0 == min(found.losses, key=found.losses.get)
    assert set(found.losses) == {0.001, 0.1, 10.0}
    assert found.losses[0.001] > 1.5 > found.losses[10.0]
    assert fit_softmax_regression(noise, labels, 3).losses == fit_softmax_regression(noise, labels, 3).losses


def test_smoothing_bounds_what_can_be_told_apart():
    features, labels = clouds(spread=0.01)
    plain, smooth = (
        fit_softmax_regression(features, labels, 3, penalties=[1e-6], label_smoothing=s) for s in (0.0, 0.1)
    )
    chances = (features @ smooth.weight.T + smooth.bias).softmax(1)
    # The best answer to targets of 0.9 + 0.1 / 3 and 0.1 / 3.
    assert torch.allclose(chances.amax(1), torch.full((60,), 0.9 + 0.1 / 3), atol=0.01)
    assert float((features @ plain.weight.T + plain.bias).softmax(1).amax(1).min()) > 0.99


def test_views_count_like_images():
    features, labels = clouds()
    twice = torch.stack([features, features + 0.1])
    flat = fit_softmax_regression(twice.flatten(0, 1), labels.repeat(2), 3, penalties=[0.1])
    views = fit_softmax_regression(twice, labels, 3, penalties=[0.1])
    assert torch.allclose(views.weight, flat.weight)
    assert torch.allclose(views.bias, flat.bias)


def test_channels_that_never_change_and_classes_without_images():
    features, labels = clouds()
    features[:, 2] = 7.0
    found = fit_softmax_regression(features, labels, 5, penalties=[0.1])
    assert found.weight.shape == (5, 8)
    assert found.weight.isfinite().all()
    assert found.bias.isfinite().all()
    assert (found.weight[:, 2] == 0).all()
    assert ((features @ found.weight.T + found.bias).argmax(1) < 3).all()


def test_one_image():
    found = fit_softmax_regression(torch.ones(1, 4), torch.tensor([1]), 2)
    assert int((torch.ones(1, 4) @ found.weight.T + found.bias).argmax()) == 1


def test_mistakes():
    two = torch.tensor([0, 1])
    for features, labels, options, message in [
        (torch.ones(3, 2), torch.zeros(2, dtype=torch.int64), {}, r"features \(3, 2\) and labels \(2,\)"),
        (torch.ones(0, 2), torch.zeros(0, dtype=torch.int64), {}, "do not fit"),
        (torch.full((2, 2), torch.nan), two, {}, "NaN or infinite"),
        (torch.ones(2, 2), two, {"penalties": []}, "penalties must be"),
        (torch.ones(2, 2), two, {"penalties": [-1.0]}, "penalties must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit_softmax_regression(features, labels, 2, **options)
