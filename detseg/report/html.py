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

if TYPE_CHECKING:
    from detseg.metrics import DetectionMetrics

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
_CLASS_HEADS = ("Class", "AP", "AP50", "AR 100", "Objects", "Pictures")


def write_report(
    run_folder: str | Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    metrics: "DetectionMetrics | None",
    pictures: Sequence[tuple[str, str | Path]],
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
    page = environment.get_template("report.html.j2").render(
        title=title,
        cards=[] if metrics is None else _cards(metrics),
        summary=[(name, _text(value)) for name, value in summary.items()],
        figures=[] if metrics is None else _figures(metrics),
        class_heads=_CLASS_HEADS,
        classes=[] if metrics is None else _classes(metrics),
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


def _cards(metrics: "DetectionMetrics") -> list[tuple[str, str]]:
    figures = (("mAP@[.5:.95]", metrics.map), ("mAP@.50", metrics.map50), ("mAP@.75", metrics.map75))
    return [(name, _number(value)) for name, value in figures]


def _figures(metrics: "DetectionMetrics") -> list[tuple[str, str, str]]:
    figures = metrics.figures()
    return [(title, meaning, _number(figures[name])) for name, (title, meaning) in _FIGURES.items()]


def _classes(metrics: "DetectionMetrics") -> list[tuple[str, list[tuple[float, str]]]]:
    """Name, then (value to sort by, text) a column; best AP first, classes without objects last."""
    rows = []
    for row in metrics.per_class:
        figures = [(-1.0 if math.isnan(v) else v, _number(v)) for v in (row.ap, row.ap50, row.ar)]
        counts = [(float(count), str(count)) for count in (row.objects, row.pictures)]
        rows.append((row.name, figures + counts))
    return sorted(rows, key=lambda row: -row[1][0][0])


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
