"""What can be set when training; the dataclass is the command line and the content of `config.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class TrainDetector:
    """Train an object detector on your own annotated pictures.

    Give the data as one path (--data: a folder or data.yaml with a training and a validation split, in COCO, VOC or
    YOLO form) or as two (--train and --val). The run folder gets the model, curves, pictures and an HTML report.

    Half an hour on your own pictures, then go on after Ctrl-C or a crash:

        detseg train detector --data flowers/ --minutes 30 --output runs/flowers
        detseg train detector --resume runs/flowers
    """

    data: Path | None = None
    """Folder or data.yaml that holds both splits."""
    train: Path | None = None
    """Annotations to train on, instead of --data."""
    val: Path | None = None
    """Annotations to validate on, instead of --data."""
    output: Path | None = None
    """Run folder; by default the next free of runs/detector-1, runs/detector-2, …"""
    backbone: str = "tf_efficientnet_lite0"
    """Feature network: a name from `detseg.backbones.list_backbones()`."""
    weights: str = "pretrained"
    """Where the backbone's weights come from: pretrained, none, or a file."""
    strides: tuple[int, ...] = (8, 16, 32)
    """Pixels a cell of each level of the grid, finest first; 32 alone, with --anchors 5 and --reach 0.5, is YOLOv2."""
    anchors: int = 3
    """Anchors of each level; their shapes are fitted to the training boxes."""
    reach: float = 1.0
    """How far from its cell's centre an object's centre may lie, in cells; 0.5 is the cell itself."""
    size: int = 320
    """Side of the square that pictures are fitted into, pixels; a multiple of 32."""
    epochs: int | None = None
    """How often to go through the training pictures; 30 unless --minutes is given."""
    minutes: float | None = None
    """Train for this long instead: the schedule ends on time."""
    batch_size: int = 8
    """Pictures a step (and process)."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Which optimiser."""
    lr: float = 1e-3
    """Highest learning rate of the neck and head (sgd wants about 1e-2)."""
    backbone_lr: float = 0.1
    """Factor on it for the backbone."""
    weight_decay: float = 0.01
    """Of kernels; norms and biases are never decayed."""
    schedule: Literal["cosine", "onecycle"] = "cosine"
    """How the learning rate runs."""
    freeze: int | None = None
    """Stages of the backbone, from the stem on, that keep their weights; by default chosen by the number of
    pictures when the weights are pretrained, else 0."""
    mosaic: float = 0.0
    """Share of training pictures that are mosaics of four (none in the last 30 % of the run)."""
    multi_scale: bool = True
    """Train at smaller sizes, from 60 % of --size up and another every 10 steps, in the first 70 % of the run."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of training; auto times both at the start and takes the faster."""
    seed: int = 0
    """Of everything random; the same seed on the same machine gives the same weights."""
    workers: int | None = None
    """Processes that augment pictures; by default none on a CPU, where they would compete with training."""
    repair: bool = False
    """Mend what is safely mendable in the annotations (and say what was done) instead of stopping."""
    resume: Path | None = None
    """Go on with an interrupted run: its folder. All other settings come from there."""

    def check(self) -> TrainDetector:
        """Raise ValueError where settings contradict each other or make no sense; returns itself."""
        if self.resume is not None:
            changed = [f.name for f in fields(self) if f.name != "resume" and getattr(self, f.name) != f.default]
            if changed:
                raise ValueError(
                    f"--resume takes all settings from the run; leave out {', '.join(_option(n) for n in changed)}"
                )
            return self
        if (self.data is None) == (self.train is None and self.val is None):
            raise ValueError("give the data either as --data or as --train and --val")
        if self.data is None and (self.train is None or self.val is None):
            raise ValueError("--train and --val belong together: one is missing")
        if self.size < 64 or self.size % 32:
            near = max(64, round(self.size / 32) * 32)
            raise ValueError(f"--size must be a multiple of 32 and at least 64, not {self.size}; {near} is near")
        if self.epochs is not None and self.minutes is not None:
            raise ValueError("give --epochs or --minutes, not both")
        positive = {
            name: getattr(self, name)
            for name in ("epochs", "minutes", "batch_size", "lr", "backbone_lr", "anchors")
            if getattr(self, name) is not None
        }
        for name, value in positive.items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{_option(name)} must be positive, not {value}")
        for name in ("weight_decay", "freeze", "seed", "workers"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{_option(name)} must not be negative, it is {value}")
        if not self.reach >= 0.5:
            raise ValueError(f"--reach must be at least 0.5, the cell itself, not {self.reach}")
        if not 0 <= self.mosaic <= 1:
            raise ValueError(f"--mosaic is a share between 0 and 1, not {self.mosaic}")
        return self

    def save(self, folder: Path) -> None:
        """Write `config.json`, with absolute paths: the run may be resumed from another working directory."""
        content = {n: str(v.absolute()) if isinstance(v, Path) else v for n, v in asdict(self).items() if n != "resume"}
        (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> TrainDetector:
        """Read `config.json` of a run; raises ValueError when it is missing or not of this version."""
        path = folder / "config.json"
        if not path.is_file():
            raise ValueError(f"{folder}: there is no run to resume here (config.json is missing)")
        try:
            content: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
            unknown = set(content) - {f.name for f in fields(cls)}
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not the settings of a run ({error})") from error
        if unknown:
            raise ValueError(
                f"{path}: unknown settings {', '.join(sorted(unknown))}; was it written by another version?"
            )
        if "strides" in content:
            content["strides"] = tuple(content["strides"])
        for name in ("data", "train", "val", "output"):
            if content.get(name) is not None:
                content[name] = Path(content[name])
        return cls(**content)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
