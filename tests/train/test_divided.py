"""One, two and four processes with the same images a step end with the same weights."""

import sys

import pytest
import torch

from tests.train.test_processes import launch

pytestmark = pytest.mark.slow  # the gradients of each model are compared in tests/contracts/test_models.py


@pytest.mark.parametrize("parts", [1, 2])
def test_training_does_not_depend_on_the_number_of_processes(tmp_path, parts):
    runs = {}
    for world in (1, 2, 4):
        by = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world))
        launch("-m", "tests.train.divided", tmp_path / f"{world}", 8, parts, by=by)
        runs[world] = torch.load(tmp_path / f"{world}.pt", weights_only=False)
    for world in (2, 4):
        for kind in ("weights", "average"):
            for name, expected in runs[1][kind].items():
                error = (runs[world][kind][name] - expected).float().norm()
                assert error <= 1e-4 * expected.float().norm() + 1e-6, (world, kind, name)
        for row, expected in zip(runs[world]["rows"], runs[1]["rows"], strict=True):
            assert row["step"] == expected["step"]
            assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
