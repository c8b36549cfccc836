"""Detection metrics: COCO and VOC average precision, error analysis, confusion matrix."""

from detseg.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
