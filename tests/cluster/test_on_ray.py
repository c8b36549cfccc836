"""Ray itself: two nodes on this machine, one of which is lost; a command that is killed and given again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import detseg
from detseg.cluster import ray_data
from detseg.cluster.results import read_all, shards_in
from detseg.cluster.units import Unit
from tests.cluster.brightest import FILES, image, job, load_deadly, write_tar

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
IMAGES, ARCHIVES = 5000, 50
PATIENCE = 900  # seconds until a command is given up


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with a CPU each; `RAY_ADDRESS` leads to them."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'detseg[cluster]'")
    with pytest.MonkeyPatch.context() as patch:
        # Workers import detseg, torch and ray from where this process does.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        memory = {"num_cpus": 1, "object_store_memory": 200_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=memory | {"include_dashboard": False})
        cluster.second = cluster.add_node(**memory)
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """`run`, a detector of random weights; archives in `shards`; what the detector finds, by image."""
    import torch

    from detseg.backbones import create_backbone
    from detseg.detect.yolo import YoloDetector
    from detseg.models import save_model

    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    anchors = [[[8.0, 8.0]], [[16, 16]], [[32, 32]]]
    options = {"num_classes": 2, "anchors": anchors, "width": 16}
    model = YoloDetector(create_backbone("test_efficientnet"), 2, torch.tensor(anchors), width=16)
    architecture = {"kind": "yolo", "backbone": "test_efficientnet", "strides": [8, 16, 32], **options}
    categories = [{"id": 7, "name": "red"}, {"id": 3, "name": "other"}]
    description = {"architecture": architecture, "categories": categories, "size": 32}
    (folder / "run").mkdir()
    save_model(folder / "run", model, description)
    share = IMAGES // ARCHIVES
    for number in range(ARCHIVES):
        names = range(number * share, (number + 1) * share)
        write_tar(folder / f"shards/{number:03d}.tar", {f"{name:05d}.png": image(name) for name in names})
    return folder


@pytest.fixture(scope="module")
def plain(world):
    """What the detector finds in each image on one machine, by name."""
    import cv2

    detector, found = detseg.load(world / "run"), {}
    for number in range(IMAGES):
        pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(image(number), np.uint8), 1), cv2.COLOR_BGR2RGB)
        found[f"{number:05d}.png"] = pixels
    every = detector.stream(list(found.values()), score_threshold=0.0, run_lengths=True)
    return dict(zip(found, every, strict=True))


def command(world, output):
    words = ["predict", "run", "shards/{000..049}.tar", "--engine", "ray", "--score-threshold", "0"]
    words += ["--max-detections", "3", "--output", str(output)]
    return subprocess.Popen(
        [sys.executable, "-m", "detseg", *words],
        cwd=world,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_shards(process, folder, count):
    for _ in range(10 * PATIENCE):
        if len(shards_in(str(folder))) >= count:
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    raise AssertionError("no shards came")


def check(folder, plain):
    """Every image is there once, with what one machine finds in it."""
    seen = {}
    for _, shard in read_all(str(folder)):
        ends = shard.counts.cumsum()
        for name, error, end, count in zip(shard.images, shard.errors, ends, shard.counts, strict=True):
            assert error is None and name not in seen
            seen[name] = shard.scores[end - count : end], shard.boxes[end - count : end]
    assert seen.keys() == plain.keys()
    for name, (scores, boxes) in seen.items():
        expected = plain[name].scores[:3], plain[name].boxes[:3]
        assert scores == pytest.approx(expected[0], abs=1e-4), name
        if (np.diff(plain[name].scores[:4]) < -1e-3).all():  # else the last digits decide which comes first
            assert boxes == pytest.approx(expected[1], abs=0.05), name


def test_a_command_that_is_killed_goes_on_when_it_is_given_again(cluster, world, plain, tmp_path):
    process = command(world, tmp_path / "found")
    wait_for_shards(process, tmp_path / "found", 10)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    time.sleep(5)  # the workers that it had end
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "found").glob("*.parquet")}
    assert 10 <= len(before) < ARCHIVES
    process = command(world, tmp_path / "found")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert f"{ARCHIVES - len(before)} shards to do, {len(before)} are done already" in output
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    check(tmp_path / "found", plain)


def test_an_image_that_kills_every_worker_costs_its_unit_alone(cluster, tmp_path):
    import cv2

    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(image(number))
    cv2.imwrite(str(tmp_path / "3.png"), np.zeros((16, 16, 3), np.uint8))
    units = [Unit(f"u{number}", "images", (f"{number}.png",)) for number in range(6)]
    own = job(tmp_path, tmp_path / "found", load=load_deadly)
    with ray_data.connected() as found:
        assert found.nodes == 2
        summaries = {one.unit: one for one in ray_data.run(units, own, FILES, ray_data.actors_for(found, gpus=True))}
    assert sorted(summaries) == [unit.name for unit in units]
    assert {name for name, one in summaries.items() if one.failed} == {"u3"}
    assert summaries["u3"].failed == "u3: 4 workers died while they were at it"
    assert sorted(shards_in(str(tmp_path / "found"))) == ["u0", "u1", "u2", "u4", "u5"]


def test_a_node_that_is_lost_loses_and_doubles_nothing(cluster, world, plain, tmp_path):
    process = command(world, tmp_path / "found")
    wait_for_shards(process, tmp_path / "found", 12)
    cluster.remove_node(cluster.second, allow_graceful=False)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert "on 2 nodes, 2 CPUs, 0 GPUs: 50 shards to do, 0 are done already" in output
    assert f"{ARCHIVES} shards are in {tmp_path / 'found'}" in output and "Traceback" not in output
    check(tmp_path / "found", plain)
