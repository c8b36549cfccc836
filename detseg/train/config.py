"""What can be set when training; a task's dataclass is its command line and the content of `config.json`."""

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
    """What is the same for all tasks."""

    task: ClassVar[str]
    """What is trained, in a word: `detseg train TASK`, `runs/TASK-1`."""
    smallest_size: ClassVar[int] = 64
    """Of `size`, in pixels."""

    data: Path | None = None
    """Folder or file that holds both splits."""
    train: Path | None = None
    """Annotations to train on, instead of --data."""
    val: Path | None = None
    """Annotations to validate on, instead of --data."""
    output: Path | None = None
    """Run folder; by default the next free one of runs/."""
    backbone: str = "tf_efficientnet_lite0"
    """Feature network: a name from `detseg backbones`."""
    weights: str = "pretrained"
    """Where the backbone's weights come from: pretrained, none, or a file."""
    size: int = 320
    """Side of the square that images are fitted into, pixels; a multiple of 32."""
    epochs: int | None = None
    """How often to go through the training images; 30 unless --minutes is given."""
    minutes: float | None = None
    """Train for this long instead: the schedule ends on time."""
    batch_size: int = 8
    """Images a step (and process)."""
    accumulate: int = 1
    """Batches whose gradients are added up before a step: --batch-size 4 --accumulate 4 learns like 16, in the memory
    of 4; a segmenter not exactly so, as each batch's loss is a mean over its own labelled pixels."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Which optimiser."""
    lr: float | None = None
    """Highest learning rate of what is new; by default 0.001 (sgd wants about 0.01)."""
    find_lr: bool = False
    """Find --lr by a test of a few dozen steps with rising rates; its curve is written to learning_rate.png."""
    backbone_lr: float | None = None
    """Factor on it for the backbone; by default 0.1."""
    stage_decay: float | None = None
    """Further factor for each stage of the backbone before the last: 0.7 lets early stages learn slowly; by default
    1."""
    weight_decay: float = 0.01
    """Of kernels; norms and biases are never decayed."""
    schedule: Literal["cosine", "onecycle"] = "cosine"
    """How the learning rate runs."""
    freeze: int | Literal["all", "none"] | None = None
    """Stages of the backbone, from the stem on, that keep their weights; by default chosen by the number of
    images when the weights are pretrained, else none."""
    multi_scale: bool = True
    """Train at smaller sizes, from 60 % of --size up and another every 10 steps, in the first 70 % of the run."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of training; auto times both at the start and takes the faster."""
    seed: int = 0
    """Of everything random; the same seed on the same machine gives the same weights."""
    workers: int | None = None
    """Processes that augment images; by default none on a CPU, where they would compete with training."""
    resume: Path | None = None
    """Go on with an interrupted run: its folder. All other settings come from there."""

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
    """What is the same for all that learn from annotations of objects or pixels."""

    images: Path | None = None
    """Folder of the images that COCO or VOC annotations name, where they are not found beside these."""
    val_share: float | None = None
    """Share of the images that are validated on, 0.2 say, where --data is one set that is not divided; the same ones
    in every run."""
    repair: bool = False
    """Mend what is safely mendable in the annotations (and say what was done) instead of stopping."""

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

    Give the data as one path (--data: a folder or data.yaml with a training and a validation split, in COCO, VOC or
    YOLO form, or an HDF5 file of detseg pack) or as two (--train and --val). The run folder gets the model, curves,
    images and an HTML report.

    Half an hour on your own images, then go on after Ctrl-C or a crash:

        detseg train detector --data flowers/ --minutes 30 --output runs/flowers
        detseg train detector --resume runs/flowers
    """

    task: ClassVar[str] = "detector"

    strides: tuple[int, ...] = (8, 16, 32)
    """Pixels a cell of each level of the grid, finest first; 32 alone, with --anchors 5 and --reach 0.5, is YOLOv2."""
    anchors: int = 3
    """Anchors of each level; their shapes are fitted to the training boxes."""
    reach: float = 1.0
    """How far from its cell's centre an object's centre may lie, in cells; 0.5 is the cell itself."""
    mosaic: float = 0.0
    """Share of training images that are mosaics of four (none in the last 30 % of the run)."""
    mixup: float = 0.0
    """Share of training images, mosaics too, that have another one laid over them (none in the last 30 %)."""

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
    """Train a segmenter: the class of every pixel, from your own images with masks.

    Give the data as one path (--data: a folder with images/ and masks/, in VOC's form, or COCO JSON with outlines,
    with a training and a validation split, or an HDF5 file of detseg pack) or as two (--train and --val). By default
    the network is FCN-8s; --decoder pyramid also uses maps of stride 4.

    Half an hour; small things in few classes; FCN-32s first and FCN-8s from there:

        detseg train segmenter --data flowers/ --minutes 30
        detseg train segmenter --data flowers/ --decoder pyramid --loss ce+dice
        detseg train segmenter --data flowers/ --strides 32 --output runs/fcn32s
        detseg train segmenter --data flowers/ --start-from runs/fcn32s
    """

    task: ClassVar[str] = "segmenter"

    size: int = 256
    """Side of the square that images are fitted into, pixels; a multiple of 32."""
    masks: str | None = None
    """The folder of masks beside images/ (JPEGImages/), where it is not called masks (SegmentationClass)."""
    ignore_value: int | None = None
    """The value in mask files that counts for no class; by default 255, or what the list of classes says."""
    decoder: Literal["fcn", "pyramid"] = "fcn"
    """From features to classes: fcn is FCN-8s; pyramid fuses the features themselves, down to stride 4."""
    strides: tuple[int, ...] | None = None
    """Feature maps that are used, finest first; by default 8 16 32 (FCN-8s), for pyramid 4 8 16 32, with --atrous
    without 16. 16 32 is FCN-16s, 32 is FCN-32s."""
    atrous: bool = False
    """Keep the size of the map in the last stage, with dilated kernels: the same weights, twice as fine, slower."""
    learn_upsampling: bool = False
    """Let the transposed convolutions of fcn learn; they begin as bilinear interpolation, and stay so otherwise."""
    loss: str = "ce"
    """ce (cross-entropy), dice, focal, or several joined by +."""
    balance: bool = False
    """Weigh each class by the inverse of how many pixels it has (median frequency balancing)."""
    start_from: Path | None = None
    """Run of a coarser FCN (--strides 32 or 16 32) whose weights this one begins with; new skips begin at zero."""
    repair: bool = False
    """Leave out images and masks that cannot be used (and say which) instead of stopping."""

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
    """Train a classifier: one class an image.

    Give the data as one path (--data: class folders, a CSV table, an HDF5 file of detseg pack) or as two (--train and
    --val). What is not divided into training and validation is divided by rule. By default what is learnt, and how
    fast, is chosen by how many images there are and how much they look like ImageNet's, and it is told why.

    Half an hour; only a linear layer on the features of ImageNet, in seconds; LeNet-5's convolutions, from nothing:

        detseg train classifier --data species/ --minutes 30
        detseg train classifier --data species/ --strategy probe
        detseg train classifier --data species/ --backbone lenet5 --weights none --size 32 --epochs 50
    """

    task: ClassVar[str] = "classifier"
    smallest_size: ClassVar[int] = 32

    size: int = 192
    """Side of the square that is cut out of images, pixels; a multiple of 32."""
    batch_size: int = 16
    """Images a step (and process)."""
    images: Path | None = None
    """Folder of the images that a table names, where they are not beside it."""
    split: tuple[float, ...] = (0.75, 0.15, 0.10)
    """Shares of training, validation and test of data that are not divided."""
    split_seed: int = 0
    """Of that division."""
    strategy: Literal["auto", "probe", "partial", "finetune", "full", "scratch"] = "auto"
    """What learns: probe (a linear layer on ImageNet's features), partial (also the later half of the stages),
    finetune (everything, early stages slowly), full (everything at the full rate), scratch. --freeze, --lr,
    --backbone-lr, --stage-decay and --head change parts of it."""
    head: Literal["first", "together"] | None = None
    """Two phases: solve the head on features that are computed once, first; then train. Or all together from the
    start. By default first, where the weights are pretrained."""
    views: int = 2
    """Views of every image that the head is solved on: its centre, that mirrored, then augmented ones."""
    augment: tuple[str, ...] | None = None
    """Augmentations: of patch, scale, flip, flip-vertical, rotate, zoom, warp, light, colour, blur and noise; by
    default all but patch, flip-vertical and zoom."""
    dropout: float = 0.2
    """Share of the pooled features that are zeroed at random."""
    label_smoothing: float = 0.1
    """Share of each target that is spread over all classes."""
    repair: bool = False
    """Leave out images that have errors (and say so) instead of stopping."""
    ten_crop: bool = False
    """Judge the model by the mean of ten crops (corners and centre, mirrored too): ten times the work."""

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
    """Train a localizer: the class and the box of the one object in each image.

    Takes the data of detseg train detector. Of several objects in an image the largest counts.

    Half an hour; only images with exactly one object:

        detseg train localizer --data flowers/ --minutes 30
        detseg train localizer --data flowers/ --objects single

    Also whether there is one, from images with and without objects:

        detseg windows --data flowers/ --output windows
        detseg train localizer --data windows --objectness --size 128 --zoom 1 1
    """

    task: ClassVar[str] = "localizer"

    size: int = 224
    """Side of the square that images are fitted into, pixels; a multiple of 32."""
    batch_size: int = 16
    """Images a step (and process)."""
    objects: Literal["largest", "single"] = "largest"
    """Which object of an image counts: the largest; or only images with exactly one are used, with --objectness
    those without an object too."""
    objectness: bool = False
    """Also learn to tell whether there is an object; without, images without objects are left out. The best model is
    then the one with the highest mean of mean IoU and of how well its scores tell images with and without apart."""
    loss: Literal["mse", "smooth_l1", "giou", "ciou"] = "giou"
    """Loss of the box: of its four numbers, or of the overlap."""
    square_root: bool = True
    """The four numbers hold the square roots of width and height: a pixel matters more on small objects."""
    loss_weights: tuple[float, float] = (0.8, 0.2)
    """Weights of the losses of class and box."""
    multi_scale: bool = False
    """Also train on smaller sizes; the box is learnt from places in the map, which are others then."""
    zoom: tuple[float, float] = (0.6, 1.4)
    """Images are shrunk and enlarged at random within these factors; with 1 1 objects stay where and as large as they
    are, for windows of detseg windows."""

    def check(self) -> Self:
        """Raise ValueError where settings contradict each other or make no sense; returns itself."""
        super().check()
        low, high = self.zoom
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"--zoom is the smallest and the largest factor, both positive, not {low} {high}")
        return self
