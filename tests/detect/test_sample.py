"""Random samples: of the right kinds, no more than there are, and each as likely as any other."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.detect.sample import sample


@settings(max_examples=60)
@given(st.integers(0, 2**20), st.integers(0, 30), st.integers(1, 40), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_so_many_of_each_kind(seed, priors, count, share):
    torch.manual_seed(seed)
    kind = torch.randint(0, 3, (4, priors))
    kind[0] = 2  # an image that has nothing to draw from
    positive, negative = kind == 0, kind == 1
    index, chosen = sample(positive, negative, count, share)
    assert index.shape == chosen.shape == (4, min(count, priors))
    for n in range(4):
        drawn = index[n][chosen[n]]
        assert len(drawn.unique()) == len(drawn)
        good, bad = int(positive[n, drawn].sum()), int(negative[n, drawn].sum())
        assert good + bad == len(drawn)
        assert good == min(int(min(count, priors) * share), int(positive[n].sum()))
        assert bad == min(min(count, priors) - good, int(negative[n].sum()))
        assert positive[n, drawn[:good]].all(), "positives first"


def test_all_are_alike_and_a_seed_repeats():
    positive = torch.arange(20).expand(4000, 20) < 10
    torch.manual_seed(1)
    index, chosen = sample(positive, ~positive, 6, 0.5)
    assert chosen.all()
    share = torch.bincount(index.flatten(), minlength=20) / 4000
    torch.testing.assert_close(share, torch.full((20,), 0.3), atol=0.03, rtol=0)
    torch.manual_seed(1)
    assert torch.equal(sample(positive, ~positive, 6, 0.5).places, index)
