"""The floors of the house: imports go downwards, modules import each other in no circle, no room names a device."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "detseg"

# From the ground up, one part a floor: a module may import its own part and those before it.
FLOORS = (
    *(
        "options",
        "lazy",
        "console",
        "reading",
        "json_text",
        "described",
        "box_formats",
        "boxes",
        "registry",
        "kernels",
        "csv_text",
        "files",
        "sharing",
        "tasks",
        "together",
        "tracing",
        "tracks",
    ),
    *(
        "data",
        "sources",
        "flowers",
        "backbones",
        "metrics",
        "detect",
        "segment",
        "classify",
        "localize",
        "descriptions",
        "models",
    ),
    *(
        "visualize",
        "results",
        "tiled",
        "runtime",
        "predict",
        "loading",
        "cluster",
        "train",
        "report",
        "exporters",
        "serve",
        "cli",
        "__main__",
    ),
)

# Where a device may be named, and why.
DEVICES = {
    ("train/loop.py", "cpu"): "reading a loss costs nothing there, so every step is checked",
    ("train/sampler.py", "cuda"): "only there pinned memory is of use",
    ("train/runner.py", "cpu"): "workers would take the cores that training needs",
    ("train/devices.py", "cpu"): "who names it wants no other",
    ("options.py", "cuda"): "a bare number is a GPU's, as other programs have it",
    ("train/resume.py", "cpu"): "files are read into ordinary memory first",
    ("backbones/weights.py", "cpu"): "so are files of weights",
    ("backbones/quick_convolutions.py", "cpu"): "only there gradients need help",
    ("backbones/padding.py", "cpu"): "and padding",
    ("backbones/fused.py", "cpu"): "its library does two layers at once",
    ("backbones/meta.py", "cpu"): "tensors without data; where they are faked, the meta device is not allowed",
    ("detect/ssd.py", "cpu"): "depthwise layers are the default there",
    ("detect/nms/__init__.py", "cpu"): "another algorithm is faster there",
    ("detect/nms/checks.py", "cpu"): "numpy only knows that memory",
    ("detect/nms/voting.py", "cpu"): "a compiled loop is faster there",
    ("detect/roi.py", "cpu"): "a compiled loop is faster there",
    ("runtime/engines.py", "cpu"): "numpy only knows that memory",
}


def modules(package=PACKAGE):
    """Paths by dotted name below the package, `detect.yolo` say; a package's own `__init__` by the package's name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        words = path.relative_to(package).with_suffix("").parts
        found[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    return found


def imports_of(name, known, package=PACKAGE):
    """The modules of detseg that a module imports anywhere in it, but for annotations only, and in which line."""
    path = known[name]
    here = ["detseg", *path.relative_to(package).parts[:-1]]
    for node in without_type_checking(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [] if not node.level else here[: len(here) - node.level + 1]
            start = [*base, *([node.module] if node.module else [])]
            names = [".".join([*start, alias.name]) for alias in node.names]
        for imported in names:
            words = imported.split(".")
            if words[0] != "detseg" or len(words) < 2:
                continue
            # The longest part of the name that is a module: the rest is something in it.
            parts = (".".join(words[1:end]) for end in range(len(words), 1, -1))
            yield next((part for part in parts if part in known), words[1]), node.lineno


def without_type_checking(tree):
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def part_of(name):
    return name.partition(".")[0]


def test_every_part_has_a_floor_and_every_floor_is_a_part():
    assert {part_of(name) for name in modules()} - {""} == set(FLOORS)
    assert len(set(FLOORS)) == len(FLOORS)


def upward(known, package=PACKAGE):
    height = {part: floor for floor, part in enumerate(FLOORS)}
    for name in known:
        if name:  # the package's own names are imported when asked for
            for imported, line in imports_of(name, known, package):
                floor = height.get(part_of(imported))
                if floor is not None and floor > height[part_of(name)]:
                    yield f"{known[name]}:{line}: {part_of(name)} may not import {imported}"


def test_imports_go_downwards():
    assert list(upward(modules())) == []


def circles(graph):
    """The sets of modules, two at least, that reach each other (Tarjan 1972)."""
    number, lowest, stack, found = {}, {}, [], []

    def visit(name):
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in graph[name]:
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            ring = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            found.extend([sorted(ring)] if len(ring) > 1 else [])

    for name in graph:
        if name not in number:
            visit(name)
    return found


def graph_of(known, package=PACKAGE):
    """What each module imports. A package's `__init__` gathers names of its modules, which import their siblings and
    not the package: so it is no part of a circle, unless a module imports from it."""
    return {name: [m for m, _ in imports_of(name, known, package) if m in known and m != name] for name in known}


def test_no_modules_import_each_other_in_a_circle():
    assert circles(graph_of(modules())) == []


def test_the_tests_see_imports_and_circles(tmp_path, monkeypatch):
    (tmp_path / "detect").mkdir()
    (tmp_path / "detect" / "bad.py").write_text(
        "from ..data import x\nimport detseg.train.plan\nfrom detseg import metrics\nfrom .own import y\n"
        "def f():\n    from detseg.cli.demo import run\n"
        "if TYPE_CHECKING:\n    from detseg.report import z\n"
    )
    (tmp_path / "detect" / "own.py").write_text("def f():\n    from detseg.detect import bad\n")
    known = modules(tmp_path)
    assert {part_of(m) for m, _ in imports_of("detect.bad", known, tmp_path)} == {
        *("data", "train", "metrics", "detect", "cli")
    }
    assert circles(graph_of(known, tmp_path)) == [["detect.bad", "detect.own"]]
    assert [line.split("import ")[1] for line in sorted(upward(known, tmp_path))] == ["train", "cli"]


def test_tools_only_call_the_command_line():
    for path in (PACKAGE.parent / "tools").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
        assert imported == ["detseg.cli"] or set(imported) <= {"__future__", "detseg.cli"}, path


def test_what_the_table_of_tasks_names_is_there_and_in_its_room():
    from detseg.tasks import TASKS, part

    rooms = {"train": "train", "predict": "predict", "page": "report", "evaluate": "cli"}
    for task, entry in TASKS.items():
        for place, room in rooms.items():
            assert getattr(entry, place).startswith(f"detseg.{room}."), (task, place)
            assert part(task, place) is not None


def test_devices_are_named_nowhere_without_a_reason():
    found = {}
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                device = node.value.split(":")[0]
                if device in ("cpu", "cuda", "mps", "xpu"):
                    found[path.relative_to(PACKAGE).as_posix(), device] = node.lineno
    assert found.keys() <= DEVICES.keys(), found
    assert DEVICES.keys() <= found.keys(), "a reason without its case"


def test_importing_the_package_is_light():
    """So is the help of every command that does not depend on models."""
    code = (
        "import sys; from detseg.cli import main, COMMANDS\n"
        "main(['--help'])\n"
        "for name in COMMANDS:\n"
        "    if not name.startswith('train'):\n"
        "        try: main([name, '--help'])\n"
        "        except SystemExit: pass\n"
        "print([m for m in ('torch', 'timm', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.splitlines()[-1] == "[]"
