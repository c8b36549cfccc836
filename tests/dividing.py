"""Processes that train together, played one after the other in this one."""

from contextlib import contextmanager

import pytest
import torch

from detseg.together import training_together


def in_processes(work, shares):
    """What `work` gives for each share, where sums over processes are those over all shares."""
    asked = []
    for share in shares:
        asked.append([])
        with one_of(len(shares), lambda values: asked[-1].append(values.clone())), torch.no_grad():
            work(share)
    totals = [sum(values) for values in zip(*asked, strict=True)]
    results = []
    for share in shares:
        left = list(totals)
        with one_of(len(shares), lambda values, left=left: values.copy_(left.pop(0))):
            results.append(work(share))
        assert left == []
    return results


@contextmanager
def one_of(world, all_reduce):
    """One of so many processes; `all_reduce` is given what is to be summed over them, in place."""
    with pytest.MonkeyPatch.context() as patch, training_together(world):
        patch.setattr("torch.distributed.all_reduce", all_reduce)
        yield


def gradient(losses, parameters):
    """Of the sum of named losses, in one vector."""
    found = torch.autograd.grad(sum(losses.values()), parameters, allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return torch.cat([torch.zeros(p.numel()) if g is None else g.flatten() for g, p in pairs])


def distance(divided, whole):
    """How far the mean gradient of processes is from that of one with the whole batch, in lengths of that."""
    return float((sum(divided) / len(divided) - whole).norm() / whole.norm())
