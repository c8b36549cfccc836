"""`detseg demo`: the whole road on the embedded images, without any data of one's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SHOWN, COLUMNS = 12, 4  # validation images on the sheet of instances


@dataclass(frozen=True)
class Demo:
    """Draw annotated flower images, train a detector (or segmenter) on them, and show metrics and predictions.

    A quick look in a minute, the full demo, the same with a segmenter, and with a detector that finds masks:

        detseg demo --images 100 --minutes 0.5
        detseg demo
        detseg demo --task segmenter
        detseg demo --task instances
    """

    task: Literal["detector", "segmenter", "instances"] = "detector"
    """What to train: boxes around the flowers, the class of every pixel, or boxes and masks of single flowers."""

    output: Path = Path("runs/demo")
    """Folder for the images (data/) and the runs (detector-1, segmenter-1, instances-1, …)."""
    images: int = 400
    """Number of training images to draw; a quarter as many for validation."""
    minutes: float = 5.0
    """Training time in minutes."""
    seed: int = 0
    """Random seed of the images and the training."""


def run(config: Demo) -> int:
    """Draw, train, show; returns the exit code.

    Raises:
        ValueError: settings out of range, or the output folder holds something else.
    """
    from rich.progress import Progress

    from detseg.cli.terminal import Terminal
    from detseg.cli.train import run as run_training
    from detseg.console import print_line
    from detseg.flowers.dataset import write_flowers

    if config.images < 1:
        raise ValueError(f"--images must be at least 1, not {config.images}")
    data, output = config.output / "data", _free_folder(config.output, config.task)
    training = _training(config.task, data=data, output=output, minutes=config.minutes, seed=config.seed)
    console = Terminal(goes_on=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("drawing flowers", total=None)
        write_flowers(
            data,
            train=config.images,
            val=max(1, config.images // 4),
            seed=config.seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print_line(console, f"flower images, drawn and annotated, are in {data}")
    code = run_training(training)
    if code == 0 and config.task == "instances":
        _draw_instances(output, data)
        print_line(console, f"instances found in validation images: {output / 'instances.jpg'}")
    return code


def _training(task: str, **settings: Any) -> Any:
    """The settings of the run of a task."""
    from detseg.train.config import config_for

    kinds: dict[str, tuple[str, str | None, dict[str, Any]]] = {
        "detector": ("detector", None, {}),
        "segmenter": ("segmenter", None, {"decoder": "pyramid"}),
        "instances": ("detector", "yolo", {"masks": True}),
    }
    kind, model, options = kinds[task]
    return config_for(kind, model)(**settings, **options).check()


def _draw_instances(run: Path, data: Path) -> None:
    """Write instances.jpg: what the detector of a run finds in the first validation images, each object coloured."""

    from detseg.data.formats import read_dataset
    from detseg.data.images import read_image, write_image
    from detseg.predict import Detector, load
    from detseg.visualize import contact_sheet, draw_boxes

    detector = load(run)
    assert isinstance(detector, Detector)
    images = [read_image(path) for path in read_dataset(data)["val"].paths[:SHOWN]]
    drawn = [
        draw_boxes(image, found["boxes"], found["labels"], detector.names, found["scores"], masks=found["masks"])
        for image, found in zip(images, detector.stream(images, run_lengths=True), strict=True)
    ]
    write_image(run / "instances.jpg", contact_sheet(drawn, COLUMNS))


def _free_folder(output: Path, name: str) -> Path:
    """The next of name-1, name-2, … that is not there."""
    number = 1
    while (output / f"{name}-{number}").exists():
        number += 1
    return output / f"{name}-{number}"
