"""Names for things: one registry class for backbones, networks, models, decoders, exporters."""

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Mapping[str, T]):
    """Entries by name, in the order of their registration; `what` they are, in a word, is for messages."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make an entry known as `name`; raises ValueError where the name is taken."""

        def register(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"a {self.what} named {name!r} is registered already; choose another name")
            self._entries[name] = entry
            return entry

        return register

    def __getitem__(self, name: str) -> T:
        """The entry `name`; raises ValueError with the names near it where there is none."""
        if name not in self._entries:
            raise self.unknown(name)
        return self._entries[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The entry `name`, or `default` where there is none."""
        return self._entries.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def names(self, pattern: str = "*") -> list[str]:
        """Names that match `pattern` (`*` and `?` are wildcards), sorted."""
        return sorted(fnmatch.filter(self._entries, pattern))

    def unknown(self, name: str, known: Iterable[str] | None = None) -> ValueError:
        """The error for a name that is not among the `known` ones, by default the registered, with those near it."""
        known = list(self._entries if known is None else known)
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
        more = f", … ({len(known)} in all)" if len(known) > 12 else ""
        there = f"there are {', '.join(sorted(known)[:12])}{more}" if known else "none is registered"
        hint = f"did you mean {', '.join(near)}?" if near else there
        return ValueError(f"no {self.what} is named {name!r}; {hint}")


MODELS: Registry[Any] = Registry("model")


def register_model(name: str, *, task: str) -> Callable[[C], C]:
    """Decorator: make a model class known to `--model`, `detseg.models` and every command.

    Args:
        name: what `--model` and `model.json` call it; raises ValueError where it is taken.
        task: "detect", "segment", "classify" or "localize".
    """

    def register(model: C) -> C:
        MODELS.register(name)(model)
        model.name, model.task = name, task  # type: ignore[attr-defined]
        return model

    return register
