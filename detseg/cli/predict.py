"""`detseg predict`: find objects, or the class of every pixel, in images; draw it, write it down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from detseg.cli.devices import chosen_device
from detseg.cli.images import local_images
from detseg.cli.tiles import Tiles, in_tiles
from detseg.options import given, require_share
from detseg.results import labels_named
from detseg.sources.files import expand

# Options that mean nothing to models of the other kinds.
OF_MASKS = ("polygons", "label_images")
OF_SUPPRESSION = ("iou_threshold", "agnostic")
OF_DETECTORS = (
    *("score_threshold", "max_detections", "tree_threshold", "size", "tta", "tiles", *OF_MASKS),
    *(*OF_SUPPRESSION, "classes", "save_txt", "save_crops", "save_json"),
)
OF_SEGMENTERS = ("flip", "scales", "long_side", "boxes", "min_area")
OF_LOCALIZERS = ("slide",)
OF_CLASSIFIERS = ("ten_crop",)
OF_VIDEOS = ("every", "save_video", "track", "count")
# Options that need the network itself, which exported models are without.
OF_NETWORKS = ("tta", "tree_threshold", "flip", "scales", "long_side", "boxes", "slide", "ten_crop", *OF_SUPPRESSION)


@dataclass(frozen=True)
class Predict:
    """Predict on images with the model of a run: boxes, masks or classes.

    Detectors and localizers write each image with its boxes (NAME.jpg) and detections.json (COCO results), with masks
    where the model finds them. Segmenters write each image with a mask overlay (NAME.jpg) and its mask (NAME.png, with
    the values of the data set). Classifiers print the most likely classes and write classes.csv.

    Two images; a folder; a validation set, to evaluate:

        detseg predict runs/detector-1 garden.jpg meadow.png --output found
        detseg predict runs/detector-1 photos/ --score-threshold 0.5
        detseg predict runs/detector-1 --image-ids flowers/val.json
        detseg evaluate --ground-truth flowers/val.json --detections predictions/detections.json

    Test-time augmentation; a larger input size; masks as polygons, and each object's number in NAME.png:

        detseg predict runs/detector-1 photos/ --tta
        detseg predict runs/detector-1 photos/ --size 512
        detseg predict runs/detector-2 photos/ --polygons --label-images

    Roses and tulips only; one class at a place; a YOLO label file of each image, and a crop of each object:

        detseg predict runs/detector-1 photos/ --classes rose tulip
        detseg predict runs/detector-1 photos/ --agnostic --iou 0.6
        detseg predict runs/detector-1 photos/ --save-txt --save-crops

    Small objects in images much larger than those of training, tile by tile:

        detseg predict runs/detector-1 aerial.jpg --tiles auto
        detseg predict runs/detector-1 aerial.jpg --tiles 800

    Two detectors, what they find fused; a collection on a cluster, or on all cores (goes on where it was stopped):

        detseg predict runs/detector-1 runs/detector-2 photos/
        detseg predict runs/detector-1 "shards/{000..099}.tar" --engine ray --output s3://bucket/found

    A localizer as a sliding-window detector; smaller objects too:

        detseg predict runs/localizer-1 photos/ --slide
        detseg predict runs/localizer-1 photos/ --slide --long-side 1600

    Masks; test-time augmentation; small objects in large images; masks to boxes; classes, by ten-crop averaging:

        detseg predict runs/segmenter-1 garden.jpg --output found
        detseg predict runs/segmenter-1 photos/ --flip --scales 0.75 1 1.25
        detseg predict runs/segmenter-1 aerial.jpg --long-side 2048
        detseg predict runs/segmenter-1 --image-ids flowers/val.json --boxes
        detseg predict runs/classifier-1 photos/ --ten-crop

    Videos: what is in each frame (NAME.jsonl, NAME.csv), drawn (NAME.mp4), with objects followed and counted at a line
    (NAME-counts.csv); a camera, until Ctrl-C:

        detseg predict runs/detector-1 street.mp4 --save-video
        detseg predict runs/detector-1 street.mp4 --save-video --track --count line=0,200,640,200
        detseg predict runs/detector-1 0 --save-video
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder, or a file that `detseg export` wrote (.onnx, .xml, .torchscript)."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Images, folders of images, or web addresses of images; patterns in quotes ("photos/*.jpg"); .txt files with a
    source in each line; or videos, numbers of cameras (0), addresses of streams (rtsp://…). Further run folders of
    detectors, whose detections are fused."""
    recursive: bool = True
    """Folders: look into the folders below them too."""
    output: Path = Path("predictions")
    """Output folder; only files of earlier predictions are overwritten."""
    score_threshold: float | None = None
    """Detectors: minimum score of a detection; by default 0.3."""
    max_detections: int | None = None
    """Detectors: most detections of an image; by default by the objects that training images have, at least 100."""
    iou_threshold: float | None = None
    """Detectors: non-max suppression drops boxes with a higher IoU with a better one; by default as in training."""
    agnostic: bool = False
    """Detectors: non-max suppression between classes too, so that a place has one class."""
    classes: tuple[str, ...] = ()
    """Detectors: keep the objects of these classes only."""
    save_txt: bool = False
    """Detectors: also write labels/NAME.txt, a YOLO label file of each image."""
    save_crops: bool = False
    """Detectors: also write crops/CLASS/NAME_0.jpg, …, the part of the image in each box."""
    save_json: bool = False
    """Detectors: also write json/NAME.json, a list of name, score and box of each image's objects."""
    tree_threshold: float | None = None
    """Detectors with a tree of classes: least probability of a label that is no root; by default 0.9."""
    size: int | None = None
    """Detectors: input size in pixels, a multiple of 32; by default as in training. Larger finds smaller objects."""
    tta: bool = False
    """Detectors: average over three sizes and mirror images, in six times the time."""
    tiles: Tiles | None = None
    """Detectors: look at images in overlapping tiles of this side, in pixels of the image; auto chooses it by the
    objects of training, none switches off the tiles of a run that was trained on them."""
    polygons: bool = False
    """Detectors of masks: write outlines (without holes) to detections.json, in place of run lengths (RLE)."""
    label_images: bool = False
    """Detectors of masks: also write NAME.png, each object's pixels with its number, 1, 2, … as in detections.json."""
    flip: bool = False
    """Segmenters: average over the image and its mirror image."""
    scales: tuple[float, ...] = (1.0,)
    """Segmenters: average over these multiples of the training size."""
    slide: bool = False
    """Localizers trained with --objectness: slide over the image at several scales to find any number of objects."""
    long_side: int | None = None
    """Segmenters: tiled prediction at this long side. With --slide: long side of the largest scale."""
    boxes: bool = False
    """Segmenters: also write detections.json; connected components of each class become objects."""
    min_area: int = 16
    """With --boxes: ignore objects with fewer pixels than this."""
    ten_crop: bool = False
    """Classifiers: average over ten crops (corners and centre, and mirrored)."""
    image_ids: Path | None = None
    """Annotations of the images: detections.json then has their image ids and all scores, for `detseg evaluate`."""
    images: Path | None = None
    """With --image-ids: folder of the images, where they are not beside the COCO or VOC annotations."""
    every: int = 1
    """Videos: look at every N-th frame only."""
    save_video: bool = False
    """Videos: also write NAME.mp4 with what is found drawn."""
    track: bool = False
    """Videos: follow objects from frame to frame; each keeps its number."""
    count: tuple[str, ...] = ()
    """Videos: count the objects that cross a line (line=x1,y1,x2,y2) or are in a zone (zone=x1,y1,x2,y2,x3,y3,…), in
    pixels; includes --track."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 (or 1), mps, …."""
    engine: Literal["local", "ray"] = "local"
    """ray: on a cluster; also takes .tar and .parquet shards and addresses (s3://…), and writes shards of results."""
    shard_format: Literal["parquet", "jsonl"] = "parquet"
    """With --engine ray: format of the results."""


def run(config: Predict) -> int:
    """Predict as `config` says; returns the exit code.

    Raises:
        ValueError: the run holds no model, an option does not go with it, or images cannot be read; what is found in
            the others is written before.
    """
    require_share(config, "score_threshold", "iou_threshold", "tree_threshold")
    if given(config, ("engine", "shard_format")):
        from detseg.cli.predict_cluster import run as run_on_cluster

        return run_on_cluster(config, _model, OF_NETWORKS)
    runs = [source for source in config.sources if (Path(source) / "model.json").is_file()]
    config = replace(config, sources=tuple(source for source in config.sources if source not in runs))
    images, videos = expand(config.sources)
    if images and videos:
        raise ValueError(f"{videos[0]} is a video, {images[0]} is not: predict images and videos one after the other")
    if not videos and (options := ", ".join(given(config, OF_VIDEOS))):
        raise ValueError(f"{options}: is for videos; name one, or leave it out")
    with local_images(images, recursive=config.recursive) as sources:
        return _run(config, [config.run, *map(Path, runs)], sources, videos)


def _run(config: Predict, runs: Sequence[Path], sources: Mapping[Path, str], videos: Sequence[str] = ()) -> int:
    """As `run`; `sources` are the files, each with what to call it, or `videos` what is to be looked at."""
    from detseg.cli.predictions import Reader, batch_of
    from detseg.cli.terminal import Terminal

    console = Terminal()
    images, ids, listed = ([], [], None) if videos else _images(config, list(sources))
    model = _model(config, runs, console)
    if videos:
        from detseg.cli.predict_video import predict_videos

        predict_videos(model, videos, config, console)
        return 0
    reader = Reader(images, console, sources, model.channels, batch_of(model))
    if model.task == "classify":
        from detseg.cli.predict_classes import write_classes

        write_classes(model, reader, config)
        reader.finish()
    else:
        from detseg.cli.predict_images import write_images

        write_images(model, reader, config, ids, listed)
    return 0


def _model(config: Predict, runs: Sequence[Path], console: Any, threads: int | None = None) -> Any:
    """The model of the runs, as the options want it; ValueError where one means nothing to it."""
    from detseg.loading import load

    model = load(*runs, threads=threads)
    _move(model, config)
    _check_options(config, model)
    if config.tree_threshold is not None:
        model.model.tree_threshold = config.tree_threshold
    if config.slide:
        from detseg.predict import SlidingDetector

        try:
            model = SlidingDetector(model, long_side=config.long_side)
        except ValueError as error:
            raise ValueError(f"{config.run}: {error}") from error
    model = in_tiles(model, config.tiles, config.run, console)
    for name in ("max_detections", *OF_SUPPRESSION):
        if given(config, (name,)):
            _set(config, model, name)
    return model


def _move(model: Any, config: Predict) -> None:
    """Move a model to its device; an exported one's engine chooses its own."""
    if hasattr(model, "to"):
        model.to(chosen_device(config.device))
    elif config.device != "auto":
        raise ValueError(f"{config.run}: its engine chooses the device; leave out --device")


def _set(config: Predict, model: Any, name: str) -> None:
    """Give a detector the value of an option that it has under the same name."""
    try:
        setattr(model, name, getattr(config, name))
    except ValueError as error:
        raise ValueError(f"{config.run}: {error}") from error


def _check_options(config: Predict, model: Any) -> None:
    """Raise ValueError where an option means nothing to the model."""
    detector = ("detector", (*OF_SEGMENTERS, *OF_CLASSIFIERS))
    kinds = {
        "detect": detector,
        "localize": detector,
        "segment": ("segmenter", (*OF_DETECTORS, *OF_LOCALIZERS, *OF_CLASSIFIERS)),
        "classify": ("classifier", (*OF_DETECTORS, *OF_LOCALIZERS, *OF_SEGMENTERS, "image_ids", "images")),
    }
    kind, foreign = kinds[model.task]
    if config.slide and kind == "detector":  # which says itself what is no localizer
        foreign = tuple(name for name in foreign if name != "long_side")
    if options := ", ".join(given(config, foreign)):
        raise ValueError(f"{config.run}: holds a {kind}, for which there is no {options}; leave it out")
    if options := ", ".join(given(config, OF_NETWORKS) if config.run.is_file() else ()):
        raise ValueError(f"{config.run}: is an exported model, for which there is no {options}; give the run folder")
    if kind == "detector":
        _check_detector(config, model)
    if kind == "segmenter" and not config.boxes:
        for option in given(config, ("image_ids", "min_area")):
            raise ValueError(f"{option} is for detections.json, which a segmenter writes with --boxes: add that")
    if config.tree_threshold is not None and getattr(model.model, "tree", None) is None:
        raise ValueError(f"{config.run}: was trained without --tree; leave out --tree-threshold")
    if config.min_area < 1:
        raise ValueError(f"--min-area must be at least 1 pixel, not {config.min_area}")


def _check_detector(config: Predict, model: Any) -> None:
    """Raise ValueError where an option means nothing to this detector."""
    if not model.finds_masks and (options := ", ".join(given(config, OF_MASKS))):
        raise ValueError(f"{config.run}: finds boxes and no masks, for which there is no {options}; leave it out")
    try:
        if config.size is not None or config.tta:
            model.check_any_size(config.size)
        labels_named(config.classes, model.names)
    except ValueError as error:
        raise ValueError(f"{config.run}: {error}") from error


def _images(config: Predict, paths: list[Path]) -> tuple[list[Path], list[int], set[int] | None]:
    """The images to look at and the image id of each: from an annotation file, by path, or 1, 2, 3, …

    Then the category ids of the annotation file, if there is one: what may be in detections that it evaluates.
    """
    from detseg.data.base import refuse_pack
    from detseg.train.data import read_split

    if config.sources and not paths:
        remedy = 'name videos one by one, or as "folder/*.mp4"'
        raise ValueError(f"no images in {', '.join(config.sources)}; {remedy}")
    if config.image_ids is None:
        if config.images is not None:
            raise ValueError("--images is the folder of the images that --image-ids lists: add that, or leave it out")
        if not paths:
            raise ValueError("name the images, or folders of images, after the run")
        return paths, list(range(1, len(paths) + 1)), None
    data = read_split(config.image_ids, "val", config.images)
    refuse_pack(data.pack)
    listed = {category.id for category in data.categories}
    if not paths:
        return [Path(path) for path in data.paths.tolist()], data.image_ids.tolist(), listed
    known = {Path(path).resolve(): int(i) for path, i in zip(data.paths, data.image_ids, strict=True)}
    missing = [path for path in paths if path.resolve() not in known]
    if missing:
        raise ValueError(f"{config.image_ids}: does not list {missing[0]} ({len(missing)} images are not in it)")
    return paths, [known[path.resolve()] for path in paths], listed
