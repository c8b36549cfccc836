"""A detector with a tree of classes and images of which only the class is known: the commands from end to end."""

import csv
import json
import shutil
import signal
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from detseg.cli import main
from detseg.models import load_model
from detseg.train.mixed import MixedSamples
from detseg.train.sampler import Request
from tests.cli.conftest import QUICK, trained
from tests.train.runs import differences, state_of

TREE = "shape\n  angular\n    square\n    bar\n  disc\n"


def write_labelled(folder, **counts):
    """A folder of images for each class."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(folder / name / f"{i}.png"), rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
    return folder


@pytest.fixture(scope="module")
def world(small, tmp_path_factory):
    """A tree, labelled images and a run with both."""
    folder = tmp_path_factory.mktemp("tree")
    (folder / "tree.txt").write_text(TREE)
    labels = write_labelled(folder / "labels", disc=3, angular=2)
    words = ["--tree", str(folder / "tree.txt"), "--labels", str(labels), "--epochs", "2", "--lr", "0.01"]
    run = trained("detector", small, folder / "run", *words)
    return SimpleNamespace(folder=folder, run=run.folder, output=run.output, words=words, data=small)


def test_a_run_knows_its_nodes_and_tells_levels(world):
    description = load_model(world.run)[1]
    assert [(c["id"], c["name"]) for c in description["categories"]] == [
        (7, "square"), (3, "bar"), (8, "shape"), (9, "angular"), (10, "disc"),
    ]  # fmt: skip
    assert description["architecture"]["tree"] == [3, 3, -1, 2, 2]
    assert "5 images of 2 classes without boxes teach classes" in world.output
    with (world.run / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    assert float(row["AP_level3"]) == float(row["map"]) and float(row["AP_level1"]) >= 0
    page = (world.run / "report.html").read_text(encoding="utf-8")
    for text in ("AP level 2", "What objects come out as", "angular", "A node above its own", "5 nodes on 3 levels"):
        assert text in page
    assert "AP level 3" in world.output and "What objects come out as" in world.output


def test_evaluate_gives_the_figures_of_the_run(world, capsys):
    capsys.readouterr()
    assert main(["evaluate", "--detections", str(world.run), "--json", "--resamples", "0"]) == 0
    content = json.loads(capsys.readouterr().out)
    description = load_model(world.run)[1]
    assert content["figures"]["AP"] == pytest.approx(description["training"]["map"])
    assert [level["level"] for level in content["levels"]] == [1, 2, 3]
    assert content["levels"][2]["figures"]["AP"] == content["figures"]["AP"]
    assert sum(sum(row.values()) for row in content["outcomes"].values()) == content["objects"]


def test_a_ground_truth_may_label_inner_nodes_and_name_some_of_the_classes(world, tmp_path, capsys):
    content = json.loads((world.data / "val.json").read_text())
    content["categories"] = [{"id": 1, "name": "angular"}]
    content["annotations"] = [entry | {"category_id": 1} for entry in content["annotations"]]
    truth = tmp_path / "angular.json"
    truth.write_text(json.dumps(content))
    words = ["evaluate", "--detections", str(world.run), "--ground-truth", str(truth), "--resamples", "0", "--json"]
    assert main([*words, "--images", str(world.data / "images")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["outcomes"].keys() == {"angular"} and found["figures"]["AP"] is None, "at the leaves nothing is known"
    assert found["levels"][1]["figures"]["AP"] is not None


def test_predict_speaks_of_nodes_and_lists_leaves_for_map(world, tmp_path, capsys):
    words = ["predict", str(world.run), "--score-threshold", "0", "--output"]
    image = str(world.data / "images/val0.png")
    for threshold, names in (("0", {"square", "bar", "disc"}), ("1", {"shape"})):
        assert main([*words, str(tmp_path / threshold), image, "--tree-threshold", threshold]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(image))
        assert {part.split()[1] for part in line.removeprefix(f"{image}: ").split(", ")} <= names
    results = json.loads((tmp_path / "1/detections.json").read_text())
    assert {row["category_id"] for row in results} == {8}
    assert main([*words, str(tmp_path / "all"), "--image-ids", str(world.data / "val.json")]) == 0
    assert "detections of classes of the tree that" in capsys.readouterr().out, "of disc"
    found = tmp_path / "all/detections.json"
    assert {row["category_id"] for row in json.loads(found.read_text())} <= {7, 3}
    truth = ["--ground-truth", str(world.data / "val.json"), "--detections", str(found), "--json", "--resamples", "0"]
    assert main(["evaluate", *truth]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["AP50"] == pytest.approx(load_model(world.run)[1]["training"]["map50"])


def test_tree_threshold_is_for_trees(run, world, capsys):
    assert main(["predict", str(run.folder), "x.png", "--tree-threshold", "0.2"]) == 1
    assert "was trained without --tree; leave out --tree-threshold" in capsys.readouterr().err
    assert main(["predict", str(world.run), "x.png", "--tree-threshold", "2"]) == 1
    assert "--tree-threshold is a share" in capsys.readouterr().err


@pytest.mark.slow
def test_labels_teach_without_a_tree_too(small, tmp_path):
    labels = write_labelled(tmp_path / "labels", square=2)
    run = trained("detector", small, tmp_path / "run", "--labels", str(labels), "--epochs", "1")
    assert "tree" not in load_model(run.folder)[1]["architecture"]


def test_mistakes_in_trees_and_labels(world, small, tmp_path, capsys):
    (tmp_path / "tree.txt").write_text("shape\n  Square\n  bar\n")
    (tmp_path / "labels/circle").mkdir(parents=True)
    shutil.copytree(small / "images", tmp_path / "seen/square")
    broken = write_labelled(tmp_path / "broken", square=1)
    (broken / "square/0.png").write_bytes(b"no image")
    write_labelled(tmp_path / "odd", Square=1)
    for words, message in (
        (["--tree", tmp_path / "tree.txt"], "no line for the data set's 'square' (near: 'Square')"),
        (["--tree", tmp_path / "none.txt"], "none.txt: cannot be read"),
        (["--labels", tmp_path / "labels"], "holds no folders with images"),
        (["--labels", tmp_path / "odd"], "these folders have no class's name: 'Square' (near: 'square')"),
        (["--labels", tmp_path / "seen"], "too, as"),
        (["--labels", broken], "0.png"),
    ):
        assert main(["train", "detector", "--data", str(small), *QUICK, *map(str, words)]) == 1
        assert message in capsys.readouterr().err


# ------------------------------------------------------------------ mixed batches


class Images:
    """Images by position, with a label or with a box."""

    def __init__(self, count, label):
        self.count, self.label = count, label

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return (np.full((8, 8, 3), index, np.uint8), 5) if self.label else f"boxed {index}"


def untouched(size):
    return lambda sample, rng: sample


@pytest.mark.parametrize(("boxed", "labelled"), [(4, 2), (3, 3), (3, 8)])
def test_an_epoch_has_all_boxed_images_and_labelled_ones_in_turn(boxed, labelled):
    samples = MixedSamples(Images(boxed, False), Images(labelled, True), 0, untouched)
    slots = min(boxed, labelled)
    assert len(samples) == boxed + slots
    seen = []
    for epoch in range(labelled):
        for position in range(len(samples)):
            sample, (index,) = samples[Request(epoch, position, position, 64, False)]
            if position < boxed:
                assert sample == f"boxed {index}" and index == position
                continue
            seen.append(index - boxed)
            assert sample.image[0, 0, 0] == index - boxed and sample.image_labels.tolist() == [5]
            assert len(sample.boxes) == 0
    assert np.bincount(seen).tolist() == [slots] * labelled, "all as often"


@pytest.mark.slow
def test_stopped_and_resumed_is_the_same_but_not_with_other_labels_or_another_tree(
    world, tmp_path, capsys, monkeypatch
):
    whole, folder = MixedSamples.__getitem__, tmp_path / "parts"
    count = iter(range(1000))

    def stopping(self, request):
        if next(count) == 19:
            signal.raise_signal(signal.SIGINT)
        return whole(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(MixedSamples, "__getitem__", stopping)
        words = ["train", "detector", "--data", str(world.data), "--output", str(folder), *QUICK, *world.words]
        assert main(words) == 130
    assert 1 <= state_of(folder)["step"] < state_of(world.run)["step"]
    config = json.loads((folder / "config.json").read_text())
    labels = write_labelled(tmp_path / "labels", disc=4, angular=2)
    (tmp_path / "tree.txt").write_text(TREE.replace("    bar", "  bar"))
    for change, message in (
        ({"labels": str(labels)}, "the training labels have changed since this run was started"),
        ({"tree": str(tmp_path / "tree.txt")}, "the training tree and the validation tree have changed"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        assert main(["train", "detector", "--resume", str(folder)]) == 1
        assert message in capsys.readouterr().err
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["train", "detector", "--resume", str(folder)]) == 0
    assert differences(state_of(folder), state_of(world.run)) == []
