"""Training options: a task's dataclass, with the options of the model, is its command line and `config.json`.

`config_for("detector", "yolo")` gives that dataclass; ``TrainDetector`` and so on are those of the default models.
"""

import errno
import json
import os
from dataclasses import asdict, dataclass, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from detseg.data.augment.strengths import OF_BOXES, strengths
from detseg.data.tar_shards import absolute
from detseg.files import write_atomically
from detseg.json_text import as_declared, parse_json, read_bytes
from detseg.options import as_entries, given, option, require_positive
from detseg.reading import FileError
from detseg.registry import MODELS
from detseg.tasks import TASKS, part
from detseg.train.callbacks.trackers import TRACKERS

SETTINGS = "config.json"
# Where that lists how the run was extended, see `detseg.train.extension`.
EXTENSIONS = "extensions"
# Options of going on with a run, which are none of the run, and those of a process, which may differ when it goes on.
_OF_RESUMING = ("resume", "more_epochs", "more_minutes")
OF_PROCESS = ("device",)
# Beyond, memory ends before anything begins; of seeds, that of NumPy's generators.
_MOST = {"size": 8192, "channels": 10_000, "batch_size": 1_000_000, "workers": 1000, "seed": 2**32 - 1}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What is the same for all tasks."""

    task: ClassVar[str]
    """Name of the task, as in `detseg train TASK` and `runs/TASK-1`."""
    smallest_size: ClassVar[int] = 64
    """Smallest allowed `size`, in pixels."""

    data: Path | None = None
    """Data set with a training and a validation split: a folder, a file, or a pattern of shards."""
    train: Path | None = None
    """Training data, with --val, in place of --data."""
    val: Path | None = None
    """Validation data, with --train, in place of --data."""
    output: Path | None = None
    """Run folder; by default the next free one, runs/TASK-1, runs/TASK-2, …."""
    model: str = ""
    """What to train, by name; each model adds options of its own: --model NAME --help."""
    backbone: str = "tf_efficientnet_lite0"
    """Backbone: a name listed by `detseg backbones`."""
    weights: str = "pretrained"
    """Initial weights: pretrained (ImageNet) or none (random) for the backbone, a file for it, coco (a published
    detector), or the folder of an earlier run: all of it where it trained the same model, classes matched by name."""
    only_backbone: bool = False
    """Of the weights of a run or of coco take the backbone alone; all else is new."""
    size: int = 320
    """Input size: side of the square that images are fitted into, in pixels; a multiple of 32."""
    channels: int = 3
    """Channels of the images: 3 (RGB), 1 (grey), or the number of bands of TIFF files."""
    normalise: Literal["backbone", "dataset"] = "backbone"
    """Mean and standard deviation to normalise images with: those of the backbone's pretraining, or of your images."""
    epochs: int | None = None
    """Number of epochs; by default 30, unless --minutes is given."""
    minutes: float | None = None
    """Training time in minutes, in place of --epochs; the schedule ends on time."""
    patience: int | None = None
    """Early stopping: end the run after this many validations without a better figure; there are 5 to 10 in a run."""
    batch_size: int = 8
    """Images per batch, per process."""
    accumulate: int = 1
    """Gradient accumulation: batches per optimizer step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimizer."""
    lr: float | None = None
    """Peak learning rate of all but the backbone; by default 0.001 (for sgd try 0.01), of a head that is trained
    already 0.0001."""
    find_lr: bool = False
    """Run a learning-rate finder before training and use its rate as --lr; plot: learning_rate.png."""
    backbone_lr: float | None = None
    """Learning-rate multiplier for the backbone; by default 0.1."""
    stage_decay: float | None = None
    """Layer-wise learning-rate decay: multiplier per backbone stage, counted from the last; by default 1."""
    weight_decay: float = 0.01
    """Weight decay; not applied to norm layers or biases."""
    schedule: Literal["cosine", "onecycle"] = "cosine"
    """Learning-rate schedule."""
    freeze: int | Literal["all", "none"] | None = None
    """Backbone stages to freeze, from the stem on; or all, none. By default chosen by the number of images."""
    multi_scale: bool = True
    """Multi-scale training: vary the input size from 60 % of --size upwards in the first 70 % of the run."""
    flip: Literal["none", "horizontal", "vertical", "both"] = "horizontal"
    """Mirror training images at random; none where left and right differ: text, hands, arrows."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Training precision; auto times both at the start and takes the faster."""
    seed: int = 0
    """Random seed; the same seed on the same machine gives the same weights."""
    device: str = "auto"
    """Device: auto (a GPU if there is one), cpu, cuda, cuda:1 (or 1), mps, …; several, 0,1, need several processes."""
    log: tuple[str, ...] = ("tensorboard",)
    """Trackers that log the run: tensorboard, mlflow, wandb."""
    workers: int | None = None
    """Data-loading processes; by default 0 on CPU (they would compete with training), up to 8 with a GPU."""
    resume: Path | None = None
    """Resume an interrupted run from this folder; all other settings come from there."""
    more_epochs: int | None = None
    """With --resume: go on for this many epochs, on a new schedule; also with a run that has ended."""
    more_minutes: float | None = None
    """With --resume: the same for this many minutes."""

    def check(self) -> Self:
        """Raise ValueError where settings contradict each other or make no sense; returns itself."""
        require_positive(self, "more_epochs", "more_minutes")
        if self.more_epochs is not None and self.more_minutes is not None:
            raise ValueError("give --more-epochs or --more-minutes, not both")
        if self.resume is not None:
            own = (*_OF_RESUMING, *OF_PROCESS)
            changed = [f.name for f in fields(self) if f.name not in own and getattr(self, f.name) != f.default]
            if changed:
                raise ValueError(
                    f"--resume takes all settings from the run; leave out {', '.join(option(n) for n in changed)}"
                )
            return self
        for name in self.log:
            TRACKERS[name]  # raises where there is none of the name
        if asked := given(self, _OF_RESUMING):
            raise ValueError(f"{', '.join(asked)}: goes on with a run; name it by --resume")
        if (self.data is None) == (self.train is None and self.val is None):
            raise ValueError("give the data either as --data or as --train and --val")
        if self.data is None and (self.train is None or self.val is None):
            raise ValueError("--train and --val belong together: one is missing")
        least = self.smallest_size
        if self.size is not None and (self.size < least or self.size % 32):
            near = max(least, round(self.size / 32) * 32)
            raise ValueError(f"--size must be a multiple of 32 and at least {least}, not {self.size}; {near} is near")
        if self.only_backbone and self.weights in ("pretrained", "none"):
            raise ValueError(
                f"--only-backbone is for --weights of a run or coco; {self.weights} is of the backbone alone"
            )
        if self.epochs is not None and self.minutes is not None:
            raise ValueError("give --epochs or --minutes, not both")
        require_positive(
            *(self, "channels", "epochs", "minutes", "patience", "batch_size", "accumulate"),
            *("lr", "backbone_lr", "stage_decay"),
        )
        for name in ("weight_decay", "freeze", "seed", "workers"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str) and not 0 <= value < float("inf"):
                raise ValueError(f"{option(name)} must not be negative, it is {value}")
        for name, most in _MOST.items():
            if (getattr(self, name) or 0) > most:
                raise ValueError(f"{option(name)} must be at most {most}, not {getattr(self, name)}")
        self.check_model()
        return self

    def check_model(self) -> None:
        """Raise ValueError where the options of the model make no sense; a model with options has its own."""

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Options as they are today, of those that an earlier version saved."""
        return content

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled as what makes the class of these options, of which there is one for each model.
        return _made, (self.task, self.model, {field.name: getattr(self, field.name) for field in fields(self)})

    def save(self, folder: Path) -> None:
        """Write `config.json`, with absolute paths: the run may be resumed from another working directory.

        Raises:
            FileExistsError: it is there already.
        """
        settings = {n: v for n, v in asdict(self).items() if n not in (*_OF_RESUMING, *OF_PROCESS)}
        content = {n: str(absolute(v)) if isinstance(v, Path) else v for n, v in settings.items()}
        text = json.dumps({"task": self.task, **content}, indent=2) + "\n"
        path = folder / SETTINGS
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        write_atomically(path, text)

    @classmethod
    def load(cls, folder: Path) -> Any:
        """The options of a run of this task; see `load_config`."""
        config = load_config(folder, cls.task)
        if config.task != cls.task:
            raise ValueError(
                f"{folder}: this is the run of a {config.task}; resume it with detseg train {config.task} "
                f"--resume {folder}"
            )
        return config


@dataclass(frozen=True, kw_only=True)
class TrainAnnotated(TrainConfig):
    """What is the same for all that learn from annotations of objects or pixels."""

    images: Path | None = None
    """Folder of the images, where they are not found beside the annotations or masks."""
    val_share: float | None = None
    """Fraction of --data used for validation, such as 0.2, if --data has no splits; the same images in every run."""
    repair: bool = False
    """Repair what is safe to repair in the annotations, and list it; otherwise errors stop."""
    augment: tuple[str, ...] | None = None
    """Strengths, such as rotate=10 zoom=1.1, of zoom, aspect, rotate, light, colour, blur, noise. 0 switches one off;
    names without a number leave those alone on."""

    def check(self) -> Self:
        """Raise ValueError where settings contradict each other or make no sense; returns itself."""
        super().check()
        strengths(self.augment or (), OF_BOXES)
        if self.val_share is not None:
            if not 0 < self.val_share < 1:
                raise ValueError(f"--val-share is a share above 0 and below 1, such as 0.2, not {self.val_share}")
            if self.data is None and self.resume is None:
                raise ValueError("--val-share divides --data; leave it out where --val is given")
        return self


def load_config(folder: Path, task: str | None = None) -> Any:
    """Read `config.json` of a run, with the options of its model.

    Args:
        folder: of the run.
        task: of runs that do not name theirs, as early ones.

    Raises:
        FileError: it is missing or not of this version, an entry is of another type, or entries contradict each other.
    """
    path = folder / SETTINGS
    content = read_settings(folder)
    content.pop(EXTENSIONS, None)
    tasks: Any = Literal[tuple(TASKS)]
    task = as_declared(content.pop("task", task), tasks, f"{path}: task")
    model = as_declared(content.get("model"), str | None, f"{path}: model")
    try:
        kind = config_for(str(task), model)
        content = kind.upgraded(content)
        if unknown := set(content) - {f.name for f in fields(kind)} | content.keys() & _OF_RESUMING:
            raise ValueError(f"unknown settings {', '.join(sorted(unknown))}; was it written by another version?")
        return as_declared(content, kind, path).check()
    except FileError:
        raise
    except ValueError as error:
        raise FileError(f"{path}: {as_entries(str(error))}") from error


def read_settings(folder: Path) -> dict[str, Any]:
    """What `config.json` of a run holds; raises FileError where it is missing or cannot be read."""
    path = folder / SETTINGS
    if not path.is_file():
        raise FileError(f"{folder}: there is no run to resume here ({SETTINGS} is missing)")
    content = parse_json(read_bytes(path), path, of_paths=True)
    return dict(as_declared(content, dict[str, Any], path, "it is the settings of a run, as detseg train wrote them"))


def require_same_options(before: Any, now: Any, folder: Path) -> None:
    """Raise ValueError where options differ from those that the run in a folder has.

    Those that are left open may have been filled in.

    Args:
        before: options of the run.
        now: options that are given.
        folder: of the run, for the message.
    """
    for field in (field for field in fields(now) if field.name not in (*_OF_RESUMING, *OF_PROCESS)):
        old, new = getattr(before, field.name, None), getattr(now, field.name)
        new = absolute(new) if isinstance(new, Path) else new  # as they are saved
        if old != new and new is not None:
            name = option(field.name)
            raise ValueError(f"{folder}: was trained with {name} {old}, not {new}; give another --output")


def config_for(task: str, model: str | None = None) -> type[Any]:
    """The options of a task together with those of a model, as one dataclass.

    Args:
        task: a key of `detseg.tasks.TASKS`.
        model: a name of `detseg.models`; by default the task's own.

    Raises:
        ValueError: there is no such model, or it is of another task.
    """
    import detseg.models  # noqa: F401  # registers the models

    return _config_for(task, model or part(task, "train").Options.model)


def _made(task: str, model: str, options: dict[str, Any]) -> Any:
    return config_for(task, model)(**options)


@cache
def _config_for(task: str, name: str) -> type[Any]:
    base = part(task, "train").Options
    chosen, wanted = MODELS[name], TASKS[task].models
    if chosen.task != wanted:
        fitting = ", ".join(n for n, m in MODELS.items() if m.task == wanted)
        raise ValueError(f"--model {name} is no {task}; detseg train {task} takes {fitting}")
    bases = (chosen.Options, base) if hasattr(chosen, "Options") else (base,)
    default = [("model", str, name)] if name != base.model else []
    kind = make_dataclass(f"Train{task.capitalize()}", default, bases=bases, frozen=True, kw_only=True)
    kind.__doc__, kind.__module__ = base.__doc__, __name__
    return kind


def __getattr__(name: str) -> type[Any]:
    # TrainDetector and its siblings: the options of each task with its default model.
    for task in TASKS:
        if name == f"Train{task.capitalize()}":
            return config_for(task)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
