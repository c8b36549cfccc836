"""Training options: the dataclass of a task is its command line and the content of `config.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from detseg.options import given, option

SETTINGS = "config.json"
# Settings of how labelled images are divided, where they are not.
OF_DIVISION = ("split", "split_seed")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of all tasks."""

    task: ClassVar[str]
    """Name of the task, as in `detseg train TASK` and `runs/TASK-1`."""
    smallest_size: ClassVar[int] = 64
    """Smallest allowed `size`, in pixels."""

    data: Path | None = None
    """Data set with a training and a validation split: a folder or file."""
    train: Path | None = None
    """Training data, with --val, in place of --data."""
    val: Path | None = None
    """Validation data, with --train, in place of --data."""
    output: Path | None = None
    """Run folder; by default the next free one, runs/TASK-1, runs/TASK-2, …."""
    backbone: str = "tf_efficientnet_lite0"
    """Backbone: a name listed by `detseg backbones`."""
    weights: str = "pretrained"
    """Initial weights of the backbone: pretrained (ImageNet), none (random), or a file."""
    size: int = 320
    """Input size: side of the square that images are fitted into, in pixels; a multiple of 32."""
    epochs: int | None = None
    """Number of epochs; by default 30, unless --minutes is given."""
    minutes: float | None = None
    """Training time in minutes, in place of --epochs; the schedule ends on time."""
    batch_size: int = 8
    """Images per batch, per process."""
    accumulate: int = 1
    """Gradient accumulation: batches per optimizer step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimizer."""
    lr: float | None = None
    """Peak learning rate of the newly added layers; by default 0.001 (for sgd try 0.01)."""
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
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Training precision; auto times both at the start and takes the faster."""
    seed: int = 0
    """Random seed; the same seed on the same machine gives the same weights."""
    workers: int | None = None
    """Data-loading processes; by default 0 on CPU (they would compete with training), up to 8 with a GPU."""
    resume: Path | None = None
    """Resume an interrupted run from this folder; all other settings come from there."""

    def check(self) -> Self:
        """Raise ValueError where settings contradict each other or make no sense; returns itself."""
        if self.resume is not None:
            changed = [f.name for f in fields(self) if f.name != "resume" and getattr(self, f.name) != f.default]
            if changed:
                raise ValueError(
                    f"--resume takes all settings from the run; leave out {', '.join(option(n) for n in changed)}"
                )
            return self
        if (self.data is None) == (self.train is None and self.val is None):
            raise ValueError("give the data either as --data or as --train and --val")
        if self.data is None and (self.train is None or self.val is None):
            raise ValueError("--train and --val belong together: one is missing")
        least = self.smallest_size
        if self.size < least or self.size % 32:
            near = max(least, round(self.size / 32) * 32)
            raise ValueError(f"--size must be a multiple of 32 and at least {least}, not {self.size}; {near} is near")
        if self.epochs is not None and self.minutes is not None:
            raise ValueError("give --epochs or --minutes, not both")
        self._require_positive("epochs", "minutes", "batch_size", "accumulate", "lr", "backbone_lr", "stage_decay")
        for name in ("weight_decay", "freeze", "seed", "workers"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str) and not 0 <= value < float("inf"):
                raise ValueError(f"{option(name)} must not be negative, it is {value}")
        return self

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{option(name)} must be positive, not {value}")

    def _require_rising_strides(self, strides: tuple[int, ...]) -> None:
        if not strides or strides[0] < 1 or any(a >= b for a, b in pairwise(strides)):
            good = " ".join(map(str, sorted({stride for stride in strides if stride > 0}) or (8, 16, 32)))
            raise ValueError(
                f"--strides are positive and rise, the finest first, not {' '.join(map(str, strides))}; {good} do"
            )

    def save(self, folder: Path) -> None:
        """Write `config.json`, with absolute paths: the run may be resumed from another working directory.

        Raises:
            FileExistsError: it is there already.
        """
        settings = {n: v for n, v in asdict(self).items() if n != "resume"}
        content = {n: str(v.absolute()) if isinstance(v, Path) else v for n, v in settings.items()}
        text = json.dumps({"task": self.task, **content}, indent=2) + "\n"
        with (folder / SETTINGS).open("x", encoding="utf-8") as file:
            file.write(text)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `config.json` of a run; raises ValueError when it is missing, of another task or not of this version."""
        path = folder / SETTINGS
        if not path.is_file():
            raise ValueError(f"{folder}: there is no run to resume here (config.json is missing)")
        try:
            content: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
            task = content.pop("task", cls.task)  # older runs do not tell
            unknown = set(content) - {f.name for f in fields(cls)}
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not the settings of a run ({error})") from error
        if task != cls.task:
            raise ValueError(
                f"{folder}: this is the run of a {task}; resume it with detseg train {task} --resume {folder}"
            )
        if unknown:
            raise ValueError(
                f"{path}: unknown settings {', '.join(sorted(unknown))}; was it written by another version?"
            )
        content = {n: tuple(v) if isinstance(v, list) else v for n, v in content.items()}
        for name in ("data", "train", "val", "output", "start_from", "images"):
            if content.get(name) is not None:
                content[name] = Path(content[name])
        return cls(**content)


@dataclass(frozen=True, kw_only=True)
class TrainAnnotated(TrainConfig):
    """Options of tasks that learn from annotated objects or pixels."""

    images: Path | None = None
    """Folder of the images, where they are not beside the COCO or VOC annotations."""
    val_share: float | None = None
    """Fraction of --data used for validation, such as 0.2, if --data has no splits; the same images in every run."""
    repair: bool = False
    """Repair what is safe to repair in the annotations, and list it; otherwise errors stop."""

    def check(self) -> Self:
        """Raise ValueError where settings contradict each other or make no sense; returns itself."""
        super().check()
        if self.val_share is not None:
            if not 0 < self.val_share < 1:
                raise ValueError(f"--val-share is a share above 0 and below 1, such as 0.2, not {self.val_share}")
            if self.data is None and self.resume is None:
                raise ValueError("--val-share divides --data; leave it out where --val is given")
        return self


@dataclass(frozen=True, kw_only=True)
class TrainDetector(TrainAnnotated):
    """Train an object detector on your own annotated images.

    Data: --data with a training and a validation split (COCO, VOC, YOLO, or an HDF5 file of `detseg pack`), or --train
    and --val. The run folder receives the model, metrics, plots and an HTML report.

    Train for 30 minutes, resume after an interruption, train YOLOv2's single grid:

        detseg train detector --data flowers/ --minutes 30 --output runs/flowers
        detseg train detector --resume runs/flowers
        detseg train detector --data flowers/ --strides 32 --anchors 5 --reach 0.5
    """

    task: ClassVar[str] = "detector"

    strides: tuple[int, ...] = (8, 16, 32)
    """Strides of the output grids in pixels, finest first."""
    anchors: int = 3
    """Anchors per stride; their sizes are fitted to the training boxes by k-means."""
    reach: float = 1.0
    """Largest distance of an object's centre from a cell's centre, in cells; 0.5: only the cell that contains it."""
    mosaic: float = 0.0
    """Fraction of training images that are mosaics of four; off in the last 30 % of the run."""
    mixup: float = 0.0
    """Fraction of training images blended with another one; off in the last 30 % of the run."""

    def check(self) -> Self:
        """Raise ValueError where settings contradict each other or make no sense; returns itself."""
        super().check()
        self._require_positive("anchors")
        self._require_rising_strides(self.strides)
        if not self.reach >= 0.5:
            raise ValueError(f"--reach must be at least 0.5, the cell itself, not {self.reach}")
        for name in ("mosaic", "mixup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{option(name)} is a share between 0 and 1, not {getattr(self, name)}")
        return self


@dataclass(frozen=True, kw_only=True)
class TrainSegmenter(TrainAnnotated):
    """Train a semantic segmenter (a class for every pixel) on your own images with masks.

    Data: --data with a training and a validation split (images/ and masks/, VOC, COCO JSON with polygons, or an HDF5
    file of `detseg pack`), or --train and --val. The run folder receives the model, metrics, plots and an HTML report.

    Train for 30 minutes; small objects or rare classes; FCN-32s first, then FCN-8s from it:

        detseg train segmenter --data flowers/ --minutes 30
        detseg train segmenter --data flowers/ --decoder pyramid --loss ce+dice
        detseg train segmenter --data flowers/ --strides 32 --output runs/fcn32s
        detseg train segmenter --data flowers/ --start-from runs/fcn32s
    """

    task: ClassVar[str] = "segmenter"

    size: int = 256
    """Input size: side of the square that images are fitted into, in pixels; a multiple of 32."""
    masks: str | None = None
    """Name of the mask folder beside images/ (or JPEGImages/); by default masks (or SegmentationClass)."""
    ignore_value: int | None = None
    """Mask value to ignore in loss and metrics; by default 255, or as the class list says."""
    decoder: Literal["fcn", "pyramid"] = "fcn"
    """Decoder: fcn (FCN-8s) or pyramid (feature pyramid down to stride 4)."""
    strides: tuple[int, ...] | None = None
    """Strides of the feature maps used; by default 8 16 32 (FCN-8s), for pyramid 4 8 16 32; 32 alone is FCN-32s."""
    atrous: bool = False
    """Dilated (atrous) convolutions in the last backbone stage: same weights, a map twice as fine, slower."""
    learn_upsampling: bool = False
    """Learn the transposed convolutions of fcn, which start as bilinear interpolation; otherwise they stay fixed."""
    loss: str = "ce"
    """Loss: ce (cross-entropy), dice, focal, or a sum such as ce+dice."""
    balance: bool = False
    """Weight classes by inverse frequency (median frequency balancing)."""
    start_from: Path | None = None
    """Run of a coarser FCN (--strides 32 or 16 32) to start from; new skip connections start at zero."""
    repair: bool = False
    """Leave out images and masks that cannot be used, and list them; otherwise errors stop."""

    def check(self) -> Self:
        """Raise ValueError where settings contradict each other or make no sense; returns itself."""
        super().check()
        if self.start_from is not None and self.decoder != "fcn":
            raise ValueError("--start-from is for --decoder fcn, whose coarser forms are parts of the finer ones")
        if self.learn_upsampling and self.decoder != "fcn":
            raise ValueError("--learn-upsampling is for --decoder fcn: the other has no kernels of upsampling to learn")
        self._require_rising_strides(self.used_strides)
        *others, last = self.used_strides
        if self.atrous and last // 2 in others:
            left = " ".join(str(stride) for stride in (*others, last) if stride != last // 2)
            raise ValueError(
                f"--atrous makes the map of stride {last} one of stride {last // 2}, which --strides has already; give "
                f"--strides {left}"
            )
        from detseg.segment.losses import parse_loss

        parse_loss(self.loss)
        return self

    @property
    def used_strides(self) -> tuple[int, ...]:
        """`strides`, or what is usual for the decoder."""
        if self.strides is not None:
            return self.strides
        finest = (8,) if self.decoder == "fcn" else (4, 8)
        # The last stage of an atrous network takes the place of the map of stride 16.
        return (*finest, 32) if self.atrous else (*finest, 16, 32)


@dataclass(frozen=True, kw_only=True)
class TrainClassifier(TrainConfig):
    """Train an image classifier: one class per image.

    Data: --data (a folder per class, a CSV table, or an HDF5 file of `detseg pack`; split automatically if it has no
    splits), or --train and --val. By default the training strategy is chosen by the number of images and their
    similarity to ImageNet, and printed.

    Train for 30 minutes; train only a linear layer, in seconds; train LeNet-5 from scratch:

        detseg train classifier --data species/ --minutes 30
        detseg train classifier --data species/ --strategy probe
        detseg train classifier --data species/ --backbone lenet5 --weights none --size 32 --epochs 50
    """

    task: ClassVar[str] = "classifier"
    smallest_size: ClassVar[int] = 32

    size: int = 192
    """Input size: side of the square crop, in pixels; a multiple of 32."""
    batch_size: int = 16
    """Images per batch, per process."""
    images: Path | None = None
    """Folder of the images that a CSV table names, where they are not beside it."""
    split: tuple[float, ...] = (0.75, 0.15, 0.10)
    """Fractions of training, validation and test images, if the data have no splits."""
    split_seed: int = 0
    """Random seed of that split."""
    strategy: Literal["auto", "probe", "partial", "finetune", "full", "scratch"] = "auto"
    """probe: a linear layer only; partial: later stages too; finetune: all, early stages slowly; full, scratch: all."""
    head: Literal["first", "together"] | None = None
    """Solve the head on frozen features first, or train all together. By default first if pretrained."""
    views: int = 2
    """Views per image on which the head is solved: centre crop, its mirror image, then augmented ones."""
    augment: tuple[str, ...] | None = None
    """Of patch*, scale, flip, flip-vertical*, rotate, zoom*, warp, light, colour, blur, noise (*: off unless named)."""
    dropout: float = 0.2
    """Dropout before the last layer."""
    label_smoothing: float = 0.1
    """Label smoothing."""
    repair: bool = False
    """Leave out images that have errors, and list them; otherwise errors stop."""
    ten_crop: bool = False
    """Evaluate on the average of ten crops (corners and centre, and mirrored): ten times slower."""

    def check(self) -> Self:
        """Raise ValueError where settings contradict each other or make no sense; returns itself."""
        super().check()
        self._require_positive("views")
        if self.data is None and self.resume is None and (asked := ", ".join(given(self, OF_DIVISION))):
            raise ValueError(f"{asked}: for --data that are not divided; leave it out where --val is given")
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{option(name)} is a share of at least 0 and below 1, not {getattr(self, name)}")
        if self.weights == "none" and self.strategy not in ("auto", "scratch"):
            raise ValueError(f"--strategy {self.strategy} builds on trained weights; leave out --weights none")
        return self


@dataclass(frozen=True, kw_only=True)
class TrainLocalizer(TrainAnnotated):
    """Train a localizer: the class and box of the one object in each image.

    Data: as for `detseg train detector`. Of several objects in an image the largest counts.

    Train for 30 minutes; use only images with exactly one object:

        detseg train localizer --data flowers/ --minutes 30
        detseg train localizer --data flowers/ --objects single

    Also predict whether there is an object, to slide over images later:

        detseg windows --data flowers/ --output windows
        detseg train localizer --data windows --objectness --size 128 --zoom 1 1
    """

    task: ClassVar[str] = "localizer"

    size: int = 224
    """Input size: side of the square that images are fitted into, in pixels; a multiple of 32."""
    batch_size: int = 16
    """Images per batch, per process."""
    objects: Literal["largest", "single"] = "largest"
    """Use the largest object of each image, or only images with a single object (or none, with --objectness)."""
    objectness: bool = False
    """Also predict whether there is an object; otherwise images without objects are left out."""
    loss: Literal["mse", "smooth_l1", "giou", "ciou"] = "giou"
    """Box loss: on the four numbers (mse, smooth_l1) or on the overlap (giou, ciou)."""
    square_root: bool = True
    """Predict square roots of width and height: errors on small boxes weigh more."""
    loss_weights: tuple[float, float] = (0.8, 0.2)
    """Weights of the class loss and the box loss."""
    multi_scale: bool = False
    """Multi-scale training: also train at smaller input sizes."""
    zoom: tuple[float, float] = (0.6, 1.4)
    """Smallest and largest random zoom; use 1 1 for windows cut by `detseg windows`."""

    def check(self) -> Self:
        """Raise ValueError where settings contradict each other or make no sense; returns itself."""
        super().check()
        low, high = self.zoom
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"--zoom is the smallest and the largest factor, both positive, not {low} {high}")
        return self
