"""A worker: the shard of a unit is whole, the same whenever it is written, and no image ends it."""

import json

import pytest

from detseg.cluster import worker
from detseg.cluster.units import Unit
from detseg.cluster.worker import Worker, model_files
from tests.cluster.brightest import FILES, expected, image, job


@pytest.fixture
def unit(tmp_path):
    names = []
    for number in range(11):
        names.append(f"{number}.png")
        (tmp_path / names[-1]).write_bytes(image(number) if number not in (2, 7) else b"no image")
    return Unit("images-000000-abc", "images", tuple(names))


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("at_once", [1, 3, 8, 100])
def test_a_row_for_each_image_in_order(unit, tmp_path, at_once):
    summary = Worker(job(tmp_path, tmp_path / "out", at_once=at_once), FILES).do(unit)
    assert (summary.images, summary.objects, summary.errors, summary.failed) == (9, 9, 2, "")
    assert summary.at_the_cap == 9 and [text.partition(":")[0] for text in summary.first] == ["2.png", "7.png"]
    found = rows(tmp_path / "out/images-000000-abc.jsonl")
    assert [row["image"] for row in found] == list(unit.sources)
    for number, row in enumerate(found):
        if number in (2, 7):
            assert row["error"].startswith("not a readable image") and row["width"] is None and row["boxes"] == []
        else:
            assert (row["boxes"], row["labels"]) == expected(number) and row["error"] is None
            assert (row["width"], row["height"]) == (16, 16) and row["names"] == [["red", "other"][row["labels"][0]]]


def test_what_is_written_is_not_written_again(unit, tmp_path):
    own = Worker(job(tmp_path, tmp_path / "out"), FILES)
    first = own.do(unit)
    path = tmp_path / "out/images-000000-abc.jsonl"
    before = path.stat().st_mtime_ns, path.read_bytes()
    again = own.do(unit)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    assert (again.images, again.objects, again.errors, again.first) == (
        *(first.images, first.objects, first.errors, first.first),
    )
    path.unlink()
    own.do(unit)
    assert path.read_bytes() == before[1] and [p.name for p in (tmp_path / "out").iterdir()] == [path.name]


def test_storage_that_fails_fails_the_unit_and_leaves_no_shard(unit, tmp_path, monkeypatch):
    own = Worker(job(tmp_path, tmp_path / "out"), FILES)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker, "write", full)
    assert own.do(unit).failed == "0.png: No space left on device"
    assert not (tmp_path / "out").exists()


def test_classes_and_threshold(unit, tmp_path):
    summary = Worker(job(tmp_path, tmp_path / "out", classes=("red",)), FILES).do(unit)
    assert summary.objects == 4  # 1, 3, 5, 9
    none = Unit("none", "images", ())
    assert Worker(job(tmp_path, tmp_path / "out"), FILES).do(none).images == 0
    assert rows(tmp_path / "out/none.jsonl") == []


def test_the_files_of_models(tmp_path):
    for name in ("model.json", "model.safetensors", "model.xml", "model.bin", "model.onnx", "resume.pt"):
        (tmp_path / name).write_text(name)
    assert sorted(model_files(tmp_path)) == ["model.json", "model.safetensors"]
    assert sorted(model_files(tmp_path / "model.xml")) == ["model.bin", "model.xml"]
    (tmp_path / "model.bin").unlink()
    assert model_files(tmp_path / "model.onnx") == {"model.onnx": b"model.onnx"}
