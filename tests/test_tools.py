"""The scripts of tools/ run and are the commands they say they are."""

import runpy
import sys
from pathlib import Path

import pytest

TOOLS = sorted((Path(__file__).resolve().parents[1] / "tools").glob("*.py"))


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.stem)
def test_every_tool_explains_its_command(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(tool), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(tool), run_name="__main__")
    assert end.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"detseg {tool.stem.replace('_', ' ')}" in printed and "--data" in printed


def test_there_is_one_for_each_task():
    assert {tool.stem for tool in TOOLS} == {
        f"train_{task}" for task in ("classifier", "detector", "localizer", "segmenter")
    }
