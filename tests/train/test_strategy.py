"""The four cases of transfer, and the reason that each gives."""

import pytest

from detseg.classify import Similarity
from detseg.train.tasks.strategy import ALIKE, MANY, STRATEGIES, choose_strategy


@pytest.mark.parametrize(
    ("each", "similarity", "name", "words"),
    [
        (MANY - 1, ALIKE, "probe", ("few", "like")),
        (MANY - 1, ALIKE - 0.01, "partial", ("few", "unlike")),
        (MANY, ALIKE, "finetune", ("many", "like")),
        (MANY, 0.2, "full", ("many", "unlike")),
    ],
)
def test_the_four_cases(each, similarity, name, words):
    strategy, why = choose_strategy(each * 7, 7, Similarity(similarity, (similarity,), 10))
    assert strategy is STRATEGIES[name]
    assert f"{each} images a class are {words[0]}" in why
    assert f"they are {words[1]} those" in why
    assert f"{similarity:.2f}" in why


def test_an_unknown_similarity_counts_as_alike():
    strategy, why = choose_strategy(30, 10, None)
    assert strategy.name == "probe"
    assert "not known" in why


def test_more_is_learnt_the_more_there_is_to_learn_from():
    assert [STRATEGIES[name].frozen for name in ("probe", "partial", "finetune", "full")] == [1, 0.5, 0, 0]
    assert STRATEGIES["finetune"].backbone_lr < STRATEGIES["full"].backbone_lr
    assert all(strategy.name == name for name, strategy in STRATEGIES.items())
