"""`make bench` runs every script of `benchmarks/` without a word: none may ask for data."""

import ast
import importlib.util
from pathlib import Path

from detseg.data.formats import read_labelled_dataset

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


def test_no_argument_is_required():
    for script in SCRIPTS:
        for call in ast.walk(ast.parse(script.read_text())):
            if not isinstance(call, ast.Call) or getattr(call.func, "attr", "") != "add_argument":
                continue
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            named = ast.literal_eval(call.args[0]).startswith("-")
            optional = given.get("required", "False") == "False" if named else given.get("nargs") in ("'?'", "'*'")
            assert optional, f"{script.name}:{call.lineno}"


def test_transfer_draws_its_data(tmp_path):
    script = next(path for path in SCRIPTS if path.stem == "transfer")
    spec = importlib.util.spec_from_file_location("transfer", script)
    transfer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(transfer)
    splits = read_labelled_dataset(transfer.draw_crops(tmp_path, train=4, val=4))
    assert {"daisy", "rose"} <= set(splits["train"].names) == set(splits["val"].names)
    assert len(splits["train"]) > 4
    assert len(transfer.some_of_each(splits["train"], 1, 0)) <= len(splits["train"].names)
