"""Matching priors with objects against a loop over both, and against torchvision's matchers."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.ops import box_iou

from detseg.boxes import crowd_iou
from detseg.detect.match import IN_CROWD, match
from detseg.detect.model import FlatTargets, flatten_targets

HIGH, LOW = 0.5, 0.3


def boxes_of(count, generator, size=40):
    corners = torch.randint(0, size, (count, 2), generator=generator).float()
    return torch.cat([corners, corners + torch.randint(1, size, (count, 2), generator=generator)], 1)


def slow(priors, objects, images, claim):
    """(object or -1 background or -2 neither) of each prior, one after the other."""
    result = []
    for n in range(images):
        mine = priors if priors.ndim == 2 else priors[n]
        rows = [i for i in range(len(objects.boxes)) if objects.image[i] == n]
        real = [i for i in rows if not objects.iscrowd[i]]
        crowds = [i for i in rows if objects.iscrowd[i]]
        iou = box_iou(objects.boxes[real], mine) if real else torch.zeros(0, len(mine))
        line = []
        for p in range(len(mine)):
            best = max(range(len(real)), key=lambda r: float(iou[r, p])) if real else None
            value = -1.0 if best is None else float(iou[best, p])
            ignored = any(float(crowd_iou(mine[p : p + 1], objects.boxes[c : c + 1])) >= IN_CROWD for c in crowds)
            line.append(real[best] if value >= HIGH else (-2 if value >= LOW or ignored else -1))
        if claim:
            wants = {r: int(iou[k].argmax()) for k, r in enumerate(real) if len(mine) and iou[k].max() > 0}
            for p in set(wants.values()):
                line[p] = max((r for r in wants if wants[r] == p), key=lambda r: float(iou[real.index(r), p]))
        result.append(line)
    return result


@settings(max_examples=60)
@example(842, 9, 9, False, True)  # half of a prior in a crowd region, and rounding
@given(st.integers(0, 2**20), st.integers(0, 9), st.integers(0, 12), st.booleans(), st.booleans())
def test_a_loop_says_the_same(seed, objects, priors, claim, own):
    generator = torch.Generator().manual_seed(seed)
    images = 3
    order = torch.randint(0, images, (objects,), generator=generator).sort().values
    crowd = torch.rand(objects, generator=generator) < 0.3
    flat = FlatTargets(boxes_of(objects, generator), torch.zeros(objects, dtype=torch.long), crowd, order)
    shape = (images, priors, 4) if own else (priors, 4)
    given_priors = boxes_of(images * priors if own else priors, generator).view(shape)
    found = match(given_priors, flat, images, high=HIGH, low=LOW, claim=claim)
    assert not (found.positive & found.negative).any()
    coded = torch.where(found.positive, found.object, torch.where(found.negative, -1, -2))
    assert coded.tolist() == slow(given_priors, flat, images, claim)


@pytest.mark.parametrize("many", [1, 40, 300])
def test_torchvision_says_the_same(many):
    generator = torch.Generator().manual_seed(many)
    priors = boxes_of(2000, generator, 300) + torch.rand(2000, 1, generator=generator)
    objects = boxes_of(many, generator, 300) + torch.rand(many, 1, generator=generator)
    targets = [{"boxes": objects, "labels": torch.zeros(many, dtype=torch.long)}]
    iou = box_iou(objects, priors)
    plain = match(priors, flatten_targets(targets, 1), 1, high=0.7, low=0.3)
    theirs = Matcher(0.7, 0.3)(iou)
    ours = torch.where(plain.positive, plain.object, torch.where(plain.negative, -1, -2))[0]
    assert torch.equal(ours, theirs)
    claimed = match(priors, flatten_targets(targets, 1), 1, high=0.5, low=0.5, claim=True)
    theirs = SSDMatcher(0.5)(iou)
    ours = torch.where(claimed.positive, claimed.object, -1)[0]
    # Of several objects that want one prior torchvision takes the last, not the one that fits best.
    clear = torch.bincount(iou.argmax(1), minlength=2000) <= 1
    assert torch.equal(ours[clear], theirs[clear])
