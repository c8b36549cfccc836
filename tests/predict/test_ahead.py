"""Reading ahead: the same results in the same order, a bounded number of items early."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.sources import ahead, open_all


@settings(max_examples=20, deadline=None)
@given(items=st.lists(st.integers(0, 3), max_size=20), count=st.integers(1, 8))
def test_results_come_in_order(items, count):
    def slow(milliseconds):
        time.sleep(milliseconds / 1000)
        return milliseconds

    assert list(ahead(slow, items, count)) == items


def test_no_more_is_begun_than_asked_for():
    begun, gate = [], threading.Event()

    def work(item):
        begun.append(item)
        gate.wait(10)
        return item

    results = ahead(work, range(100), 3)
    threading.Timer(0.2, gate.set).start()
    assert next(results) == 0
    results.close()
    assert set(begun) <= {0, 1, 2, 3}
    count = len(begun)
    time.sleep(0.05)
    assert len(begun) == count  # nor after nobody wants them


def test_what_is_raised_is_raised_at_its_turn():
    results = ahead(lambda x: 6 // x, [3, 2, 0, 1], 4)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("kind", [list, iter])
def test_images_of_more_than_a_batch_are_the_same(kind):
    images = [np.full((4, 5, 3), i, np.uint8) for i in range(7)]
    opened = list(open_all(kind(images), 3, 2))
    assert [int(image.pixels[0, 0, 0]) for image in opened] == list(range(7))
    with pytest.raises(ValueError, match="uint8 array of shape"):
        list(open_all(kind([*images, images[0][0]]), 3, 2))
