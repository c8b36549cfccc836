"""Damage to JSON, YAML and XML by structure: the file stays one that can be parsed, what it says does not."""

import copy
import json
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml

from tests.fuzz.hostile import CANARY, NUMBERS, TOUCH, WORDS, pick


class Raw(str):
    """A value as it stands in the file."""


class Pairs(list):
    """An object, as pairs of keys and values: keys can be there twice, and be no strings."""


DEEP = 100_000
LONG = 50_000  # bytes: what is longer has grown by an earlier change, and is not parsed again
_JSON = (
    *(Raw(text) for text in NUMBERS[:-9]),  # without those that no JSON reader takes for numbers
    *(Raw(text) for text in ("null", "true", "false", "[]", "{}", "[[]]", "[null]", '[""]', '{"": {}}', '"\\ud800"')),
    *(
        Raw(text)
        for text in ('"a\\udc80.jpg"', '"\\u0000"', '"a\\u0000.jpg"', '"\\ud83c\\udf3c"', "[1, 2]", "[[1, 2], [3]]")
    ),
    *(Raw(text) for text in ("[1e400, NaN, -1, 5]", "[0, 0, 0, 0]", "[-5, -5, 1e9, 1e9]", "['a']", "undefined", "1.")),
    *(
        Raw(text)
        for text in ("[" * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * 200 + "]" * 200)
    ),
    *WORDS,
)
_YAML = (
    *_JSON,
    *(Raw(text) for text in (".nan", ".inf", "-.inf", "2001-01-01", "12:30:45", "!!binary aGFsbG8=", "*a", "&a [*a]")),
    *(
        Raw(text)
        for text in ("!!set {a, b}", "{[1, 2]: 3}", "{? {a: 1} : 2}", "{1: a, b: c}", "{a: 1, a: 2}", "!!omap [a: 1]")
    ),
    *(
        Raw(text)
        for text in (
            "!!float a",
            "!!int ''",
            "!!timestamp x",
            "{null: 1, true: 2, 1.5: x}",
            "<<: 1",
            "{<<: [1]}",
            "!!str",
        )
    ),
    *(
        Raw(text)
        for text in (f"!!python/object/apply:os.system ['{TOUCH}']", f'!!python/object/new:os.system ["{TOUCH}"]')
    ),
    *(
        Raw(text)
        for text in ("!!python/name:os.system", "!!python/object:detseg.data.Category {}", "!other x", "%YAML 9.9")
    ),
    Raw("&a [x, x, x, x, x, x, x, x, x]"),
)
_LAUGHS = ", ".join(f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
_BOMB = f"[&a [x, x, x, x, x, x, x, x, x], {_LAUGHS}]"


def change_json(content: bytes, rng: np.random.Generator) -> bytes:
    """JSON with a value, key or entry changed; what is no JSON any more stays."""
    if len(content) > LONG:
        return content
    try:
        tree = json.loads(content, object_pairs_hook=lambda pairs: Pairs(map(list, pairs)))
    except (ValueError, RecursionError):
        return content
    return _dumped(change_tree(tree, rng, _JSON)).encode("utf-8", "surrogatepass")


def change_yaml(content: bytes, rng: np.random.Generator) -> bytes:
    """As `change_json`, of YAML; written in its form with brackets, or some of it as blocks."""
    if len(content) > LONG or b"&b" in content:
        return content
    if rng.random() < 0.03:
        return content + f"\nnames: {_BOMB}\n".encode()
    try:
        tree = _as_pairs(yaml.safe_load(content))
    except Exception:  # it raises many kinds at what was damaged before
        return content
    tree = change_tree(tree, rng, _YAML)
    if isinstance(tree, Pairs) and rng.random() < 0.7:
        lines = [f"{key if isinstance(key, str) else _dumped(key)}: {_dumped(value)}" for key, value in tree]
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    return _dumped(tree).encode("utf-8", "surrogatepass")


def change_tree(tree: Any, rng: np.random.Generator, values: tuple[Any, ...] = _JSON) -> Any:
    """A copy of lists, `Pairs` and values with one change at a random place."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    if not places or rng.random() < 0.03:
        return pick(rng, (pick(rng, values), [tree], Pairs([["a", tree]]), [], Pairs()))
    parent, i = pick(rng, places)
    value = parent[i][1] if isinstance(parent, Pairs) else parent[i]
    match int(rng.integers(12)):
        case 0:
            del parent[i]
        case 1:
            parent.insert(i, copy.deepcopy(parent[i]))
        case 2:  # that of another place, perhaps of another kind
            other, j = pick(rng, places)
            _set(parent, i, copy.deepcopy(other[j][1] if isinstance(other, Pairs) else other[j]))
        case 3:
            _set(parent, i, [value])
        case 4:
            _set(parent, i, Pairs([[pick(rng, ("a", "id", "0", "name")), value]]))
        case 5 if isinstance(parent, Pairs):
            parent[i][0] = pick(
                rng, (*WORDS[:-3], parent[int(rng.integers(len(parent)))][0], Raw('"\\ud800"'), Raw("1"))
            )
        case 6:
            _set(parent, i, str(value) if isinstance(value, (int, float, bool)) else pick(rng, (1, 0, True, None, 1.5)))
        case 7 | 8 if isinstance(value, (int, float)):  # a number that may pass for a good one
            _set(parent, i, pick(rng, (-value, value + 1, value * 10, value / 3, float(value), value * 1e9)))
        case _:
            _set(parent, i, pick(rng, values))
    return tree


def _set(parent: Any, i: int, value: Any) -> None:
    if isinstance(parent, Pairs):
        parent[i][1] = value
    else:
        parent[i] = value


def _places(tree: Any) -> Any:
    """Every place that holds a value: its list or `Pairs`, and the number in it."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            for i, entry in enumerate(node):
                yield node, i
                waiting.append(entry[1] if isinstance(node, Pairs) else entry)


def _as_pairs(tree: Any) -> Any:
    if isinstance(tree, dict):
        return Pairs([_as_pairs(key), _as_pairs(value)] for key, value in tree.items())
    if isinstance(tree, (list, tuple)):
        return [_as_pairs(value) for value in tree]
    return tree if isinstance(tree, (str, int, float, bool, type(None))) else str(tree)


def _dumped(tree: Any) -> str:
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Pairs):
        return "{" + ", ".join(f"{_dumped(key)}: {_dumped(value)}" for key, value in tree) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_dumped, tree)) + "]"
    return json.dumps(tree, ensure_ascii=False)


# ------------------------------------------------------------------ XML

_DECLARATIONS = (
    '<?xml version="1.0" encoding="utf-7"?>',
    '<?xml version="1.0" encoding="no-such"?>',
    '<?xml version="1.0" encoding="utf-16"?>',
    '<?xml version="9.9"?>',
    '<!DOCTYPE a SYSTEM "file:///etc/passwd">',
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    f'<!DOCTYPE a [<!ENTITY x SYSTEM "expect://{TOUCH}"><!ENTITY % y SYSTEM "file://{CANARY}"> %y;]>',
    '<!DOCTYPE a [<!ENTITY x "rose">]>',
    '<!DOCTYPE a [<!ENTITY a "'
    + "lol" * 10
    + '">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghx", strict=True))
    + "]>",
    "<!-- a -- b -->",
    "<?php x ?>",
    "<a/>",
    "text",
)


def change_xml(content: bytes, rng: np.random.Generator) -> bytes:
    """XML with an element, text or attribute changed, or with a declaration before it."""
    if rng.random() < 0.12:
        body = content[content.find(b"?>") + 2 :] if content.startswith(b"<?xml") else content
        used = body.replace(b"rose", b"&x;", 1) if rng.random() < 0.5 else body
        return pick(rng, _DECLARATIONS).encode() + used
    if len(content) > LONG:
        return content
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError):
        return content
    raw: list[str] = []
    _change_element(root, rng, raw)
    text = ElementTree.tostring(root, encoding="unicode")
    for i, value in enumerate(raw):
        text = text.replace(f"@RAW{i}@", value)
    return text.encode("utf-8", "surrogatepass")


def _change_element(root: ElementTree.Element, rng: np.random.Generator, raw: list[str]) -> None:
    """One change; texts that XML cannot hold are noted in `raw`, to be put in afterwards."""

    def hostile() -> str:
        value = pick(rng, (*NUMBERS, *NUMBERS, *WORDS, "<b/>", "&#0;", "&#xD800;", "<![CDATA[1]]>", "<a>" * DEEP))
        if not value.isprintable() or "<" in value or "&" in value:
            raw.append(value)
            return f"@RAW{len(raw) - 1}@"
        return value

    parents = list(root.iter())
    parent = pick(rng, [node for node in parents if len(node)] or parents)
    node = pick(rng, parents)
    match int(rng.integers(9)):
        case 0 if len(parent):
            parent.remove(pick(rng, list(parent)))
        case 1 if len(parent):
            parent.append(copy.deepcopy(pick(rng, list(parent))))
        case 2 if len(parent):
            child = pick(rng, list(parent))
            parent.remove(child)
            if node is not child and child not in set(node.iter()) and node not in set(child.iter()):
                node.insert(0, child)
        case 3:
            node.tag = pick(rng, ("x", "name", "object", "bndbox", "{ns}a", pick(rng, parents).tag))
        case 4 if node.attrib:
            del node.attrib[pick(rng, list(node.attrib))]
        case 5 | 6 if node.attrib:
            node.attrib[pick(rng, list(node.attrib))] = hostile()
        case 7:
            node.attrib[pick(rng, ("id", "name", "x", "width"))] = hostile()
        case _:
            leaves = [node for node in parents if not len(node)]
            pick(rng, leaves or parents).text = hostile()
