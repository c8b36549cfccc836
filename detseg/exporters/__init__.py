"""Trained models in other programs' forms: one file an exporter, a function with `@register_exporter`."""

from detseg.exporters.registry import EXPORTERS, Exporter, export, register_exporter  # isort: skip

from detseg.exporters import onnx, openvino, torchscript  # noqa: F401  # each registers its form

__all__ = ["EXPORTERS", "Exporter", "export", "register_exporter"]
