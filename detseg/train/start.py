"""What a run starts from, as `--weights` says: a backbone's weights, a whole earlier run, a published detector.

Of a run of another model, or with `--only-backbone`, the backbone alone is taken. A whole model brings its options
along: its head knows its own anchors, in images of its own size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from detseg.backbones.class_rows import take_over
from detseg.backbones.create import require_backbone
from detseg.backbones.weights import read_weights
from detseg.descriptions import bounded
from detseg.detect.published import published_weights
from detseg.models import DESCRIPTION, MODELS, WEIGHTS, build_model, read_description
from detseg.options import option
from detseg.reading import reading
from detseg.train.size import SMALLEST

Architecture = dict[str, Any]
# What `--weights` may be beside a run and a file.
IMAGENET, RANDOM, COCO = "pretrained", "none", "coco"
# Peak learning rate where the head is no longer new, a tenth of the usual: that would undo in the first steps what the
# head knows, and few images do not bring it back.
TRAINED_LR = 1e-4
# Entries of an architecture that follow from the data of a run and not from its weights.
_OF_DATA = ("num_classes", "class_weights", "max_detections", "calibration")
# Entries that are not told of: they are told as options, or are no choice of anyone's.
_TACIT = ("kind", "backbone", "in_channels", "folded")


@dataclass(frozen=True)
class Start:
    """Trained or random weights of the backbone.

    Attributes:
        config: the options of the run, with what follows from the weights filled in.
        load: gives them, as `build_model` takes them; a whole model's state and the names of its classes.
        of: what they are called in messages, if not by their file.
        told: what is to be said of the options that were filled in; empty if nothing is.
    """

    config: Any
    load: Callable[[], Any]
    of: str = ""
    told: str = ""

    @property
    def whole(self) -> bool:
        """Whether it is a whole model."""
        return False

    def architecture(self, classes: int, fresh: Callable[[], Architecture]) -> Architecture:
        """That of a model of so many classes; `fresh` gives the one that options and data ask for."""
        return fresh()

    def model(self, architecture: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, str]:
        """The model of an architecture, of classes `names`, and which of its weights were taken from where.

        Raises:
            RuntimeError: they cannot be had.
            ValueError: they do not fit.
        """
        weights = self.load()
        model = build_model(architecture, pretrained=weights)
        if isinstance(weights, bool):
            return model, ""
        report = model.backbone.weight_report
        return model, str(replace(report, source=self.of) if self.of else report)


@dataclass(frozen=True, kw_only=True)
class WholeStart(Start):
    """All of a trained model.

    Attributes:
        options: its architecture, or what is known of it.
        changed: names of those that the options of the run ask to be others.
        complete: the architecture is all there.
    """

    options: Mapping[str, Any]
    changed: Sequence[str] = ()
    complete: bool = True

    @property
    def whole(self) -> bool:
        """See `Start`."""
        return True

    def architecture(self, classes: int, fresh: Callable[[], Architecture]) -> Architecture:
        """That of the trained model, but for the classes and what was set by hand."""
        wanted = {} if self.complete and not self.changed else fresh()
        known = {**({} if self.complete else wanted), **self.options}
        return {**known, **{name: wanted[name] for name in self.changed}, "num_classes": classes}

    def model(self, architecture: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, str]:
        """See `Start`."""
        tensors, known = self.load()
        try:
            with bounded(Path(self.of, WEIGHTS)):
                model = build_model(architecture, pretrained=tensors)
        except (ValueError, RuntimeError) as error:  # RuntimeError: of torch
            hint = f"leave out {', '.join(map(option, self.changed))}, or add" if self.changed else "add"
            raise ValueError(
                f"--weights {self.config.weights} does not fit ({hint} --only-backbone): {error}"
            ) from error
        taken = take_over(model, tensors, known, names)
        classes = sum(bool(name) for name in known)
        return model, f"weights: all of {self.of} ({architecture['kind']}, {classes} classes): {taken}"


def start_of(config: Any) -> Start:
    """What `config.weights` names.

    Raises:
        ValueError: there is no such thing, or other options contradict it.
    """
    if config.weights in (IMAGENET, RANDOM):
        return Start(config, lambda: config.weights == IMAGENET)
    if config.weights == COCO:
        return _of_coco(config)
    path = Path(config.weights)
    if path.name == WEIGHTS and (path.parent / DESCRIPTION).is_file():
        path = path.parent
    return _of_run(config, path) if path.is_dir() else Start(config, lambda: config.weights)


def _of_run(config: Any, folder: Path) -> Start:
    description = read_description(folder)
    architecture, file = description["architecture"], folder / WEIGHTS
    with reading(f"{folder / DESCRIPTION}: architecture"):
        require_backbone(architecture["backbone"])
    kind, whole = architecture.get("kind"), not config.only_backbone and architecture.get("kind") == config.model
    found = {"backbone": architecture.get("backbone")}
    if whole:
        found |= {"channels": architecture.get("in_channels", 3)}
    given = _given(config)
    for name, value in found.items():
        if name in given and getattr(config, name) != value:
            raise ValueError(
                f"{option(name)} {getattr(config, name)}: {folder} has learnt with {option(name)} {value}; leave out "
                f"{option(name)}" + (", or add --only-backbone" if name != "backbone" else ", or leave out --weights")
            )
    if not whole:
        filled = replace(config, **found)
        told = "" if filled == config else _told(config, filled, folder, {})
        other = "" if config.only_backbone else f"{folder} is a {kind}: its backbone alone is taken"
        return Start(filled, lambda: str(file), told="; ".join(filter(None, (told, other))))
    options = _of_weights(architecture)
    found |= {"size": description["size"], **options}
    filled, rate = _gently(_filled(config, found, given))
    changed = _changed(config, options, given)
    names = [str(category["name"]) for category in description["categories"]]
    return WholeStart(
        filled,
        lambda: (read_weights(file), names),
        of=str(folder),
        told=_told(config, filled, folder, {n: v for n, v in options.items() if n not in changed}) + rate,
        options=options,
        changed=changed,
    )


def _of_coco(config: Any) -> Start:
    known = getattr(MODELS[config.model], "coco", {})
    if not known:
        able = [name for name, model in MODELS.items() if getattr(model, "coco", {})]
        raise ValueError(
            f"--weights coco: there are no COCO weights for --model {config.model}; there are for "
            f"{', '.join(able) or 'none'}"
        )
    given = _given(config)
    backbone = config.backbone if config.backbone in known else next(iter(known))
    if backbone != config.backbone and "backbone" in given:
        raise ValueError(
            f"--weights coco: for --model {config.model} there are COCO weights with --backbone "
            f"{' or '.join(known)}, not {config.backbone}"
        )
    published = known[backbone]
    of = f"torchvision's {published.builder}"
    filled = replace(config, backbone=backbone)
    if config.only_backbone:
        told = "" if filled == config else _told(config, filled, of, {})
        return Start(filled, lambda: published_weights(published)[0], of, told)
    options = _of_weights(published.options)
    if other := _changed(config, options, given):
        asked = ", ".join(map(option, other))
        raise ValueError(f"{asked}: the head that {of} has learnt is another; leave it out, or add --only-backbone")
    filled, rate = _gently(_filled(filled, {"size": SMALLEST, **options}, given))
    told = _told(config, filled, of, options) + rate
    return WholeStart(filled, lambda: published_weights(published), of, told, options=options, complete=False)


def _of_weights(architecture: Mapping[str, Any]) -> Architecture:
    return {name: value for name, value in architecture.items() if name not in _OF_DATA}


def _given(config: Any) -> list[str]:
    """Names of the options that are not left at their defaults."""
    return [field.name for field in fields(config) if getattr(config, field.name) != field.default]


def _gently(config: Any) -> tuple[Any, str]:
    """The options with the learning rate of a trained head, where none is given, and what is to be said of it."""
    if config.lr is not None:
        return config, ""
    return replace(config, lr=TRAINED_LR), f"; --lr {TRAINED_LR:g}, for the head is trained"


def _changed(config: Any, options: Mapping[str, Any], given: Sequence[str]) -> list[str]:
    """Which options of a trained model are given, and as others."""
    return [name for name in given if name in options and getattr(config, name) != _set(options[name])]


def _filled(config: Any, found: Mapping[str, Any], given: Sequence[str]) -> Any:
    """The options, with what was found where it is an option that was not given: anchors are a number there."""
    usual = {field.name: field.default for field in fields(config) if field.name not in given}
    mine = {name: _set(value) for name, value in found.items() if name in usual}
    return replace(config, **{n: v for n, v in mine.items() if usual[n] is None or type(v) is type(usual[n])})


def _set(value: Any) -> Any:
    """An entry of an architecture as an option is set: lists are tuples there."""
    return tuple(value) if isinstance(value, list) else value


def _told(before: Any, after: Any, of: Any, kept: Mapping[str, Any]) -> str:
    """Which options were filled in, and what of the model is kept that no option says."""
    mine = {field.name: getattr(after, field.name) for field in fields(after)}
    shown = {name: " ".join(map(str, v)) if isinstance(v, tuple) else v for name, v in mine.items()}
    told = [f"{option(name)} {shown[name]}" for name in mine if name != "lr" and mine[name] != getattr(before, name)]
    told += [name for name, value in kept.items() if name not in _TACIT and _set(value) != mine.get(name)]
    return f"as in {of}: {', '.join(told) or 'all options'}"
