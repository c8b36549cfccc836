"""One of several processes that train together.

To be started by torchrun: -m tests.train.processes DATA OUTPUT [TASK [PATIENCE [MODEL [FLAG …]]]].
With a patience above 0, no validation is better than the first.
"""

import sys
from pathlib import Path

import torch
from accelerate import PartialState

from detseg.train import process, runner
from detseg.train.config import config_for
from detseg.train.loop import Trainer
from detseg.train.precision import Choice, Decision

SETTINGS = {"backbone": "test_efficientnet", "weights": "none", "size": 64, "epochs": 3, "batch_size": 2, "lr": 0.02}


def main(data, output, task="detector", patience="0", model=None, *flags):
    kept, validate = [], runner.Run.validate

    class Kept(Trainer):
        def __post_init__(self):
            super().__post_init__()
            kept.append(self)

    choice = Choice("fp32", True)
    runner.Trainer = Kept
    process.choose = lambda spec, precision: Decision(choice, {choice: 1.0})
    settings = SETTINGS | dict.fromkeys(flags, True)
    if int(patience):
        settings |= {"patience": int(patience), "epochs": 10}
        runner.Run.validate = lambda self, *given: validate(self, *given) | {self.goal: 0.5}
    run = runner.train(config_for(task, model)(data=Path(data), output=Path(output), **settings))
    trainer = kept[0]
    weights = {name: p.detach() for name, p in trainer.model.named_parameters()}
    result = {"weights": weights, "average": trainer.average.state_dict(), "predictions": run.predictions}
    torch.save(
        result | {"metrics": run.metrics, "step": trainer.progress.step}, f"{output}-{PartialState().process_index}.pt"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
