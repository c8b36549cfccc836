"""One of two processes of which the second meets a loss that is not finite: torchrun -m tests.train.failing FOLDER.

Each writes the error it raised, and which images it had seen last, to FOLDER-RANK.json.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from detseg.train.errors import TrainingError
from detseg.train.sampler import SizeSchedule
from tests.train.runs import BATCH, tiny_trainer

BAD_STEP = 12


class Failing(nn.Module):
    """Its loss is NaN in one of the steps."""

    def __init__(self, bad_step):
        super().__init__()
        self.backbone = nn.Linear(1, 1)
        self.bad_step, self.steps = bad_step, 0

    def forward(self, images, targets):
        self.steps += 1
        return {"loss": self.backbone(torch.ones(1, 1)).sum() * (float("nan") if self.steps == self.bad_step else 1.0)}


def main(folder):
    Path(folder).mkdir(exist_ok=True)
    accelerator, seen = Accelerator(cpu=True), []
    trainer = tiny_trainer(
        folder,
        at=seen.append,
        accelerator=accelerator,
        model=Failing(BAD_STEP if accelerator.process_index == 1 else 0),
        sizes=SizeSchedule(64, 64),
        steps=1000,
        save_seconds=0,
    )
    try:
        trainer.run()
    except TrainingError as error:
        result = {"error": str(error), "images": [trainer.job.names[i] for i in seen[-BATCH:]]}
        Path(f"{folder}-{accelerator.process_index}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
