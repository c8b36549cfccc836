"""One of several processes that train together for a few steps: torchrun -m tests.train.divided FOLDER IMAGES PARTS.

Each takes its share of IMAGES images a step, in PARTS batches; the first writes weights and losses to FOLDER.pt. Batch
norm keeps its statistics, and nothing is dropped: what else there is does not depend on who has which image.
"""

import sys
from dataclasses import replace

import torch
from accelerate import Accelerator

from detseg.backbones import create_backbone
from detseg.detect.yolo import YoloDetector
from detseg.train.optim import norms
from detseg.train.sampler import TrainingSamples
from tests.train.runs import Drawn, tiny_trainer

STEPS, IMAGES = 20, 40


class Uneven(Drawn):
    """Every third image has nothing to learn."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        count = int(index % 3 > 0)
        return replace(sample, boxes=sample.boxes[:count], labels=sample.labels[:count], iscrowd=sample.iscrowd[:count])


def main(folder, images, parts):
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    anchors = torch.tensor([[[12.0, 12]], [[24, 24]], [[40, 40]]])
    model = YoloDetector(create_backbone("test_efficientnet"), 2, anchors, width=16, bins=8)
    trainer = tiny_trainer(
        f"{folder}-run",
        accelerator=accelerator,
        model=model,
        samples=TrainingSamples(Uneven(images=IMAGES), 5),
        batch_size=int(images) // (accelerator.num_processes * int(parts)),
        accumulate=int(parts),
        in_eval=norms(model),
        steps=STEPS,
    )
    trainer.run()
    if accelerator.is_main_process:
        weights = {name: p.detach() for name, p in trainer.model.named_parameters()}
        torch.save(
            {"weights": weights, "average": trainer.average.state_dict(), "rows": trainer.log.rows}, f"{folder}.pt"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
