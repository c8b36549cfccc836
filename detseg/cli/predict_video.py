"""What `detseg predict` makes of videos, cameras and streams: tables of each frame, a drawn video, counts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.cli.images import free_names
from detseg.cli.predictions import SCORE_THRESHOLD, batch_of, given_only
from detseg.cli.save_results import so_far
from detseg.cli.video_tables import Tables, write_counts
from detseg.console import print_line, track
from detseg.data.limits import AtTheCap
from detseg.files import make_folder
from detseg.options import given
from detseg.results import Results
from detseg.sources import ahead, in_batches
from detseg.sources.files import name_of, title_of
from detseg.sources.video import Frame, Video
from detseg.tracks import Counter, Tracker, parse_counts
from detseg.visualize.tracks import draw_counts, draw_tracks
from detseg.visualize.video import VideoFile

if TYPE_CHECKING:
    from rich.console import Console

    from detseg.cli.predict import Predict

# Options of images that mean nothing to videos, and the other way round.
OF_IMAGES = (
    *("image_ids", "images", "polygons", "label_images", "boxes", "min_area"),
    *("save_txt", "save_crops", "save_json"),
)
OF_DETECTORS = ("track", "count")
DRAWN = 4  # frames that are drawn while the network looks at the next
HIDDEN = 1.0  # seconds for which a followed object may be hidden
UNSURE = 1 / 3  # of the score threshold: what a known object may have

log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What was found in a frame."""

    frame: Frame
    found: Any  # Results, Segmentation or Classification
    ids: list[int] | None  # D numbers of followed objects, -1 of those without
    shapes: list[tuple[Any, str]]  # what is counted, to draw
    counts: dict[str, Any]  # the numbers so far


def predict_videos(model: Any, videos: Sequence[str], config: Predict, console: Console) -> None:
    """Look at videos one after another and write what is found beside each other into ``config.output``.

    Raises:
        ValueError: an option does not go with videos or with the model, files would be overwritten, or videos cannot be
            read; what is found in the others is written before.
    """
    check_options(model, config)
    names = free_names([Path(name_of(video)) for video in videos], lambda name: {})
    targets = [config.output / name for name in names]
    for source, target in zip(videos, targets, strict=True):
        _refuse_taken(source, target)
    make_folder(config.output)
    problems = []
    with so_far(len(videos), "videos") as done:
        for source, target in done(zip(videos, targets, strict=True)):
            try:
                with Video(source, every=config.every) as video:
                    print_line(console, f"{title_of(source)}: {_watch(model, video, target, config, console)}")
            except ValueError as error:
                problems.append(str(error))
                if len(videos) > 1:
                    print_line(console, f"{error}; left out")
    if problems:
        count = f"{len(problems)} of {len(videos)} videos cannot be read and were left out; the first: "
        raise ValueError(problems[0] if len(videos) == 1 else count + problems[0])


def check_options(model: Any, config: Predict) -> None:
    """Raise ValueError where an option means nothing to videos, or to the model."""
    if options := ", ".join(given(config, OF_IMAGES)):
        raise ValueError(f"{options}: is for images, not for videos; leave it out")
    if model.task not in ("detect", "localize") and (options := ", ".join(given(config, OF_DETECTORS))):
        raise ValueError(f"{config.run}: is no detector, and only those follow and count objects; leave out {options}")
    if config.every < 1:
        raise ValueError(f"--every must be at least 1, not {config.every}")
    if model.channels not in (1, 3):
        raise ValueError(f"{config.run}: looks at {model.channels} channels, and videos have three")
    parse_counts(config.count)


def _refuse_taken(source: str, target: Path) -> None:
    """Raise ValueError where a file would be overwritten that no earlier prediction wrote: those leave a .jsonl."""
    lines = target.with_name(f"{target.name}.jsonl")
    ours = False
    if lines.is_file():
        with lines.open("rb") as file:
            ours = file.read(9) in (b'{"frame":', b"")
    for ending in (".jsonl", ".csv", ".mp4", "-counts.csv"):
        file_ = target.with_name(target.name + ending)
        if file_.exists() and file_.resolve() == Path(source).resolve():
            raise ValueError(f"{file_} would be overwritten by a drawing; give another --output")
        if file_.exists() and not ours:
            raise ValueError(f"{file_}: is there already, and not from an earlier prediction; name another --output")


def _watch(model: Any, video: Video, target: Path, config: Predict, console: Console) -> str:
    """Look at one video and write what is found; returns a sentence on it."""
    counters = [Counter(shape, model.names) for shape in parse_counts(config.count)]
    tracker = None
    if config.track or counters:
        patience = max(1.0, HIDDEN * video.fps, 2.0 * config.every)
        tracker = Tracker(threshold=_threshold(config), patience=patience)
    total = None if video.count is None else -(-video.count // config.every)
    seen = track(
        _look(model, video, tracker, counters, config), total, what="predicting", console=console, unit="images"
    )
    begun = time.monotonic()
    number = _write(seen, video, target, model.task, save_video=config.save_video)
    parts = [f"{number} images, {number / max(time.monotonic() - begun, 1e-9):.1f} a second"]
    parts += [f"{video.dropped} frames dropped to keep up"] if video.live else []
    parts += [f"{tracker.found} objects followed"] if tracker is not None else []
    parts += map(str, counters)
    endings = [".jsonl", ".csv", *([".mp4"] if config.save_video else [])]
    if counters:
        write_counts(target.with_name(f"{target.name}-counts.csv"), counters)
        endings.append("-counts.csv")
    if video.count is not None and video.read < 0.98 * video.count - 1:
        log.warning("%s: only %d of %d frames can be read; is it cut short?", video.title, video.read, video.count)
    return f"{'; '.join(parts)}; written to {', '.join(f'{target}{ending}' for ending in endings)}"


def _write(seen: Iterator[Seen], video: Video, target: Path, task: str, *, save_video: bool) -> int:
    """Write tables, and the drawn video, of what is seen; returns the number of frames. Ctrl-C ends what is live."""
    number = 0
    with ExitStack() as stack:
        tables = stack.enter_context(Tables.opened(target, task))
        film, written = None, Future[None]()
        written.set_result(None)
        if save_video:
            path = target.with_name(f"{target.name}.mp4")
            film = stack.enter_context(VideoFile(path, video.fps / video.every))
        # Frames are drawn, and encoded one by one, while the network looks at the next.
        encoder = stack.enter_context(ThreadPoolExecutor(1))
        drawing = ahead(lambda one: (one, _drawn(one) if film else None), seen, 1 if video.live else DRAWN)
        try:
            for one, drawn in drawing:
                number += 1
                tables.add(one.frame.number, one.frame.seconds, one.found, one.ids, one.counts)
                if film is not None and drawn is not None:
                    written.result()
                    written = encoder.submit(film.write, drawn, seconds=one.frame.seconds if video.live else None)
        except KeyboardInterrupt:
            if not video.live or not number:
                raise
        written.result()
    return number


def _threshold(config: Predict) -> float:
    return SCORE_THRESHOLD if config.score_threshold is None else config.score_threshold


def _look(
    model: Any, video: Video, tracker: Tracker | None, counters: Sequence[Counter], config: Predict
) -> Iterator[Seen]:
    """What is found in each frame, in order; those of a live source one by one, each as soon as it comes."""
    detects = model.task in ("detect", "localize")
    options = given_only(
        size=config.size,
        tta=config.tta or None,
        flip=config.flip or None,
        scales=None if config.scales == (1.0,) else config.scales,
        long_side=None if config.slide else config.long_side,
        ten_crop=config.ten_crop or None,
        run_lengths=True if getattr(model, "finds_masks", False) else None,
    )
    threshold = _threshold(config)
    if detects:
        options["score_threshold"] = threshold * (UNSURE if tracker else 1)
    cap = AtTheCap(getattr(model, "max_detections", None), threshold)
    before = None
    for batch in in_batches(video, 1 if video.live else batch_of(model)):
        every = model.stream([_as_wanted(frame.pixels, model.channels) for frame in batch], **options)
        for frame, found in zip(batch, every, strict=True):
            ids = None
            if detects:
                cap.add(found.scores[found.scores >= threshold])
                found = found.of_classes(config.classes) if config.classes else found
            if tracker is not None:
                passed = 1 if before is None else max(1, frame.number - before)
                found, ids = _followed(found, tracker, counters, threshold, passed)
                before = frame.number
            shapes = [(counter.shape.points, str(counter)) for counter in counters]
            yield Seen(frame, found, ids, shapes, {counter.shape.name: counter.figures() for counter in counters})
    cap.warn()


def _as_wanted(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if channels == 3:
        return pixels
    grey: NDArray[np.uint8] = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    return grey[..., None]


def _followed(
    found: Results, tracker: Tracker, counters: Sequence[Counter], threshold: float, passed: int
) -> tuple[Results, list[int]]:
    """What is sure, or known from frames before, and the numbers of these objects; they are counted."""
    known = tracker.update(found.boxes, found.scores, found.labels, frames=passed)
    for counter in counters:
        counter.add(known.ids, known.labels, found.boxes)
    shown = (found.scores >= threshold) | (known.ids >= 0)
    return found.select(shown), known.ids[shown].tolist()


def _drawn(seen: Seen) -> NDArray[np.uint8]:
    found = seen.found
    if seen.ids is None:
        image = found.plot()
    else:
        of_objects = found.boxes, found.labels.tolist(), found.names, found.scores, seen.ids
        image = draw_tracks(found.image, *of_objects, masks=found.masks)
    return draw_counts(image, seen.shapes) if seen.shapes else image
