"""Packages whose names are imported when they are first used, so that importing the package itself costs nothing.

The names stand once, in the package's stub `__init__.pyi`, where type checkers and editors read them as well:

    from detseg.metrics.classification import ClassificationEvaluator as ClassificationEvaluator

The package itself is then one line:

    __getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
"""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose stub lies beside its `__init__.py`, the `file`."""
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    homes = {alias.asname or alias.name: (node.module or "", alias.name) for node in imports for alias in node.names}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, original = homes[name]
        value = getattr(import_module(module), original)
        setattr(sys.modules[package], name, value)  # the next access does not come here
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *homes}), sorted(homes)
