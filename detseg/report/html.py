"""The page of a run: `report.html` in its folder, the pictures beside it, nothing from the network."""

import json
import logging
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jinja2
import PIL.Image

from detseg.report.tables import error_meaning

if TYPE_CHECKING:
    from detseg.metrics.analysis import Analysis
    from detseg.metrics.detection import DetectionMetrics
    from detseg.metrics.resampling import Interval, Intervals

logger = logging.getLogger(__name__)

# Title and meaning of each figure of `DetectionMetrics.figures()`.
_FIGURES = {
    "AP": ("AP", "IoU .50 to .95"),
    "AP50": ("AP50", "IoU .50"),
    "AP75": ("AP75", "IoU .75"),
    "AP_small": ("AP small", "objects to 32² pixels"),
    "AP_medium": ("AP medium", "to 96² pixels"),
    "AP_large": ("AP large", "above"),
    "AR1": ("AR 1", "recall with 1 detection a picture and class"),
    "AR10": ("AR 10", "with 10"),
    "AR100": ("AR 100", "with 100"),
    "AR_small": ("AR small", "with 100, objects to 32² pixels"),
    "AR_medium": ("AR medium", "to 96² pixels"),
    "AR_large": ("AR large", "above"),
}
_Cells = list[tuple[float, str]]  # value to sort by, text


def write_report(
    run_folder: str | Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    metrics: "DetectionMetrics | None",
    pictures: Sequence[tuple[str, str | Path]],
    analysis: "Analysis | None" = None,
) -> Path:
    """Write `report.html` into the run folder; returns its path.

    The configuration is read from `config.json` in the folder, if it is there.

    Args:
        run_folder: the folder of the run; it is created if missing.
        title: heading of the page.
        summary: facts about the run, name to value, in the order to be shown.
        metrics: of the best checkpoint on the validation pictures; None leaves the figures out.
        pictures: (caption, path relative to the run folder) in the order to be shown. One that is not there
            is named on the page and in a warning.
        analysis: of the same checkpoint; adds intervals, what the errors cost and the best score thresholds.

    Raises:
        ValueError: if a picture's path is absolute or leads out of the run folder.
    """
    folder = Path(run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    shown = [_picture(folder, caption, path) for caption, path in pictures]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    intervals = None if analysis is None else analysis.intervals
    if intervals is not None and not intervals.known:
        intervals = None
    page = environment.get_template("report.html.j2").render(
        title=title,
        cards=[] if metrics is None else _cards(metrics, intervals),
        summary=[(name, _text(value)) for name, value in summary.items()],
        figures=[] if metrics is None else _figures(metrics, intervals),
        interval_note="" if intervals is None else _interval_note(intervals),
        class_heads=_class_heads(intervals, analysis),
        classes=[] if metrics is None else _classes(metrics, intervals, analysis),
        errors=[] if analysis is None else _errors(analysis),
        pictures=shown,
        command=f"detseg predict {shlex.quote(str(run_folder))} picture.jpg",
        snippet=_SNIPPET.format(run=json.dumps(str(run_folder), ensure_ascii=False)),
        configuration=_configuration(folder / "config.json"),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


_SNIPPET = """\
import detseg

model = detseg.load({run})
(found,) = model.predict(["picture.jpg"])
print(found["boxes"], found["scores"], found["labels"])  # xyxy in the picture's pixels, best first
"""


def _picture(folder: Path, caption: str, path: str | Path) -> tuple[str, str, int, int]:
    """Caption, link, width and height; an empty link where the file is missing or not a picture."""
    relative = PurePosixPath(str(path).replace("\\", "/"))
    if relative.is_absolute() or PureWindowsPath(str(path)).drive or ".." in relative.parts:
        raise ValueError(f"picture {str(path)!r} must be a path inside the run folder, relative to it")
    try:
        with PIL.Image.open(folder / relative) as image:
            width, height = image.size
    except OSError as error:
        logger.warning("%s: picture left out of report.html: %s", folder / relative, error)
        return caption, "", 0, 0
    return caption, quote(relative.as_posix()), width, height


def _number(value: float) -> str:
    """Three decimals; a dash for NaN, a figure without objects to judge by."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def _range(interval: "Interval") -> str:
    return "–" if math.isnan(interval.low) else f"{interval.low:.3f} to {interval.high:.3f}"


def _interval_note(intervals: "Intervals") -> str:
    return (
        f"Ranges are {100 * intervals.level:.3g} % intervals: how far a figure moves when the validation pictures are "
        f"drawn anew, {intervals.resamples} times."
    )


def _cards(metrics: "DetectionMetrics", intervals: "Intervals | None") -> list[tuple[str, str, str]]:
    """Name, value and interval."""
    figures = (
        ("AP", "mAP@[.5:.95]", metrics.map),
        ("AP50", "mAP@.50", metrics.map50),
        ("AP75", "mAP@.75", metrics.map75),
    )
    ranges = {} if intervals is None else {name: _range(interval) for name, interval in intervals.figures.items()}
    return [(name, _number(value), ranges.get(key, "")) for key, name, value in figures]


def _figures(metrics: "DetectionMetrics", intervals: "Intervals | None") -> list[tuple[str, str, list[str]]]:
    """Title, meaning, and the cells: the figure and, if there are intervals, its own."""
    rows = []
    for name, value in metrics.figures().items():
        title, meaning = _FIGURES.get(name, (name, ""))
        cells = [_number(value)]
        if intervals is not None:
            cells.append(_range(intervals.figures[name]) if name in intervals.figures else "")
        rows.append((title, meaning, cells))
    return rows


def _class_heads(intervals: "Intervals | None", analysis: "Analysis | None") -> list[str]:
    interval = [] if intervals is None else ["From", "To"]
    best = [] if analysis is None else ["Best score", "F1"]
    return ["Class", "AP", *interval, "AP50", "AR 100", *best, "Objects", "Pictures"]


def _classes(
    metrics: "DetectionMetrics", intervals: "Intervals | None", analysis: "Analysis | None"
) -> list[tuple[str, _Cells]]:
    """Name and cells of each class; best AP first, classes without objects last."""
    rows = []
    for k, row in enumerate(metrics.per_class):
        figures = [row.ap]
        if intervals is not None:
            figures += [intervals.per_class[k].ap.low, intervals.per_class[k].ap.high]
        figures += [row.ap50, row.ar]
        if analysis is not None:
            best = analysis.thresholds.per_class[k]
            figures += [best.score, best.f1]
        cells = [(-1.0 if math.isnan(v) else v, _number(v)) for v in figures]
        counts = [(float(count), str(count)) for count in (row.objects, row.pictures)]
        rows.append((row.name, cells + counts))
    return sorted(rows, key=lambda row: -row[1][0][0])


def _errors(analysis: "Analysis") -> list[tuple[str, str, str, str]]:
    """Kind, meaning, gain and number; the costliest kinds first, the totals last."""
    errors = analysis.errors
    kinds = sorted(errors.errors.items(), key=lambda item: -item[1].gain)
    totals = [("false_positives", errors.false_positives), ("false_negatives", errors.false_negatives)]
    return [
        (name.replace("_", " "), error_meaning(name, errors), _number(cost.gain), str(cost.count))
        for name, cost in [*kinds, *totals]
    ]


def _configuration(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        logger.warning("%s: configuration left out of report.html: %s", path, error)
        return []
    return [(name, _text(value)) for name, value in _flat(content)]


def _flat(content: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested dicts as (dotted name, value)."""
    if isinstance(content, Mapping) and content:
        for name, value in content.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, content


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(item)}" for name, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "–"
    return str(value)
