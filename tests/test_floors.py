"""The house's floors: imports only go downwards, and no room names a device."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "detseg"

# From the ground up; a module may import its own floor and those below.
FLOORS = (
    ("box_formats", "boxes", "compiled", "options"),
    ("backbones", "metrics", "data"),
    ("classify", "detect", "segment"),
    ("train", "predict", "visualize", "export", "report"),
    ("cli", "__main__"),
)
HEIGHT = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
MODELS = {"boxes", "backbones", "classify", "detect", "segment"}
FORBIDDEN_TO_MODELS = {"data", "metrics", "train", "predict", "visualize", "report", "cli"}

# Where a device may be named, and why.
DEVICES = {
    ("train/trainer.py", "cpu"): "reading a loss costs nothing there, so every step is checked",
    ("train/trainer.py", "cuda"): "only there pinned memory is of use",
    ("train/session.py", "cpu"): "workers would take the cores that training needs",
    ("train/checkpoint.py", "cpu"): "files are read into ordinary memory first",
    ("backbones/weights.py", "cpu"): "so are files of weights",
    ("backbones/depthwise.py", "cpu"): "only there the gradient needs help",
    ("backbones/padding.py", "cpu"): "only there torch's own is slow",
    ("backbones/measure.py", "cpu"): "tensors without data; where they are faked, the meta device is not allowed",
    ("detect/nms.py", "cpu"): "another algorithm is faster there",
    ("detect/nms_checks.py", "cpu"): "numpy only knows that memory",
}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def part_of(path):
    """The room a file belongs to: `detect` for detseg/detect/yolo.py, `boxes` for detseg/boxes.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path):
    """The parts of detseg that a file imports anywhere in it, but for annotations only."""
    package = ["detseg", *path.relative_to(PACKAGE).parts[:-1]]
    for node in without_type_checking(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [] if not node.level else package[: len(package) - node.level + 1]
            names = [".".join([*base, *([node.module] if node.module else []), alias.name]) for alias in node.names]
        for name in names:
            words = name.split(".")
            if words[0] == "detseg" and len(words) > 1:
                yield words[1], node.lineno


def without_type_checking(tree):
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def test_every_part_has_a_floor():
    assert {part_of(path) for path in modules()} - {"__init__"} <= HEIGHT.keys()


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_downwards(path):
    part = part_of(path)
    if part == "__init__":
        return  # the package's own names, imported when asked for
    for imported, line in imports_of(path):
        if imported not in HEIGHT:
            continue  # a name of the package itself, such as its version
        assert HEIGHT[imported] <= HEIGHT[part], f"{path}:{line}: {part} may not import {imported}"
        assert part not in MODELS or imported not in FORBIDDEN_TO_MODELS, f"{path}:{line}: models know no {imported}"


def test_the_test_sees_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "detect").mkdir()
    path = tmp_path / "detect" / "bad.py"
    path.write_text(
        "from ..data import x\nimport detseg.train.sampler\nfrom detseg import metrics\nfrom .own import y\n"
        "def f():\n    from detseg.cli.demo import run\n"
        "if TYPE_CHECKING:\n    from detseg.report import z\n"
    )
    assert {part for part, _ in imports_of(path)} == {"data", "train", "metrics", "detect", "cli"}


def test_tools_only_call_the_command_line():
    for path in (PACKAGE.parent / "tools").glob("*.py"):
        assert {part for part, _ in imports_of_tool(path)} == {"cli"}, path


def imports_of_tool(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("detseg"):
            yield node.module.split(".")[1], node.lineno


def test_devices_are_named_nowhere_without_a_reason():
    found = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                device = node.value.split(":")[0]
                if device in ("cpu", "cuda", "mps", "xpu"):
                    found[path.relative_to(PACKAGE).as_posix(), device] = node.lineno
    assert found.keys() <= DEVICES.keys(), found
    assert DEVICES.keys() <= found.keys(), "a reason without its case"


def test_importing_the_package_is_light():
    code = "import sys, detseg, detseg.cli; print([m for m in ('torch', 'timm', 'numpy', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "[]"


def test_help_needs_no_torch():
    code = (
        "import sys; from detseg.cli import main\n"
        "try: main(['train', 'detector', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'timm', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.splitlines()[-1] == "[]"
