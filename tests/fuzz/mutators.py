"""Seeded damage to files, by kind: what goes wrong by accident, and what is done on purpose.

`mutants(seed, kind, rng)` is the content of a good file with one to three changes. Every kind also gets what happens to
any file: bytes flipped, cut off, doubled. No change needs anything but the generator, so a seed repeats it.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.fuzz import containers, states, trees
from tests.fuzz.hostile import TEXTS, pick

Mutate = Callable[[bytes, np.random.Generator], bytes]

KINDS = {  # of a file by its ending, where a form names none
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".geojson": "json",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".xml": "xml",
    ".csv": "text",
    ".tsv": "text",
    ".txt": "text",
    ".names": "text",
    ".png": "png",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".safetensors": "safetensors",
    ".pt": "zip",
    ".pth": "zip",
    ".zip": "zip",
    ".npz": "zip",
    ".tar": "tar",
}


def kind_of(path: Path) -> str:
    """The kind of a file by its ending; "bytes" where it is not known."""
    return KINDS.get(path.suffix.lower(), "bytes")


def mutants(seed: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """One mutant of the content of a good file, by one to three changes of its kind."""
    content = seed
    # Bytes at last: HDF5 itself, which changes the structure of its files, may crash at damaged ones.
    share = 0.45 if kind == "hdf5" else 0.15
    for at_random in sorted(rng.random(int(rng.choice([1, 1, 1, 2, 3]))) < share):
        content = _change_bytes(content, rng) if at_random else _BY_KIND[kind](content, rng)
    return content


# ------------------------------------------------------------------ bytes


def _change_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    return pick(rng, _OF_BYTES)(content, rng)


def _flip(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.choice([1, 2, 8, 64]))):
        if changed:
            changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _set_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.choice([1, 4]))):
        if changed:
            changed[rng.integers(len(changed))] = pick(rng, (0, 0xFF, 0x7F, 0x80, 0x0A, int(rng.integers(256))))
    return bytes(changed)


def _set_number(content: bytes, rng: np.random.Generator) -> bytes:
    """A number of 2, 4 or 8 bytes of extreme value somewhere."""
    width, order = pick(rng, (2, 4, 8)), pick(rng, ("little", "big"))
    top = 1 << (8 * width)
    value = pick(rng, (0, 1, top - 1, top >> 1, (top >> 1) - 1, top >> 8, 1 << 15, 65535)) % top
    place = int(rng.integers(max(1, len(content))))
    return content[:place] + value.to_bytes(width, order) + content[place + width :]


def _truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: pick(rng, (0, 1, len(content) - 1, *(int(rng.integers(len(content) + 1)) for _ in range(5))))]


def _cut_out(content: bytes, rng: np.random.Generator) -> bytes:
    begin, end = _range(content, rng)
    return content[:begin] + content[end:]


def _double(content: bytes, rng: np.random.Generator) -> bytes:
    begin, end = _range(content, rng)
    return content[:end] + content[begin:end] * pick(rng, (1, 1, 20)) + content[end:]


def _move(content: bytes, rng: np.random.Generator) -> bytes:
    begin, end = _range(content, rng)
    rest, place = content[:begin] + content[end:], int(rng.integers(len(content) - (end - begin) + 1))
    return rest[:place] + content[begin:end] + rest[place:]


def _blank(content: bytes, rng: np.random.Generator) -> bytes:
    """A block of a disk that was never written."""
    begin, end = _range(content, rng)
    return content[:begin] + bytes(end - begin) + content[end:]


def _append(content: bytes, rng: np.random.Generator) -> bytes:
    return content + pick(rng, (b"\0", bytes(4096), b"\xff" * 17, content, b"\n", b"}", b"\x1f\x8b"))


def _insert(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(content) + 1))
    return content[:place] + rng.bytes(int(rng.choice([1, 4, 100]))) + content[place:]


def _range(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    begin = int(rng.integers(len(content) + 1))
    return begin, min(len(content), begin + int(rng.integers(1, pick(rng, (4, 64, 4096)))))


_OF_BYTES: Sequence[Mutate] = (
    *(_flip, _flip, _set_bytes, _set_number, _truncate, _cut_out, _double, _move, _blank, _append, _insert),
)

# ------------------------------------------------------------------ text

_TOKENS = re.compile(rb"[^\s,;:|=]+")


def _change_text(content: bytes, rng: np.random.Generator) -> bytes:
    return pick(rng, _OF_TEXT)(content, rng)


def _token(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    spans = [match.span() for match in _TOKENS.finditer(content[:100_000])]
    return pick(rng, spans) if spans else (0, 0)


def _replace_token(content: bytes, rng: np.random.Generator) -> bytes:
    begin, end = _token(content, rng)
    return content[:begin] + pick(rng, TEXTS) + content[end:]


def _change_number(content: bytes, rng: np.random.Generator) -> bytes:
    """A number that may pass for a good one."""
    begin, end = _token(content, rng)
    try:
        value = float(content[begin:end])
    except ValueError:
        return content
    changed = pick(rng, (-value, value + 1, value * 10, value / 3, value - 0.5, value * 1e9))
    return content[:begin] + f"{changed:.7g}".encode() + content[end:]


def _delete_token(content: bytes, rng: np.random.Generator) -> bytes:
    begin, end = _token(content, rng)
    return content[:begin] + content[end:]


def _double_token(content: bytes, rng: np.random.Generator) -> bytes:
    begin, end = _token(content, rng)
    return content[:end] + pick(rng, (b"", b" ", b",", b"\n")) + content[begin:end] + content[end:]


def _swap_tokens(content: bytes, rng: np.random.Generator) -> bytes:
    (a, b), (c, d) = sorted([_token(content, rng), _token(content, rng)])
    return content if b > c else content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _change_lines(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.split(b"\n")
    i, j = (int(rng.integers(len(lines))) for _ in range(2))
    match int(rng.integers(6)):
        case 0:
            del lines[i]
        case 1:
            lines.insert(j, lines[i])
        case 2:
            lines[i], lines[j] = lines[j], lines[i]
        case 3:
            lines[i] = lines[i] + b" " + lines[j]
        case 4:
            lines[i] = pick(rng, TEXTS)
        case 5:
            lines = lines[:1] + lines[i : i + 1] * 300
    return b"\n".join(lines)


def _change_coding(content: bytes, rng: np.random.Generator) -> bytes:
    """The text as another program or system saves it."""
    text = content.decode("utf-8", "replace")
    return pick(
        rng,
        (
            b"\xef\xbb\xbf" + content,
            text.encode("utf-16"),
            text.encode("utf-16-le", "replace"),
            text.encode("utf-32"),
            text.replace("e", "é").replace("a", "ä").encode("latin-1", "replace"),
            content.replace(b"\n", b"\r\n"),
            content.replace(b"\n", b"\r"),
            content.replace(b"\n", b"\0"),
            content.replace(b",", b";"),
            content.replace(b".", b","),
            content.replace(b" ", b"\t"),
            content.replace(b" ", b"\xc2\xa0"),
            content.replace(b'"', b"'"),
            content.replace(b'"', b""),
            content.upper(),
        ),
    )


_OF_TEXT: Sequence[Mutate] = (
    *(_replace_token, _replace_token, _replace_token, _change_number, _delete_token, _double_token, _swap_tokens),
    *(_change_lines, _change_coding),
)


def _change_ndjson(content: bytes, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.2:
        return _change_lines(content, rng)
    lines = content.split(b"\n")
    i = int(rng.integers(len(lines)))
    lines[i] = trees.change_json(lines[i], rng)
    return b"\n".join(lines)


def _change_member(name: str, content: bytes, rng: np.random.Generator) -> bytes:
    return _BY_KIND[kind_of(Path(name))](content, rng)


def _or_text(change: Mutate, share: float) -> Mutate:
    """`change`, in this share of the cases; else, and where it finds nothing to change, as text."""

    def changed(content: bytes, rng: np.random.Generator) -> bytes:
        return change(content, rng) if rng.random() < share else _change_text(content, rng)

    return changed


_BY_KIND: dict[str, Mutate] = {
    "bytes": _change_bytes,
    "text": _change_text,
    "json": _or_text(trees.change_json, 0.8),
    "ndjson": _or_text(_change_ndjson, 0.8),
    "yaml": _or_text(trees.change_yaml, 0.7),
    "xml": _or_text(trees.change_xml, 0.8),
    "png": containers.inside_png(_change_bytes),
    "hdf5": containers.change_hdf5,
    "zip": containers.inside_zip(_change_bytes),
    "tar": containers.inside_tar(_change_member, _change_bytes),
    "safetensors": containers.inside_safetensors(_change_bytes),
    "state": states.change_state,
}
