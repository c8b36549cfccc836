"""Where the time of one training step goes: torch's operators by their own time, forward to optimiser.

    python benchmarks/profile_step.py [--backbone tf_efficientnet_lite0] [--batch 8] [--steps 5]

The default detector at 320 px as `detseg train detector` trains it, on random images, after a warm-up that also
settles the memory. Copies between number formats are told from other copies, most of which are padding.
"""

import argparse
import os
from collections import Counter

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does

import torch
from default_network import architecture
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from detseg.models import build_model
from detseg.train.memory import keep_freed_memory
from detseg.train.optim import averaged, create_optimizer, freeze_stages, norms, parameter_groups, train_mode

SIZE, WARM_UP, BETWEEN, ROWS = 320, 20, 2, 14
CONVOLUTIONS = ("aten::convolution_backward", "aten::mkldnn_convolution")


def training_step(backbone: str, batch: int, *, pretrained: bool, bf16: bool):
    """A function that does one step of the default training."""
    keep_freed_memory()
    model = build_model(architecture(backbone), pretrained=pretrained)
    early = sum(stride <= 8 for stride in model.backbone.stage_strides)
    frozen = freeze_stages(model.backbone.stages, early)
    model.to(memory_format=torch.channels_last)
    train_mode(model, [*frozen, *norms(model.backbone)])
    optimizer = create_optimizer("adamw", parameter_groups(model, lr=1e-3, weight_decay=0.01, backbone_lr=0.1))
    steps = 0
    average = averaged(model, 0.998, lambda: steps)
    images = torch.randint(0, 256, (batch, SIZE, SIZE, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    boxes = torch.tensor([[0.2, 0.2, 0.7, 0.7], [0.55, 0.4, 0.85, 0.8]]) * SIZE
    targets = [{"boxes": boxes, "labels": torch.zeros(2, dtype=torch.int64)}] * batch

    def step() -> None:
        nonlocal steps
        steps += 1
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = torch.stack(list(model(images, targets).values())).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)

    return step


def name_of(event) -> str:
    """What an event of the profiler counts as."""
    if event.name in CONVOLUTIONS:
        return "convolutions, forward and backward"
    if event.name == "aten::copy_":
        cast = event.cpu_parent is not None and event.cpu_parent.name == "aten::_to_copy"
        return "copies to another number format" if cast else "other copies"
    return event.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--no-pretrained", action="store_true", help="for backbones whose weights are not at hand")
    parser.add_argument("--fp32", action="store_true", help="float32 in place of bfloat16 autocast")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    step = training_step(options.backbone, options.batch, pretrained=not options.no_pretrained, bf16=not options.fp32)
    own, calls = Counter[str](), Counter[str]()
    for _ in range(WARM_UP):
        step()
    for _ in range(options.steps):
        for _ in range(BETWEEN):  # what the profiler keeps takes memory from the step, which first has to settle again
            step()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            step()
        for event in profiler.events():
            own[name_of(event)] += event.self_cpu_time_total
            calls[name_of(event)] += 1
    table = Table(title=f"one training step of {options.backbone}, {options.batch} images of {SIZE} px")
    for column in ("operator", "ms", "share", "calls"):
        table.add_column(column, justify="left" if column == "operator" else "right")

    def add(title: str, names: list[str]) -> None:
        time = sum(own[name] for name in names)
        count = sum(calls[name] for name in names) / options.steps
        table.add_row(title, f"{time / options.steps / 1000:.1f}", f"{100 * time / own.total():.1f} %", f"{count:.0f}")

    largest = [name for name, _ in own.most_common()]
    for name in largest[:ROWS]:
        add(name, [name])
    add(f"{len(largest) - ROWS} others together", largest[ROWS:])
    add("all", largest)
    Console().print(table)


if __name__ == "__main__":
    main()
