"""Exact versions for the checks, and licences, as `.ci/dependencies.py` writes them."""

import importlib.util
import re
from email.message import Message
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("dependencies", ROOT / ".ci/dependencies.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def locked():
    """Version by package."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", (ROOT / ".ci/constraints.txt").read_text(), re.MULTILINE))


def metadata(*lines):
    message = Message()
    for name, text in lines:
        message[name] = text
    return message


OSI = "License :: OSI Approved :: "


@pytest.mark.parametrize(
    ("lines", "licence", "fine"),
    [
        ([("License-Expression", "MIT OR Apache-2.0"), ("License", "GPL")], "MIT OR Apache-2.0", True),
        ([("Classifier", f"{OSI}BSD License"), ("License", "Copyright")], "BSD License", True),
        ([("Classifier", "License :: OSI Approved"), ("License", "MIT\nmore")], "OSI Approved", True),
        ([("License", "Apache 2.0\n\nlong text")], "Apache 2.0", True),
        ([("Classifier", f"{OSI}GNU Lesser General Public License v3 (LGPLv3)")], None, True),
        ([("Classifier", f"{OSI}GNU General Public License v3 (GPLv3)")], None, False),
        ([("Classifier", f"{OSI}GNU Affero General Public License v3")], None, False),
        ([("License-Expression", "AGPL-3.0-only")], None, False),
        ([("License", "gpl-2.0")], None, False),
        ([("License", "UNKNOWN")], "", False),
        ([], "", False),
    ],
)
def test_licences_are_read_and_judged(script, lines, licence, fine):
    found = script.licence_of("somebody", metadata(*lines))
    assert licence in (None, found)
    assert (list(script.problems([("somebody", found)])) == []) == fine


def test_stated_licences_are_taken_where_the_metadata_say_none(script):
    name, (licence, _) = next(iter(script.STATED.items()))
    assert script.licence_of(name, metadata(("License", "UNKNOWN"))) == licence
    assert script.licence_of(name, metadata(("License", "MIT"))) == "MIT"


def test_a_tree_follows_extras_and_markers(script):
    tree = script.Tree(["jinja2", "nobody-has-this", "numba; python_version < '3'"])
    assert tree.found.keys() == {"jinja2", "markupsafe"} and tree.missing == {"nobody-has-this"}
    assert "babel" in script.Tree(["jinja2[i18n]"]).found.keys() | script.Tree(["jinja2[i18n]"]).missing


def test_the_page_says_what_the_packages_say(script, locked):
    page = (ROOT / "docs/licences.md").read_text()
    assert page.startswith(script.HEADING)
    said = dict(re.findall(r"^\| (\S+) \| (.*) \| .*\|$", page, re.MULTILINE))
    for name, licence, _ in script.rows()[0]:  # what pulls it in depends on which extras are installed
        # What other versions say is seen when the page is written anew.
        if version(name).partition("+")[0] == locked.get(name):
            assert said.get(name) == licence, f"{name}: make licences"
    known = said.keys() | set(re.findall(r"[\w-]+", page.rpartition("Not looked at")[2]))
    asked = {canonicalize_name(Requirement(one).name) for some in script.requirements().values() for one in some}
    assert asked - known == set(), "make licences"


def test_the_lock_holds_public_versions_that_fit(script, locked):
    lines = (ROOT / ".ci/constraints.txt").read_text().splitlines()
    assert len(lines) - len(locked) == sum(line.startswith("#") for line in lines) == 2
    assert re.fullmatch(r"# Python 3\.\d+", lines[1])
    assert not any("+" in version for version in locked.values())
    wanted = script.requirements()
    for requirement in map(Requirement, [*wanted[""], *wanted["dev"]]):
        pinned = locked.get(canonicalize_name(requirement.name))
        assert pinned and requirement.specifier.contains(pinned), f"{requirement}: {pinned}; make lock"
