"""Sums and divisors of losses over the processes that train together."""

import torch

from detseg.together import divisor, sums
from tests.dividing import in_processes


def test_one_process_divides_by_its_own_count():
    for count, expected in ((0, 1.0), (3, 3.0)):
        assert divisor(torch.tensor(count)) == divisor(torch.tensor(float(count))) == expected
    assert divisor(torch.tensor(0.0), 1e-6) == torch.tensor(1e-6)
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    assert sums(values) is values


def test_the_mean_of_quotients_is_the_quotient_of_the_sums():
    shares = [(6.0, 3), (0.0, 0), (2.0, 1)]
    found = in_processes(lambda share: share[0] / divisor(torch.tensor(share[1])), shares)
    assert sum(found) / 3 == 8 / 4
    nothing = in_processes(lambda share: divisor(torch.tensor(0)), [1, 2])
    assert nothing == [0.5, 0.5], "as if there were one in all"


def test_gradients_through_sums_have_the_mean_of_the_whole():
    x = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    (whole,) = torch.autograd.grad(x.sum() ** 2, x)
    found = in_processes(lambda share: sums(x[share].sum()) ** 2, [slice(0, 1), slice(1, 3)])
    assert found == [36.0, 36.0]
    torch.testing.assert_close(sum(torch.autograd.grad(value, x)[0] for value in found) / 2, whole)


def test_counts_are_left_as_they_are():
    counts = [torch.tensor(2), torch.tensor(5)]
    in_processes(divisor, counts)
    assert counts == [2, 5]
