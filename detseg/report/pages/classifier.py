"""The page of a classifier's run."""

from typing import Any, ClassVar

import numpy as np

from detseg.data.augment.classification_transforms import ClassificationEval
from detseg.report.pages.base import RunPage
from detseg.report.pictures import SHOWN
from detseg.report.tables import classification
from detseg.visualize import contact_sheet
from detseg.visualize.text import Image


class ClassifierPage(RunPage):
    """The worst mistakes, accuracy by class and the confusion matrix of images."""

    title = "Classifier"
    predicts = "prints the class of an image"
    usage = """\
(seen,) = model.predict(["image.jpg"])
print(model.names[seen.labels[0]], seen.scores[0])  # the likeliest class and its probability; then the others
"""
    worst_caption = "validation images, the likeliest class of each, the worst mistakes first"
    class_plot = "class_accuracy.png"
    tables: ClassVar[Any] = classification

    def facts(self) -> dict[str, Any]:
        """The strategy."""
        return {"Strategy": self.run.config.strategy}

    def draw_samples(self, samples: list[Any]) -> Image:
        """Training images over their classes."""
        names = self.run.train.labelled.names
        return contact_sheet([image for image, _ in samples], 4, captions=[names[label] for _, label in samples])

    def draw_worst(self) -> Image:
        """The images whose own class got the lowest probability."""
        predictions = np.asarray(self.run.predictions)
        labels, names = self.run.val.labelled.labels, self.run.val.labelled.names
        own = predictions[np.arange(len(labels)), labels]
        chosen = np.argsort(own, kind="stable")[:SHOWN].tolist()
        captions = []
        for i in chosen:
            guess = int(predictions[i].argmax())
            wrong = "" if guess == labels[i] else f" — is {names[labels[i]]}: {own[i]:.0%}"
            captions.append(f"{names[guess]}: {predictions[i, guess]:.0%}{wrong}")
        cut = ClassificationEval(self.run.config.size)
        return contact_sheet([cut(self.run.val.images[i]) for i in chosen], 4, captions=captions)
