"""What all plots look like; matplotlib is imported when the first figure is made.

Only its object interface is used: no window, no backend, no style of the caller changes.
"""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detseg.console import one_line
from detseg.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, GRID = "#222222", "#6b6b6b", "#e4e4e4"
BLUE, ORANGE, GREEN, PINK, RED, SKY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"
LINES = (BLUE, GREEN, SKY, RED, ORANGE, PINK)  # without the palette's yellow, too pale on white
_CJK_FAMILIES = ("Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "Malgun Gothic", "Hiragino Sans")


def new_figure(width: float, height: float) -> "Figure":
    """A white figure of so many inches, 150 pixels each, that draws itself without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: "Figure", x: str, y: str, position: Any = 111, share: "Axes | None" = None) -> "Axes":
    """Axes named and coloured as all plots have them; `share` are others with the same x axis."""
    axes = figure.add_subplot(position, sharex=share)
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=QUIET, labelsize=8, length=3)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def set_title(axes: "Axes", title: str, subtitle: str = "") -> None:
    """A title above the axes on the left, with a quieter line below it."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=23 if subtitle else 9)
    if subtitle:
        axes.annotate(subtitle, (0, 1), (0, 7), "axes fraction", "offset points", fontsize=9, color=QUIET)


def font_families() -> list[str]:
    """DejaVu Sans, then what the machine has for Chinese, Japanese and Korean class names."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(family for family in _CJK_FAMILIES if family in installed)]


def shortened(name: str) -> str:
    """A class name as matplotlib can draw it: not too long, without mathematics and characters that are no letters."""
    name = one_line(name[:100])
    return (name if len(name) <= 24 else name[:23] + "…").replace("$", r"\$")


def save(figure: "Figure", path: str | Path) -> Path:
    """Write a figure, and its folder if need be; returns the path."""
    path, content = Path(path), io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script without a font is drawn as boxes; the warning would come once a letter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(content, format=path.suffix[1:])
    write_atomically(path, content.getvalue())
    return path
