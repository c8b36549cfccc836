"""MLflow, with its store in a folder."""

import pytest

from detseg.train.callbacks.mlflow import EXPERIMENT, KEPT, Mlflow
from tests.train.callbacks.following import followed, row

mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Of a store that is empty."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    return mlflow.MlflowClient()


def only_run(client):
    (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    return run


def test_a_run_is_followed_from_its_start_to_its_end(client, tmp_path):
    run, tracker = followed(tmp_path / "detector-1"), Mlflow()
    tracker.start(run, 0)
    tracker.step(run, 10, {"loss": 2.0, "loss_box": 1.5, "bad": float("nan")})
    tracker.validation(run, row(12, 0.5))
    run.metrics = {"AP": 0.5, "AP50": float("nan")}
    tracker.end(run, None)
    found = only_run(client)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "detector-1")
    assert (run.folder / KEPT).read_text().strip() == found.info.run_id
    expected = {"task": "detector", "epochs": "3", "strides": "(8, 16)", "images": "8", "validation_images": "4"}
    assert found.data.params == expected | {"classes": "2"}
    curves = {"train/loss": 2.0, "train/loss_box": 1.5, "val/map": 0.5, "val/lr": 0.1, "best/map": 0.5}
    assert found.data.metrics == curves
    assert [m.step for m in client.get_metric_history(found.info.run_id, "val/map")] == [12]
    assert {file.path for file in client.list_artifacts(found.info.run_id)} == {"config.json", "metrics.csv"}


def test_a_resumed_run_goes_on_with_its_own(client, tmp_path):
    run = followed(tmp_path / "detector-1")
    for step, interrupted in ((0, True), (12, False)):
        run.interrupted, tracker = interrupted, Mlflow()
        tracker.start(run, step)
        assert only_run(client).info.status == "RUNNING"
        tracker.validation(run, row(step + 12))
        tracker.end(run, None)
        assert only_run(client).info.status == ("KILLED" if interrupted else "FINISHED")
    history = client.get_metric_history(only_run(client).info.run_id, "val/map")
    assert [metric.step for metric in history] == [12, 24]


def test_a_run_that_fails_and_a_model_to_upload(client, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    run, tracker = followed(tmp_path / "detector-1"), Mlflow(model=True)
    tracker.start(run, 0)
    for step in range(10, 6000, 10):  # more than go in one call
        tracker.step(run, step, {"loss": 1.0})
    tracker.end(run, ValueError())
    found = only_run(client)
    assert found.info.status == "FAILED" and found.data.metrics == {"train/loss": 1.0}
    assert "model.safetensors" in {file.path for file in client.list_artifacts(found.info.run_id)}
