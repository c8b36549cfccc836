"""Results scanned from their text against the json module, number by number and fault by fault."""

import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detseg.data import coco_scan
from detseg.data.coco_scan import scan_results
from detseg.data.run_lengths import RunLengths

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1000, 1000),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0.0, -0.0, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 9007199254740993, 1e22, 1e23]),
)
# As other writers have them: many digits, exponents, zeros.
written = st.one_of(
    numbers.map(repr),
    st.from_regex(r"-?(0|[1-9]\d{0,24})(\.\d{1,30})?([eE][+-]?\d{1,3})?", fullmatch=True, alphabet="0123456789.-+eE"),
)


def text_of(score, box=("1", "2", "3", "4"), image="7", more=""):
    return f'{{"image_id": {image}, "category_id": 3, "bbox": [{", ".join(box)}], "score": {score}{more}}}'


def scan(text, masks=False):
    return scan_results(bytearray(text.encode()), masks)


@settings(max_examples=300, deadline=None)
@given(st.lists(written, min_size=5, max_size=5))
@example(
    ["9007199254740993", "9007199254740993e-1", "1.00000000000000011102230246251565", "0.1e-22", "12345678901234567890"]
)
@example(["2.5e-22", "123456789012345678e-22", "99999999999999974834176", "1e-400", "0.000000000000000000000001"])
def test_numbers_are_the_nearest_float64(words):
    found = scan(f"[{text_of(words[0], words[1:])}]")
    values = [float(word) for word in words]
    assert [found.scores[0], *found.boxes[0]] == values
    assert [math.copysign(1, v) for v in (found.scores[0], *found.boxes[0])] == [math.copysign(1, v) for v in values]


masks = st.text("".join(map(chr, range(48, 112))), max_size=30)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-(10**17), 10**17), numbers, st.booleans(), masks), min_size=1, max_size=20),
    st.sampled_from([None, 0, 1, "\t"]),
    st.booleans(),
)
def test_json_says_the_same(rows, indent, shared):
    """Whatever the white space, the order of the keys and the number of threads."""
    results = []
    for image, score, boxed, counts in rows:
        entry = {"image_id": image, "category_id": 1, "score": score}
        entry |= {"bbox": [score, 2, 3.5, 4]} if boxed else {}
        entry["segmentation"] = {"counts": counts, "size": [5, image % 1000]}
        entry["note"] = {"any": ["thing", '}],"\\'], "x": None}
        results.append(dict(reversed(entry.items())) if boxed else entry)
    kept, coco_scan._SHARE = coco_scan._SHARE, 40 if shared else coco_scan._SHARE
    try:
        found = scan(json.dumps(results, indent=indent) + "\n", masks=True)
    finally:
        coco_scan._SHARE = kept
    assert found.image_ids.tolist() == [row[0] for row in rows]
    assert found.scores.tolist() == [float(row[1]) for row in rows]
    assert found.has_box.tolist() == [row[2] for row in rows]
    assert [(m["size"], m["counts"].decode()) for m in found.masks] == [([5, row[0] % 1000], row[3]) for row in rows]


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "{}", "[", "[1]", "[{}]", "null", "[]", "[[]]"),
        *(
            f"[{text_of(word)}]"
            for word in ("01", "1.", ".5", "+1", "NaN", "Infinity", "1e", "--1", "null", '"1"', "1 2")
        ),
        *(f"[{text_of('1', image=word)}]" for word in ("1.0", "1e3", '"7"', "9" * 19, "null", "007", "-")),
        *(f"[{text_of('1', box)}]" for box in (("1", "2", "3"), ("1", "2", "3", "4", "5"), ())),
        f"[{text_of('1')}",
        f"[{text_of('1')},]",
        f"[{text_of('1')}] x",
        f"[{text_of('1')} {text_of('1')}]",
        f"[{text_of('1')}, 5]",
        f"[{text_of('1', more=', ')}]",
        "[" + text_of("1", more=', "score": 2') + "]",
        f"[{text_of('1')[:-1]}]",
        '[{"image_id": 1, "category_id": 2, "score": 1}]',
        '[{"image\\u005fid": 1, "category_id": 2, "score": 1, "bbox": [1, 2, 3, 4]}]',
    ],
)
def test_what_is_odd_is_left_to_others(wrong):
    assert scan(wrong) is None


@pytest.mark.parametrize(
    "outline",
    [
        *("[[1, 2, 3, 4, 5, 6]]", "null", '"a"', '{"size": [5], "counts": "a"}', '{"size": [5, 5], "counts": "a"'),
        *('{"size": [5, 5]}', '{"size": [5, 5], "counts": [1, 24]}', '{"size": [5, 5], "counts": "a b"}'),
        *('{"size": [5, 5], "counts": "\\u0041"}', '{"size": [5, 5], "counts": "a", "counts": "b"}'),
    ],
)
def test_other_outlines_are_left_to_others_and_nothing_is_changed(outline):
    good = text_of("1", more=', "segmentation": {"size": [5, 5], "counts": "a\\\\\\\\b"}')
    content = bytearray(f"[{good}, {text_of('1', more=f', {chr(34)}segmentation{chr(34)}: {outline}')}]".encode())
    before = bytes(content)
    assert scan_results(content, True) is None and content == before


def test_run_lengths_are_a_sequence():
    masks = RunLengths(np.frombuffer(b"abcde", np.uint8), np.array([[0, 2], [2, 2], [3, 5]]), np.array([[1, 2]] * 3))
    assert len(masks) == 3 and masks[-1] == {"size": [1, 2], "counts": b"de"}
    assert [m["counts"] for m in masks[:2]] == [b"ab", b""] and [m["counts"] for m in masks[::-1]] == [
        b"de",
        b"",
        b"ab",
    ]
    with pytest.raises(IndexError):
        masks[3]
