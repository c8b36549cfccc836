"""What to learn of a trained network, by how many new images there are and how much they look like the old ones.

The four classic cases of transfer learning (Yosinski et al. 2014, arXiv:1411.1792; Stanford's CS231n notes):

                 like the old images              unlike them
    few          probe: a linear layer only         partial: early stages stay
    many         finetune: all, early ones slowly   full: all, at the full rate
"""

from dataclasses import dataclass

from detseg.classify.similarity import Similarity

# Training images a class from which on there are many: a rule of thumb, docs/results.md has both sides of it.
MANY = 20
# Similarity from which on images are alike: between photos and drawings or letters, see docs/classify.md.
ALIKE = 0.94


@dataclass(frozen=True)
class Strategy:
    """How to transfer.

    Attributes:
        name: of the case.
        frozen: share of the backbone's stages, from the stem on, that keep their weights.
        head_first: the head is solved on the features as they are, before anything else learns.
        lr: highest learning rate of the head.
        backbone_lr: factor on the backbone's learning rate.
        stage_decay: further factor for each stage before the last.
    """

    name: str
    frozen: float
    head_first: bool
    lr: float
    backbone_lr: float
    stage_decay: float


STRATEGIES = {
    "probe": Strategy("probe", 1.0, True, 1e-3, 0.1, 1.0),
    "partial": Strategy("partial", 0.5, True, 3e-4, 0.3, 0.7),
    "finetune": Strategy("finetune", 0.0, True, 3e-4, 0.3, 0.5),
    "full": Strategy("full", 0.0, True, 3e-4, 1.0, 1.0),
    "scratch": Strategy("scratch", 0.0, False, 2e-3, 1.0, 1.0),
}


def choose_strategy(images: int, classes: int, similarity: Similarity | None) -> tuple[Strategy, str]:
    """The strategy for a set, and why, in a sentence.

    Args:
        images: to train on.
        classes: number of classes.
        similarity: of the images to those that the network was trained on; None where it cannot be measured, which
            counts as alike.
    """
    each = images / classes
    many = each >= MANY
    alike = similarity is None or similarity.value >= ALIKE
    name = ("finetune" if alike else "full") if many else ("probe" if alike else "partial")
    amount = f"{each:.0f} images a class are {'many' if many else 'few'} (from {MANY} on)"
    if similarity is None:
        looks = "how much they look like those of the pretraining is not known, without batch norms that remember it"
    else:
        looks = (
            f"they are {'like' if alike else 'unlike'} those of the pretraining: the overlap with what its batch norms "
            f"remember is {similarity.value:.2f} (alike from {ALIKE:g} on)"
        )
    return STRATEGIES[name], f"{amount}; {looks}"
