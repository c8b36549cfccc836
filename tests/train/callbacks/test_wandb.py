"""Weights & Biases, offline."""

import pytest

from detseg.train.callbacks.wandb import KEPT, WeightsAndBiases
from tests.train.callbacks.following import followed, row

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Nothing leaves the machine or is written outside."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "own"))


def test_a_run_is_followed_and_gone_on_with_under_its_own_name(tmp_path, monkeypatch):
    logged, summaries = [], []
    log, update = wandb.sdk.wandb_run.Run.log, wandb.sdk.wandb_summary.Summary.update
    monkeypatch.setattr(
        wandb.sdk.wandb_run.Run, "log", lambda run, data: (logged.append((run.id, data)), log(run, data))
    )
    monkeypatch.setattr(
        wandb.sdk.wandb_summary.Summary, "update", lambda s, data: (summaries.append(data), update(s, data))
    )
    run = followed(tmp_path / "detector-1")
    for step in (0, 12):
        tracker = WeightsAndBiases(model=step > 0)
        tracker.start(run, step)
        begun = tracker._run
        assert begun.name == "detector-1" and begun.config["epochs"] == 3 and begun.config["images"] == 8
        tracker.step(run, step + 10, {"loss": 2.0, "bad": float("inf")})
        tracker.validation(run, row(step + 12, 0.5))
        run.metrics = {"AP": 0.5, "AP50": 0.75}
        tracker.end(run, None)
    own = (run.folder / KEPT).read_text().strip()
    assert [entry for name, entry in logged if name == own] == [
        {"step": 10, "train/loss": 2.0},
        {"step": 12, "val/map": 0.5, "val/lr": 0.1},
        {"step": 22, "train/loss": 2.0},
        {"step": 24, "val/map": 0.5, "val/lr": 0.1},
    ]
    assert summaries == [{"best/map": 0.5, "best/map50": 0.75}] * 2
    assert len(list((run.folder / "wandb").glob(f"offline-run-*-{own}"))) >= 1


def test_one_that_never_began_has_nothing_to_end(tmp_path):
    WeightsAndBiases().end(followed(tmp_path / "run"), ValueError())
