"""Where the time of one training step goes: torch's operators by their own time, forward to optimiser.

    python benchmarks/profile_step.py [--backbone tf_efficientnet_lite0] [--batch 8] [--steps 5]

The default detector at 320 px as `detseg train detector` trains it, on random pictures, after a warm-up that also
settles the memory.
"""

import argparse
import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, schedule

from detseg.detect.anchors import fit_anchors
from detseg.train.checkpoint import build_model
from detseg.train.memory import keep_freed_memory
from detseg.train.optim import averaged, create_optimizer, freeze_stages, norms, parameter_groups, train_mode

SIZE, CLASSES, WARM_UP, ROWS = 320, 21, 20, 14
CONVOLUTION = ("aten::convolution_backward", "aten::mkldnn_convolution")


def training_step(backbone: str, batch: int, *, pretrained: bool, bf16: bool):
    """A function that does one step of the default training."""
    keep_freed_memory()
    anchors = fit_anchors([[s, s * r] for s in (24, 40, 64, 96, 150, 240) for r in (0.8, 1.2)], 3, 3)
    model = build_model(
        {"kind": "yolo", "backbone": backbone, "strides": (8, 16, 32), "num_classes": CLASSES,
         "anchors": anchors.tolist(), "folded": True},
        pretrained=pretrained,
    )  # fmt: skip
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--no-pretrained", action="store_true", help="for backbones whose weights are not at hand")
    parser.add_argument("--fp32", action="store_true", help="float32 in place of bfloat16 autocast")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    step = training_step(options.backbone, options.batch, pretrained=not options.no_pretrained, bf16=not options.fp32)
    plan = schedule(wait=WARM_UP, warmup=WARM_UP, active=options.steps)
    with profile(activities=[ProfilerActivity.CPU], schedule=plan) as profiler:
        for _ in range(2 * WARM_UP + options.steps):
            step()
            profiler.step()
    rows = [e for e in profiler.key_averages() if not e.key.startswith("ProfilerStep")]
    total = sum(e.self_cpu_time_total for e in rows)
    table = Table(title=f"one training step of {options.backbone}, {options.batch} pictures of {SIZE} px")
    for column in ("operator", "ms", "share", "calls"):
        table.add_column(column, justify="left" if column == "operator" else "right")

    def add(name: str, events: list) -> None:
        own = sum(e.self_cpu_time_total for e in events)
        calls = sum(e.count for e in events) / options.steps
        table.add_row(name, f"{own / options.steps / 1000:.1f}", f"{100 * own / total:.1f} %", f"{calls:.0f}")

    rest = sorted((e for e in rows if e.key not in CONVOLUTION), key=lambda e: -e.self_cpu_time_total)
    add("convolutions, forward and backward", [e for e in rows if e.key in CONVOLUTION])
    for event in rest[:ROWS]:
        add(event.key, [event])
    add(f"{len(rest) - ROWS} others together", rest[ROWS:])
    add("all", rows)
    Console().print(table)


if __name__ == "__main__":
    main()
