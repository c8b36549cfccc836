"""The compiled reader of COCO results: every number as `float` reads it, and whatever is odd is refused."""

import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.metrics import evaluate_detections, files
from detseg.metrics.files import quick_results
from detseg.metrics.scanner import scan_results
from tests.metrics.coco_scenes import mask_scene, scene

RECORD = '{"image_id": 3, "category_id": -4, "score": 0.5, "bbox": [1, 2.5, 3e2, 4E-1]}'


def numbers_read(texts: list[str]) -> list[float]:
    """The numbers as the reader understands them, written as scores."""
    records = (f'{{"image_id":1,"category_id":2,"bbox":[0,0,0,0],"score":{text}}}' for text in texts)
    found = scan_results(f"[{','.join(records)}]".encode())
    assert found is not None
    return found[2].tolist()


def test_one_record() -> None:
    for text in (f"[{RECORD}]", f" \n[\t{RECORD} ]\r\n", f"[{RECORD}]".replace(" ", "")):
        image_ids, category_ids, scores, _, boxes, masks = scan_results(text.encode())
        assert (image_ids.tolist(), category_ids.tolist(), scores.tolist()) == ([3], [-4], [0.5])
        assert boxes.tolist() == [[1, 2.5, 300, 0.4]]
        assert masks is None
    assert [len(column) for column in scan_results(b" [ ] ")[:5]] == [0, 0, 0, 0, 0]


def test_other_keys_are_skipped_and_the_order_is_free() -> None:
    more = {"a": [1, {"b": ']}"\\'}], "id": 7, "t": None, "bbox": [1, 2, 3, 4], "e": {}, "score": 1, "s": "x,y"}
    record = json.dumps(more | {"category_id": 5, "image_id": 6})
    image_ids, category_ids, scores, _, boxes, _masks = scan_results(f"[{record}, {RECORD}]".encode())
    assert (image_ids.tolist(), category_ids.tolist(), scores.tolist()) == ([6, 3], [5, -4], [1, 0.5])
    assert boxes[0].tolist() == [1, 2, 3, 4]


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e280, max_value=1e280))
def test_what_python_writes_is_read_exactly(value: float) -> None:
    if value == 0 or abs(value) > 1e-260:
        assert numbers_read([repr(value)]) == [value]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**19 - 1), st.integers(-60, 60))
def test_any_digits_round_as_float_rounds(digits: int, power: int) -> None:
    texts = [f"{digits}e{power}", f"-{digits}E{power:+d}", f"0.{digits:019d}"]
    assert numbers_read(texts) == [float(text) for text in texts]


def test_ties_go_to_even() -> None:
    rng = np.random.default_rng(0)
    texts = []
    for odd in (2 * rng.integers(2**52, 2**53, 3000) + 1).tolist():  # just between two floats
        texts += [str(odd), f"{odd}e0", f"{odd * 10}e-1", format(Decimal(odd) / 4, "f")]
    texts = [text for text in texts if len(text.replace(".", "").split("e")[0]) <= 19]
    assert len(texts) > 6000
    assert numbers_read(texts) == [float(text) for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "", "[", "{}", f"[{RECORD}", f"[{RECORD},]", f"[{RECORD}] x", f"[{RECORD} {RECORD}]", "[5]", "null",
        f"[{RECORD[:-1]}]", f"[{RECORD[:-1]}, ]", RECORD,
        *(f"[{RECORD.replace('0.5', bad)}]" for bad in
          ("NaN", "Infinity", "-", "+1", "1.", ".5", "01", "1e", "0x1", '"1"', "1" * 20, "1e400", "1e-400", "null")),
        *(f"[{RECORD.replace(': 3,', f': {bad},')}]" for bad in ("3.5", "3e1", '"3"', "03", "9" * 19, "-", "null")),
        *(f"[{RECORD.replace('[1, 2.5, 3e2, 4E-1]', bad)}]" for bad in
          ("[1, 2, 3]", "[1, 2, 3, 4, 5]", "[]", "5", "[1, 2, 3, [4]]", "[1 2, 3, 4]")),
        *(f"[{RECORD.replace(key, 'other')}]" for key in ("image_id", "category_id", "score", "bbox")),
        "[" + RECORD.replace("score", "sc\\u006fre") + "]",
    ],
)  # fmt: skip
def test_what_is_odd_is_refused(text: str) -> None:
    assert scan_results(text.encode()) is None
    longer = f"[{RECORD}, {text[1:]}" if text.startswith("[{") else text
    assert scan_results(longer.encode()) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=12), st.integers(0, 200), st.integers(0, 12))
def test_no_bytes_lead_it_astray(noise: bytes, at: int, removed: int) -> None:
    content = f"[{RECORD}, {RECORD}]".encode()
    found = scan_results(content[:at] + noise + content[at + removed :])
    if found is not None:
        assert len({len(column) for column in found[:5]}) == 1


MASK = '{"size": [480, 640], "counts": "a\\\\b0"}'
MASKED = RECORD.replace('"bbox": [1, 2.5, 3e2, 4E-1]', f'"segmentation": {MASK}')


def test_run_lengths() -> None:
    both = RECORD[:-1] + ', "segmentation": {"counts": "", "size" : [ 7, 8 ] } }'
    found = scan_results(f"[{MASKED}, {both}, {MASKED}]".encode(), masks=True)
    assert found.boxed.tolist() == [1]
    assert found.boxes.tolist() == [[1, 2.5, 300, 0.4]]
    masks = [{"size": [480, 640], "counts": b"a\\b0"}, {"size": [7, 8], "counts": b""}]
    assert list(found.masks) == [*masks, masks[0]]
    assert found.masks[-1] == masks[0] and found.masks[1:] == [masks[1], masks[0]]
    with pytest.raises(IndexError):
        found.masks[3]
    assert scan_results(f"[{MASKED}]".encode()) is None  # boxes are wanted and there are none
    assert len(scan_results(b"[]", masks=True).masks) == 0


@pytest.mark.parametrize(
    "outline",
    [
        "[[1, 2, 3, 4, 5, 6]]", "null", "{}", '{"size": [4, 4]}', '{"counts": "a"}', '{"size": [4], "counts": "a"}',
        '{"size": [4, 4], "counts": [16]}', '{"size": [4, 4, 4], "counts": "a"}', '{"size": [4, 4.5], "counts": "a"}',
        '{"size": [4, 4], "counts": "a', '{"size": [4, 4], "counts": "\\u0061"}', '{"size": [4, 4] "counts": "a"}',
        '{"size": [4, 4], "counts": "a", "more": 1}', '{"size": [4, 4], "counts": "a",}', '{"size": 4, "counts": "a"}',
    ],
)  # fmt: skip
def test_odd_run_lengths_are_refused(outline: str) -> None:
    assert scan_results(f"[{MASKED}]".encode(), masks=True) is not None
    assert scan_results(f"[{MASKED.replace(MASK, outline)}]".encode(), masks=True) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=12), st.integers(0, 220), st.integers(0, 12))
def test_no_bytes_lead_it_astray_in_masks(noise: bytes, at: int, removed: int) -> None:
    content = f"[{MASKED}, {MASKED}]".encode()
    found = scan_results(content[:at] + noise + content[at + removed :], masks=True)
    if found is not None:
        assert len(found.masks) == len(found.scores) == len(list(found.masks))


@pytest.mark.parametrize("with_boxes", [True, False])
def test_large_files_with_masks_are_read_by_it(with_boxes: bool, tmp_path, monkeypatch) -> None:
    truth, results = mask_scene(22)
    if not with_boxes:
        results = [{k: v for k, v in r.items() if k != "bbox"} for r in results[::2]] + results[1::2]
    expected = evaluate_detections(truth, results, "segm").stats
    path = tmp_path / "dt.json"
    path.write_text(json.dumps(results))
    monkeypatch.setattr(files, "_LARGE", 0)
    columns = quick_results(path.read_bytes(), True)
    assert [mask["counts"].decode() for mask in columns.outlines] == [r["segmentation"]["counts"] for r in results]
    assert evaluate_detections(truth, path, "segm").stats == expected
    results[1]["segmentation"] = results[1]["segmentation"] | {"size": [640, 480]}
    path.write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"dt\.json\[1\]: the mask is \[640, 480\] .* its image \[480, 640\]"):
        evaluate_detections(truth, path, "segm")


def test_large_files_are_read_by_it(tmp_path, monkeypatch) -> None:
    truth, results = scene(21)
    expected = evaluate_detections(truth, results).stats
    path = tmp_path / "dt.json"
    path.write_text(json.dumps(results))
    slow = quick_results(path.read_bytes(), False)
    monkeypatch.setattr(files, "_LARGE", 0)
    fast = quick_results(path.read_bytes(), False)
    for name in ("image_ids", "category_ids", "scores", "boxed", "boxes"):
        assert (getattr(fast, name) == getattr(slow, name)).all(), name
    assert evaluate_detections(truth, path).stats == expected
    path.write_text(json.dumps([*results, results[0] | {"score": float("nan")}]))
    with pytest.raises(ValueError, match=rf"dt\.json\[{len(results)}\]: score must be finite, got nan"):
        evaluate_detections(truth, path)
