"""`detseg evaluate`: tables, JSON, messages, and the command line it makes."""

import json
import re
from pathlib import Path

import pytest
import tyro

from detseg.cli.evaluate import Evaluate, run
from detseg.metrics import evaluate_detections


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    truth = {
        "images": [{"id": 5, "width": 200, "height": 200}],
        "categories": [{"id": 2, "name": "rose"}, {"id": 3, "name": "tulip [white]"}],
        "annotations": [{"id": 0, "image_id": 5, "category_id": 2, "bbox": [10, 10, 50, 50], "iscrowd": 0}],
    }
    results = [{"image_id": 5, "category_id": 2, "bbox": [10, 10, 50, 36], "score": 0.9}]
    paths = tmp_path / "gt.json", tmp_path / "dt.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_tables(files, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert run(Evaluate(*files)) == 0
    lines = capsys.readouterr().out.splitlines()

    def cells(start: str) -> list[str]:
        (line,) = (line for line in lines if line.startswith(f"│ {start}"))
        return [cell.strip() for cell in line.strip("│").split("│")]

    assert cells("all") == ["all", "0.500", "1.000", "0.000", "0.500", "0.500", "0.500"]
    assert cells("small") == ["small (to 32²)", "–", "", "", "", "", "–"]
    assert cells("medium") == ["medium (to 96²)", "0.500", "", "", "", "", "0.500"]
    assert cells("rose") == ["rose", "1", "1", "0.500", "1.000", "0.500"]
    # Brackets in a name are not markup.
    assert cells("tulip [white]") == ["tulip [white]", "0", "0", "–", "–", "–"]
    assert any("pictures: 1, objects: 1, detections: 1" in line for line in lines)


def test_json_alone_on_stdout(files, capfd) -> None:
    assert run(Evaluate(*files, json=True)) == 0
    content = json.loads(capfd.readouterr().out)
    assert content == evaluate_detections(*files).to_dict()
    assert content["figures"]["AP"] == pytest.approx(0.5)


def test_mistakes_are_one_line(files, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"absent\.json: cannot be read") as error:
        run(Evaluate(files[0], tmp_path / "absent.json"))
    assert "\n" not in str(error.value)


def test_command_line(files) -> None:
    arguments = ["--ground-truth", "a.json", "--detections", "b.json", "--iou-type", "segm", "--json"]
    expected = Evaluate(Path("a.json"), Path("b.json"), "segm", json=True)
    assert tyro.cli(Evaluate, args=arguments) == expected
    assert tyro.cli(Evaluate, args=arguments[:4]) == Evaluate(Path("a.json"), Path("b.json"))
    with pytest.raises(SystemExit):
        tyro.cli(Evaluate, args=arguments[:2])


def test_the_page_in_docs_runs(capsys) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluate.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)
    for language, code in blocks:
        if language == "python":
            exec(code, {})
        elif language == "json":
            json.loads(code)
    # The rose's box has IoU 2400 / 2548 = 0.94 and passes 9 of the 10 thresholds, the tulip's none.
    printed = capsys.readouterr().out.splitlines()
    expected = ["mAP 0.450, at IoU 0.50 0.500", "rose: AP 0.900, objects 1", "tulip: AP 0.000, objects 1"]
    assert printed == expected
    shell = "".join(code for language, code in blocks if language == "sh")
    for line in shell.splitlines():
        words = line.split(" > ")[0].split()
        assert words[:2] == ["detseg", "evaluate"]
        tyro.cli(Evaluate, args=words[2:])
