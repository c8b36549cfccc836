"""Weights by the names of classes: against the same said row by row, and every odd name."""

import itertools

import pytest
import torch
from torch import nn

from detseg.backbones.class_rows import ClassRows, Taken, matched, take_over

THEIRS, MINE = ["daisy", "rose", "tulip"], ["tulip", "lily", "daisy", "oak"]


class Toy(nn.Module):
    """A stem and one layer of each form that rows of classes come in."""

    def __init__(self, classes, *, forms=(), width=4):
        super().__init__()
        self.stem = nn.Linear(width, 5)
        self.forms = dict(forms)
        for name, rows in self.forms.items():
            count = rows.groups * (rows.background + classes) * rows.each
            setattr(self, name, nn.Conv2d(5, count, 1))
        self.register_buffer("anchors", torch.rand(2))

    def class_layers(self):
        return self.forms


FORMS = {
    "plain": ClassRows(),
    "grid": ClassRows(groups=3),
    "scores": ClassRows(background=True),
    "ssd": ClassRows(groups=2, background=True),
    "boxes": ClassRows(groups=2, background=True, each=4),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_go_by_name_and_all_else_as_it_is(form):
    rows = FORMS[form]
    torch.manual_seed(0)
    old, new = (Toy(len(names), forms={form: rows}) for names in (THEIRS, MINE))
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    taken = take_over(new, old.state_dict(), THEIRS, MINE)
    assert taken == Taken(("tulip", "daisy"), ("lily", "oak"), ("rose",), ())
    assert str(taken) == "2 classes kept by name, 2 new: lily, oak; dropped: rose"
    assert torch.equal(new.stem.weight, old.stem.weight)
    assert torch.equal(new.anchors, fresh["anchors"]), "the architecture's own"
    none = ["background"] * rows.background
    there, here = [*none, *THEIRS], [*none, *MINE]
    for part in ("weight", "bias"):
        mine, theirs, before = (state[f"{form}.{part}"] for state in (new.state_dict(), old.state_dict(), fresh))
        places = itertools.product(range(rows.groups), here, range(rows.each))
        for row, (group, name, each) in enumerate(places):
            if name in there:
                expected = theirs[(group * len(there) + there.index(name)) * rows.each + each]
            else:
                expected = before[row]
            assert torch.equal(mine[row], expected), (name, part)
        assert row == len(mine) - 1


def test_a_background_that_only_one_of_them_has_is_no_class():
    """Published heads score 91 classes, the first of which is none."""
    torch.manual_seed(0)
    old, new = Toy(3, forms={"scores": ClassRows(background=True)}), Toy(4, forms={"scores": ClassRows()})
    take_over(new, old.state_dict(), THEIRS, MINE)
    assert torch.equal(new.scores.weight[[0, 2]], old.scores.weight[[3, 1]])
    back = Toy(3, forms={"scores": ClassRows(background=True)})
    none = back.scores.weight[0].clone()
    take_over(back, new.state_dict(), MINE, THEIRS)
    assert torch.equal(back.scores.weight[[1, 3]], new.scores.weight[[2, 0]])
    assert torch.equal(back.scores.weight[0], none)


def test_layers_of_other_shapes_start_anew_and_are_told():
    old, new = (
        Toy(3, forms={"a": ClassRows(), "b": ClassRows(groups=2)}),
        Toy(3, forms={"a": ClassRows(groups=2)}, width=7),
    )
    taken = take_over(new, old.state_dict(), THEIRS, THEIRS)
    assert taken == Taken((), (), (), ("stem", "a"))
    assert str(taken) == "0 classes kept by name; layers that start anew: stem, a"


def test_a_model_that_names_no_class_layers():
    old, new, larger = Toy(3), Toy(3), Toy(3)
    assert take_over(new, old.state_dict(), THEIRS, THEIRS) == Taken(tuple(THEIRS), (), (), ())
    other = ["a", "b", "c"]
    assert str(take_over(new, old.state_dict(), THEIRS, other)).startswith("3 classes by position, for the model names")
    assert not take_over(larger, old.state_dict(), THEIRS, MINE).kept


def test_names_that_differ_in_case_alone_fit_where_only_one_does():
    for theirs, mine, pairs in (
        (["Rose", "oak"], ["oak ", "rose"], {0: 1, 1: 0}),
        (["Rose", "rose"], ["rose"], {0: 1}),  # the very name comes first
        (["Rose", "rose"], ["ROSE"], {}),  # and no guess is made
        (["rose"], ["Rose", "rose"], {1: 0}),
        (["", "rose"], ["", "rose"], {1: 1}),
        ([], ["rose"], {}),
    ):
        assert matched(theirs, mine) == pairs, (theirs, mine)
