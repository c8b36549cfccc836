"""Training throughput: whole steps (forward, loss, backward, optimiser) of detseg and its peers, in turn.

    python benchmarks/training.py [--rounds 3] [--ultralytics-python /path/to/python]

ultralytics is AGPL and no dependency of detseg: install it into an environment of its own and name that
environment's Python to have it measured too. Every contender runs in a child process of its own, round after round,
on the same images, batch and threads; the table shows medians over the rounds. Without augmentation and loading:
`benchmarks/data_loading.py` measures those.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from rates import print_rates

SIZE, BATCH, CLASSES, STEPS = 320, 16, 21, 12
# Up to stride 8: what is frozen by default when the weights are pretrained and the images few.
EARLY_STAGES = 3

ULTRALYTICS = """
import json, sys, time
import torch
from types import SimpleNamespace
from ultralytics.nn.tasks import DetectionModel
torch.set_num_threads({threads})
model = DetectionModel("yolo11n.yaml", nc={classes}, verbose=False).train()
model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.937, nesterov=True)
boxes = torch.tensor([[0.45, 0.45, 0.5, 0.5], [0.7, 0.6, 0.3, 0.4]]).repeat({batch}, 1)
batch = dict(img=torch.rand({batch}, 3, {size}, {size}), batch_idx=torch.arange({batch}).repeat_interleave(2).float(),
             cls=torch.zeros(2 * {batch}, 1), bboxes=boxes)
times = []
for _ in range({steps} + 8):
    started = time.perf_counter()
    loss = model(batch)[0].sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step(); optimizer.zero_grad()
    times.append(time.perf_counter() - started)
print(json.dumps(sorted(times[8:])[{steps} // 2]))
"""

DETSEG = """
import json, os, sys, time
if {keep}:
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as the command line does
import torch
sys.path.insert(0, {folder!r})
from default_network import architecture
from detseg import models
from detseg.models import build_model
from detseg.train.memory import keep_freed_memory
from detseg.train.optim import averaged, create_optimizer, freeze_stages, norms, parameter_groups, train_mode
torch.set_num_threads({threads})
if {keep}:
    keep_freed_memory()
if not {quick}:
    models.quicken = lambda net: 0
model = build_model(architecture("{backbone}", {classes}, folded={folded}), pretrained={pretrained})
frozen = freeze_stages(model.backbone.stages, {freeze})
model.to(memory_format=torch.channels_last)
optimizer = create_optimizer("adamw", parameter_groups(model, lr=1e-3, weight_decay=0.01, backbone_lr=0.1))
step = 0
average = averaged(model, 0.998, lambda: step)
images = torch.randint(0, 256, ({batch}, {size}, {size}, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
box = torch.tensor([[0.2, 0.2, 0.7, 0.7], [0.55, 0.4, 0.85, 0.8]]) * {size}
targets = [dict(boxes=box, labels=torch.zeros(2, dtype=torch.int64))] * {batch}
times = []
for step in range({steps} + 8):
    started = time.perf_counter()
    train_mode(model, [*frozen, *norms(model.backbone)] if {folded} else frozen)
    with torch.autocast("cpu", torch.bfloat16, enabled={bf16}):
        loss = torch.stack(list(model(images, targets).values())).sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step(); optimizer.zero_grad(); average.update_parameters(model)
    times.append(time.perf_counter() - started)
print(json.dumps(sorted(times[8:])[{steps} // 2]))
"""


def contender(
    backbone: str, *, freeze: int, folded: bool, pretrained: bool, bf16: bool, quick: bool = True, keep: bool = True
) -> str:
    return DETSEG.format(
        backbone=backbone, freeze=freeze, folded=folded, pretrained=pretrained, bf16=bf16, quick=quick, keep=keep,
        threads=os.cpu_count(), classes=CLASSES, batch=BATCH, size=SIZE, steps=STEPS,
        folder=str(Path(__file__).resolve().parent),
    )  # fmt: skip


def measure(python: str, script: str) -> float:
    """Median seconds of a step, in a child process."""
    child = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    if child.returncode:
        raise SystemExit(child.stderr)
    return float(json.loads(child.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ultralytics-python", default=None)
    options = parser.parse_args()
    lite, resnet = "tf_efficientnet_lite0", "resnet18"
    tuned = {"freeze": EARLY_STAGES, "folded": True, "bf16": True}
    scripts = {
        f"{lite}, as trained by default": contender(lite, pretrained=True, **tuned),
        "the same in float32": contender(lite, pretrained=True, **tuned | {"bf16": False}),
        "… and torch's own depthwise gradients": contender(
            lite, pretrained=True, **tuned | {"bf16": False}, quick=False
        ),
        "… and freed memory given back": contender(
            lite, pretrained=True, **tuned | {"bf16": False}, quick=False, keep=False
        ),
        "default, but torch's own depthwise gradients": contender(lite, pretrained=True, **tuned, quick=False),
        f"{lite}, nothing frozen": contender(lite, pretrained=True, **tuned | {"freeze": 0}),
        f"{lite}, from scratch": contender(lite, freeze=0, folded=False, pretrained=False, bf16=True),
        f"{resnet}, fine-tuned": contender(resnet, pretrained=False, **tuned),
        f"{resnet}, from scratch": contender(resnet, freeze=0, folded=False, pretrained=False, bf16=True),
    }
    contenders = {f"detseg {name}": (sys.executable, script) for name, script in scripts.items()}
    if options.ultralytics_python:
        script = ULTRALYTICS.format(threads=os.cpu_count(), classes=CLASSES, batch=BATCH, size=SIZE, steps=STEPS)
        contenders = {"ultralytics YOLO11n": (options.ultralytics_python, script), **contenders}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, (python, script) in contenders.items():
            rates[name].append(BATCH / measure(python, script))
    print_rates(f"training steps at {SIZE} px, batches of {BATCH}, {os.cpu_count()} threads", rates)


if __name__ == "__main__":
    main()
