"""One task after another: each run begins with the backbone of the one before, whose norms are folded."""

import pytest
import torch
from safetensors.torch import load_file

from detseg.backbones import create_backbone
from detseg.cli import main
from detseg.data.crops import crops_of
from detseg.data.formats import read_dataset
from tests.backbones.test_folding import shake_norms
from tests.train.runs import differences


def backbone_of(run):
    """The tensors of the backbone in a run folder."""
    state = load_file(run / "model.safetensors")
    return {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}


@pytest.fixture
def train(tmp_path, capsys):
    """`train(task, data, weights, *words)` with the backbone held fast: the run's folder, and the lines it printed."""

    def train(task, data, weights, *words):
        folder = tmp_path / f"run {len(list(tmp_path.glob('run *')))}"
        settings = "--backbone test_efficientnet --size 64 --batch-size 4 --epochs 1 --freeze all"
        given = ["--data", str(data), "--output", str(folder), "--weights", str(weights), *settings.split(), *words]
        assert main(["train", task, *given]) == 0, capsys.readouterr().err
        return folder, capsys.readouterr().out.splitlines()

    return train


@pytest.mark.slow
def test_from_a_classifier_to_a_segmenter_and_back(small, masked, tmp_path, train):
    for split, data in read_dataset(small).items():
        crops_of(data, tmp_path / "crops" / split, margin=0.3, min_side=4)
    backbone = create_backbone("test_efficientnet", strides=(8, 16, 32))
    shake_norms(backbone)
    torch.save(backbone.state_dict(), tmp_path / "weights.pt")

    run, _ = train("classifier", tmp_path / "crops", tmp_path / "weights.pt", "--strategy", "probe")
    learnt = backbone_of(run)
    assert not any("running_mean" in name for name in learnt)
    for task, data, words in [
        ("localizer", small, ()),
        ("detector", small, ()),
        ("segmenter", masked, ("--atrous",)),
        ("classifier", tmp_path / "crops", ()),
    ]:
        weights = run / "model.safetensors"
        run, lines = train(task, data, weights, *words)
        assert differences(backbone_of(run), learnt) == [], task
        assert any(line.startswith(f"weights from {weights}: {len(learnt)} tensors copied") for line in lines), task
    # No norm is left that could tell what the network has seen.
    (strategy,) = [line for line in lines if line.startswith("strategy: ")]
    assert "how much they look like those of the pretraining is not known" in strategy


@pytest.mark.slow
def test_a_run_with_another_backbone_is_refused(small, tmp_path, train, capsys):
    backbone = create_backbone("test_efficientnet", strides=(8, 16))
    torch.save(backbone.state_dict(), tmp_path / "weights.pt")
    run, _ = train("detector", small, tmp_path / "weights.pt", "--strides", "8", "16")
    words = ["--backbone", "test_efficientnet", "--size", "64", "--output", str(tmp_path / "deeper")]
    weights = run / "model.safetensors"
    assert main(["train", "localizer", "--data", str(small), *words, "--weights", str(weights)]) == 1
    error = capsys.readouterr().err
    assert f"{weights} does not fit: 10 problems" in error
    assert "net.blocks.4.0.conv_pw.bias (192,) gets nothing" in error
    assert "or start from random ones (--weights none" in error
