"""Which number format and memory layout trains a model fastest here: measured, not guessed.

bfloat16 halves the time of dense convolutions on some CPUs and doubles that of depthwise ones' backward pass;
channels_last helps most networks and crashes a few. So a few real steps are timed in a child process: a crash
there costs nothing but that candidate. Candidates take turns, for other processes may come and go meanwhile.

    python -m detseg.train.precision < spec.json      # JSON lines: what is tried, and the seconds of each round
"""

import json
import logging
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch

from detseg.backbones.normalise import ONE_VALUE
from detseg.sharing import sharing_cores

logger = logging.getLogger(__name__)

Precision = Literal["bf16", "fp32"]


class Choice(NamedTuple):
    """A number format and whether convolutions see NHWC memory."""

    precision: Precision
    channels_last: bool

    @property
    def memory_format(self) -> torch.memory_format:
        """Torch's name of the layout."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        name = "bfloat16 autocast" if self.precision == "bf16" else "float32"
        return f"{name}, {'channels_last' if self.channels_last else 'contiguous'}"


CANDIDATES = tuple(Choice(p, c) for c in (True, False) for p in ("fp32", "bf16"))
# The rest are tried only where these fail: contiguous memory is seldom faster, and each trial delays the start.
PREFERRED = CANDIDATES[:2]
# A candidate that takes so many times as long as another on two tiny images is not timed on large ones: where a
# processor has no instructions for bfloat16, a few steps would cost minutes. Its time is reckoned from the tiny ones.
HOPELESS = 4
# More rounds follow the first while no candidate leads: the quickest in so many of them, and the quickest of all.
ROUNDS, MOST_ROUNDS, LEAD = 3, 7, 0.75
EQUAL = 1.05  # a candidate that takes so many times as long is as good


class Decision(NamedTuple):
    """What to train with, and what it follows from."""

    choice: Choice
    times: dict[Choice, float]  # quickest seconds of a step of each candidate
    sure: bool = True  # False where the times contradict each other


class _OnlyHereError(Exception):
    """A model that this process has built cannot be built in a child."""


def measure(spec: dict[str, Any], candidates: Sequence[Choice] = PREFERRED) -> dict[Choice, list[float]]:
    """Seconds of a training step, round by round, for each candidate that ran to its end with finite losses.

    Args:
        spec: "architecture" as in `model.json`, "freeze" stages, "norms_rest" (the backbone's keep their
            statistics), "size", "batch_size" and "device".
        candidates: what to try.

    Raises:
        _OnlyHereError: the backbone is registered by code that a child does not run.
    """
    left = list(candidates)
    while left:
        request = json.dumps({**spec, "candidates": left, "threads": torch.get_num_threads()})
        child = subprocess.run(
            [sys.executable, "-m", "detseg.train.precision"],
            input=request,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
        if lines and "unknown" in lines[0]:
            raise _OnlyHereError(lines[0]["unknown"])
        if child.returncode == 0:
            rounds = zip(*(line["round"] for line in lines if "round" in line), strict=True)
            times = dict(zip(left, map(list, rounds), strict=True))
            return {choice: seconds for choice, seconds in times.items() if math.isfinite(max(seconds))}
        failed = ([0] + [line["trying"] for line in lines if "trying" in line])[-1]
        detail = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        if ONE_VALUE in detail[0]:
            raise ValueError(
                f"batch norm cannot learn from --batch-size {spec['batch_size']} at --size {spec['size']}, where a map "
                "is one cell of one image; take --batch-size 2, or a larger --size"
            )
        logger.warning("%s does not work with this network here (%s)", left.pop(failed), detail[0])
    return {}


def leader(times: Mapping[Any, Sequence[float]]) -> Any:
    """The candidate with the quickest step of all, if it also was the quickest in most rounds; else None."""
    best = min(times, key=lambda choice: min(times[choice]))
    rounds = list(zip(*times.values(), strict=True))
    won = sum(own <= min(every) for own, every in zip(times[best], rounds, strict=True))
    return best if won >= LEAD * len(rounds) else None


def usual(candidates: Sequence[Choice]) -> Choice:
    """The candidate that mostly is the faster: bfloat16 where the processor has instructions for it."""
    tell = getattr(torch.cpu, "get_capabilities", dict)  # early versions of torch do not
    bf16 = any(has for name, has in tell().items() if name.endswith("bf16"))
    return next((c for c in candidates if (c.precision == "bf16") == bf16), candidates[0])


def decide(times: Mapping[Choice, Sequence[float]]) -> Decision:
    """The fastest candidate, or the usual one where the times say nothing: they are equal, or contradict each other.

    Args:
        times: of each candidate, round by round.
    """
    quickest = {choice: min(seconds) for choice, seconds in times.items()}
    best = leader(times)
    if best is not None:
        return Decision(best, quickest)
    return Decision(usual(list(times)), quickest, max(quickest.values()) <= EQUAL * min(quickest.values()))


def choose(spec: dict[str, Any], precision: Literal["auto", "bf16", "fp32"]) -> Decision:
    """The best candidate of the wanted precision.

    Nothing can be measured of a backbone that the user's own code has registered; float32 is taken then, unless another
    precision is wanted.

    Raises:
        ValueError: none of them works.
    """
    wanted = [c for c in PREFERRED if precision in ("auto", c.precision)]
    try:
        times = measure(spec, wanted)
    except _OnlyHereError:
        return Decision(wanted[0], {})
    if not times:
        times = measure(spec, [c for c in CANDIDATES if c not in wanted and precision in ("auto", c.precision)])
    if not times:
        raise ValueError(
            f"{spec['architecture'].get('backbone')} cannot be trained with --precision {precision} on this machine; "
            "try another backbone or precision"
        )
    return decide(times)


def choose_again(spec: dict[str, Any], choice: Choice) -> Decision:
    """What is best of a choice and the other number formats in its layout, measured anew."""
    times = measure(spec, [c for c in CANDIDATES if c.channels_last == choice.channels_last])
    decision = decide(times) if times else Decision(choice, {}, False)
    return decision if decision.sure else decision._replace(choice=choice)


def _run(spec: dict[str, Any]) -> None:
    """Time the candidates of a spec in turn and print lines of JSON."""
    from detseg.models import build_model
    from detseg.train.memory import keep_freed_memory
    from detseg.train.optim import freeze_stages, norms, train_mode

    keep_freed_memory()
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    device = torch.device(spec["device"])
    try:
        model = build_model(spec["architecture"]).to(device)
    except ValueError as error:  # the parent has built it, with what its own code has registered
        print(json.dumps({"unknown": str(error)}), flush=True)
        return
    frozen = freeze_stages(model.backbone.stages, spec["freeze"])
    train_mode(model, [*frozen, *norms(model.backbone)] if spec["norms_rest"] else frozen)
    candidates = [Choice(*candidate) for candidate in spec["candidates"]]

    def seconds(count: int, size: int, which: Sequence[int]) -> dict[int, float]:
        found = {}
        for number in which:
            print(json.dumps({"trying": number}), flush=True)
            model.to(memory_format=candidates[number].memory_format)
            found[number], finite = _step(model, device, candidates[number].precision == "bf16", count, size)
            if not finite and size == spec["size"]:
                found[number] = math.inf
        return found

    with sharing_cores():
        every = range(len(candidates))
        tiny = [seconds(2, 64, every) for _ in range(ROUNDS)]
        slowness = [min(row[number] for row in tiny) for number in every]
        slowness = [value / min(slowness) for value in slowness]
        timed = [number for number in every if slowness[number] <= HOPELESS]
        large = partial(seconds, spec["batch_size"], spec["size"], timed)
        large()  # the first takes longer
        rounds: list[list[float]] = []
        while len(rounds) < ROUNDS or (
            len(rounds) < MOST_ROUNDS and leader(dict(zip(every, zip(*rounds, strict=True), strict=True))) is None
        ):
            row = large()
            rounds.append([row.get(number, min(row.values()) * slowness[number]) for number in every])
            print(json.dumps({"round": rounds[-1]}), flush=True)


def _step(model: Any, device: torch.device, bf16: bool, count: int, size: int) -> tuple[float, bool]:
    """Seconds of a training step of so many images, and whether its loss was finite."""
    shape = count, size, size, len(model.mean)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    targets = model.example_targets(count, size, device)
    started = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = torch.stack(list(model(images, targets).values())).sum()
    loss.backward()
    model.zero_grad()
    finite = bool(loss.isfinite())  # waits for the device
    return time.perf_counter() - started, finite


if __name__ == "__main__":
    _run(json.loads(sys.stdin.read()))
