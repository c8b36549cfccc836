"""detseg: object detection and segmentation on your own annotated images.

model = detseg.load("runs/detector-1")
(found,) = model.predict(["image.jpg"])
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from detseg.exporters import export as export
    from detseg.loading import load as load
    from detseg.predict import Detector as Detector
    from detseg.tiled import Tiled as Tiled

_PUBLIC = {
    "Detector": "detseg.predict",
    "Tiled": "detseg.tiled",
    "export": "detseg.exporters",
    "load": "detseg.loading",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: `import detseg` itself stays instant.
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'detseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
