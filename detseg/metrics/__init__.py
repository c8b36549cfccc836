"""Metrics, confidence intervals, comparisons and error analysis. The names are in the stub, and imported when used."""

from detseg.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
