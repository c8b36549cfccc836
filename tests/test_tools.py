"""The scripts of tools/ run and are the commands they say they are."""

import runpy
import sys
from pathlib import Path

import pytest


def test_there_is_a_script_for_each_task_that_explains_its_command(monkeypatch, capsys):
    tools = sorted((Path(__file__).resolve().parents[1] / "tools").glob("*.py"))
    assert [tool.stem for tool in tools] == [
        f"train_{task}" for task in ("classifier", "detector", "localizer", "segmenter")
    ]
    for tool in tools:
        monkeypatch.setattr(sys, "argv", [str(tool), "--help"])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(tool), run_name="__main__")
        printed = " ".join(capsys.readouterr().out.split())
        assert end.value.code == 0 and f"detseg {tool.stem.replace('_', ' ')}" in printed and "--data" in printed, tool
