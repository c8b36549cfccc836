"""Which images to label next: disagreement of views, and a choice that spreads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg.predict.worth_labelling import Look, choose, disagreement, mirror


def view(*rows):
    """Rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5].astype(np.int64)}


ROSE, TULIP = (10, 10, 30, 30, 0.9, 0), (50, 50, 70, 80, 0.6, 1)


def test_views_that_agree_and_views_that_do_not():
    assert disagreement([view(ROSE, TULIP)] * 3) == pytest.approx(0, abs=1e-6)
    assert disagreement([view()] * 3) == 0
    assert disagreement([view(ROSE), view(), view()]) == 1, "seen in one view only"
    other_class = (10, 10, 30, 30, 0.9, 1)
    assert disagreement([view(ROSE), view(other_class)]) == 1
    # IoU 0.5, the same score: half of it is lost.
    half = (10, 10, 30, 20, 0.9, 0)
    assert disagreement([view(ROSE), view(half)]) == pytest.approx(0.5, abs=1e-6)
    # The same box, scores 0.9 and 0.3: a likeness of 0.4.
    unsure = (10, 10, 30, 30, 0.3, 0)
    assert disagreement([view(ROSE), view(unsure)]) == pytest.approx(0.6, abs=1e-6)
    assert disagreement([view(ROSE), view(ROSE, (0, 0, 5, 5, 0.05, 1))]) == pytest.approx(0, abs=1e-6), "noise"


@given(st.lists(st.lists(st.sampled_from([ROSE, TULIP, (10, 10, 30, 20, 0.2, 0)]), max_size=4), min_size=2, max_size=4))
def test_it_is_a_share_and_the_order_of_views_does_not_matter(rows):
    views = [view(*each) for each in rows]
    found = disagreement(views)
    assert 0 <= found <= 1
    assert disagreement(views[::-1]) == pytest.approx(found, abs=1e-6)


def test_mirrored_boxes():
    boxes = np.array([[10, 20, 30, 40]], np.float32)
    assert mirror(boxes, 100).tolist() == [[70, 20, 90, 40]]
    assert mirror(mirror(boxes, 100), 100).tolist() == boxes.tolist()


def look(score, *feature):
    feature = np.array(feature, np.float32)
    return Look(score, feature / np.linalg.norm(feature), view())


def test_the_choice_spreads():
    looks = [look(0.9, 1, 0), look(0.89, 1, 0.001), look(0.5, 0, 1), look(0.1, -1, 0)]
    assert choose(looks, 2) == [0, 2], "the second is like the first"
    assert choose(looks, 1) == [0]
    assert sorted(choose(looks, 9)) == [0, 1, 2, 3]
    assert choose([], 3) == []
    same = [look(0.0, 1, 0)] * 4
    assert sorted(choose(same, 4)) == [0, 1, 2, 3], "nothing to choose by: all the same"
