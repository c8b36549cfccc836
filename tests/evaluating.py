"""A model evaluated on a dataset, as training does."""

from rich.console import Console

from detseg.tasks import part
from detseg.train.config import config_for


def evaluate(task, model, dataset, size, **options):
    """Metrics of all images of a dataset, and what a run keeps of the predictions, in order."""
    config = config_for(task)(size=size, **options)
    metric, kept = part(task, "train")(config, Console(quiet=True)).evaluate(model, dataset, range(len(dataset)))
    return metric.compute(), [kept[i] for i in range(len(dataset))]
