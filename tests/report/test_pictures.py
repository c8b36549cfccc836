"""Which training pictures are shown."""

from detseg.report.pictures import SHOWN, some_of


def test_all_of_few_and_some_from_all_over_of_many():
    assert sorted(some_of(5, 0)) == [0, 1, 2, 3, 4]
    chosen = some_of(1000, 0)
    assert len(set(chosen)) == SHOWN
    assert min(chosen) < 250 and max(chosen) > 750
    assert chosen == some_of(1000, 0) != some_of(1000, 1)
