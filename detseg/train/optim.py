"""Which weights learn, how fast, and their average: freezing, parameter groups, the schedule, EMA."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def freeze_stages(stages: Sequence[Sequence[nn.Module]], count: int) -> list[nn.Module]:
    """Stop the first `count` stages from learning; returns their modules, for `train_mode`.

    Raises:
        ValueError: there are fewer stages.
    """
    if not 0 <= count <= len(stages):
        raise ValueError(f"the backbone has {len(stages)} stages, {count} cannot be frozen")
    modules = [module for stage in stages[:count] for module in stage]
    for module in modules:
        module.requires_grad_(False)
    return modules


def train_mode(model: nn.Module, in_eval: Sequence[nn.Module]) -> None:
    """Put a model into training mode but for some modules, whose batch norms keep their statistics."""
    model.train()
    for module in in_eval:
        module.eval()


def norms(module: nn.Module) -> list[nn.Module]:
    """All normalisation layers inside a module."""
    return [m for m in module.modules() if isinstance(m, NORMS)]


def norms_rest(architecture: Mapping[str, Any]) -> bool:
    """Whether the backbone's norms keep the statistics of its pretraining: where that could be, they are folded."""
    return bool(architecture.get("folded"))


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float, backbone_lr: float = 1.0, stage_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Parameters that learn, in groups: backbone (its stages, where they differ) or not, with decay or not.

    Norms and biases (every vector and scalar) are not decayed: pulling them to zero does not regularise, it moves
    the features. The model's pretrained part is what it calls ``backbone``.

    Args:
        model: the model.
        lr: learning rate of what is new.
        weight_decay: of matrices and kernels.
        backbone_lr: factor on the backbone's learning rate.
        stage_decay: further factor for each of the backbone's stages before its last.
    """
    factors: dict[nn.Parameter, float] = {}
    if stage_decay != 1:
        stages: Any = model.backbone.stages  # type: ignore[union-attr]
        for before, stage in enumerate(reversed(stages)):
            factors |= {p: stage_decay**before for module in stage for p in module.parameters()}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = backbone_lr * factors.get(parameter, 1.0) if "backbone." in name else 1.0
            groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": lr * factor, "weight_decay": weight_decay if decayed else 0.0}
        for (factor, decayed), parameters in groups.items()
    ]


def create_optimizer(name: str, groups: list[dict[str, Any]]) -> Optimizer:
    """``adamw`` or ``sgd`` (Nesterov momentum 0.9); each remembers its groups' rates as ``initial_lr``.

    Both pass over the weights once (``fused``): a quarter to a third of the time that torch's default takes on a CPU.
    """
    if name == "adamw":
        optimizer: Optimizer = AdamW(groups, fused=True)
    elif name == "sgd":
        optimizer = SGD(groups, momentum=0.9, nesterov=True, fused=True)
    else:
        raise ValueError(f"unknown optimizer {name!r}: choose adamw or sgd")
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def learning_rate_factor(name: str, fraction: float, step: int, warmup: int) -> float:
    """What the learning rates are multiplied with at a step, `fraction` of the way through the run.

    ``cosine`` warms up over a number of steps, at most a tenth of the run, and falls to 1 %; ``onecycle`` rises for
    the first 30 % of the run from 4 % and falls to nothing: the rates of Smith & Topin 2018 (arXiv:1708.07120), without
    their cycle of the momentum, which stays as it is.
    """
    if name == "cosine":
        warm = min(1.0, max((step + 1) / max(1, warmup), fraction / 0.1))
        return warm * (0.01 + 0.99 * _half_cosine(fraction))
    if name == "onecycle":
        if fraction < 0.3:
            return 1 - 0.96 * _half_cosine(fraction / 0.3)
        return 1e-4 + (1 - 1e-4) * _half_cosine((fraction - 0.3) / 0.7)
    raise ValueError(f"unknown schedule {name!r}: choose cosine or onecycle")


def _half_cosine(x: float) -> float:
    """1 at x = 0, 0 at x = 1."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, x))))


def averaged(model: nn.Module, decay: float, updates: Callable[[], int]) -> AveragedModel:
    """Exponential moving average of weights and buffers.

    The decay rises from 0 with the number of updates, so that the random weights of the start are forgotten soon.

    Args:
        model: copied as it is.
        decay: what the decay rises to.
        updates: tells how many updates there were.
    """

    @torch.no_grad()
    def update(average: Sequence[Tensor], current: Sequence[Tensor], _: Tensor | int) -> None:
        weight = 1 - decay * (1 - math.exp(-updates() / 200))
        if average[0].is_floating_point():  # tensors come grouped by dtype
            torch._foreach_lerp_(list(average), list(current), weight)
        else:
            torch._foreach_copy_(list(average), list(current))

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    average.n_averaged = average.n_averaged.cpu()  # it is read at every update
    return average
