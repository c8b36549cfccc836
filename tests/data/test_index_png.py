"""Label maps in files: what is read from each kind of image, what is refused, what is written."""

import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from detseg.data.colours import class_color
from detseg.data.index_png import MaskError, mask_palette, read_index_image, write_index_png
from tests.cases import case
from tests.data.annotation_samples import write_picture
from tests.data.mask_samples import blobs, write_grey_png

MASK = blobs(23, 17, 5)


def as_palette(mask):
    image = Image.fromarray(mask)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    return image


KINDS = {
    "grey": Image.fromarray,
    "palette": as_palette,
    "16 bits": lambda mask: Image.fromarray(mask.astype(np.uint16)),
    "32 bits": lambda mask: Image.fromarray(mask.astype(np.int32)),
    "grey as RGB": lambda mask: Image.fromarray(np.dstack([mask] * 3)),
    "grey as RGBA": lambda mask: Image.fromarray(np.dstack([mask] * 3 + [mask * 0 + 99])),
    "grey with alpha": lambda mask: Image.fromarray(np.dstack([mask, mask * 0 + 99])),
}


# PNG has no 32 bits, BMP only these.
FORMS = [(k, ".tif") for k in KINDS] + [(k, ".png") for k in KINDS if k != "32 bits"]
FORMS += [(kind, ".bmp") for kind in ("grey", "palette", "grey as RGB")]


def test_the_values_are_read_as_they_are(tmp_path_factory):
    for kind, suffix in FORMS:
        with case(kind, suffix):
            tmp_path = tmp_path_factory.mktemp("case")
            path = tmp_path / f"mask{suffix}"
            KINDS[kind](MASK).save(path)
            values = read_index_image(path)
            np.testing.assert_array_equal(values, MASK)
            assert values.dtype in (np.uint8, np.uint16) and values.flags.c_contiguous


def test_large_values_and_two_of_them(tmp_path):
    large = np.array([[0, 300, 65535]], np.uint16)
    Image.fromarray(large).save(tmp_path / "large.png")
    np.testing.assert_array_equal(read_index_image(tmp_path / "large.png"), large)
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert read_index_image(tmp_path / "bits.png").tolist() == [[1, 0]]


def test_few_bits_hold_the_values_that_were_written(tmp_path_factory):
    """Viewers, and Pillow, show 2 bits of grey as 0, 85, 170, 255."""
    for bits in [1, 2, 4, 8]:
        with case(bits):
            tmp_path = tmp_path_factory.mktemp("case")
            values = np.arange(1 << bits, dtype=np.uint8)
            digits = (values[:, None] >> np.arange(bits - 1, -1, -1)) & 1
            row = b"\0" + np.packbits(digits.ravel()).tobytes()  # no filter
            write_grey_png(tmp_path / "mask.png", len(values), 1, bits, row)
            assert read_index_image(tmp_path / "mask.png").tolist() == [values.tolist()]


def test_masks_larger_than_pillows_limit(tmp_path):
    for side, words in ((14_000, "unrecognized"), (2**15 + 1, "more than 1073741824"), (2**16, "more than 10737")):
        write_grey_png(tmp_path / "mask.png", side, side, 1, np.random.default_rng(0).bytes(25_000))
        with warnings.catch_warnings(), pytest.raises(MaskError, match=f"cannot be read: .*{words}"):
            warnings.simplefilter("error" if side == 14_000 else "ignore")
            read_index_image(tmp_path / "mask.png")


def test_a_mask_is_not_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(MASK).save(tmp_path / "a.png", exif=exif.tobytes())
    np.testing.assert_array_equal(read_index_image(tmp_path / "a.png"), MASK)


def test_what_is_no_mask_is_refused(tmp_path_factory):
    for make, kind, words in [
        (lambda path: None, "missing-mask", "does not exist"),
        (lambda path: path.write_text("no image"), "damaged-mask", "cannot be read"),
        (lambda path: path.mkdir(), "damaged-mask", "cannot be read"),
        (lambda path: write_picture(path, format="PNG"), "colour-mask", r"colours \(RGB\).*write_index_png"),
        (lambda path: write_picture(path, format="JPEG"), "lossy-mask", "JPEG"),
        (lambda path: Image.fromarray(MASK.astype(np.float32)).save(path, "TIFF"), "colour-mask", "another kind"),
        (lambda path: Image.fromarray(MASK.astype(np.int32) - 1).save(path, "TIFF"), "colour-mask", "another kind"),
    ]:
        with case(make, kind, words):
            tmp_path = tmp_path_factory.mktemp("case")
            path = tmp_path / "mask.png"
            make(path)
            with pytest.raises(MaskError, match=f"mask.png: .*{words}") as caught:
                read_index_image(path)
            assert caught.value.kind == kind
            assert isinstance(caught.value, ValueError)
            assert str(caught.value) == f"{path}: {caught.value.what} ({caught.value.remedy})"


def test_transparency_is_the_mask_where_all_colours_are_the_same(tmp_path):
    path, inside = tmp_path / "a.png", np.uint8(MASK > 0) * 255
    for colour in (0, 255, 90):
        Image.fromarray(np.dstack([np.full_like(MASK, colour)] * 3 + [inside])).save(path)
        np.testing.assert_array_equal(read_index_image(path), inside)
    Image.fromarray(np.dstack([np.full_like(MASK, 7), inside])).save(path)
    np.testing.assert_array_equal(read_index_image(path), inside)
    Image.fromarray(np.dstack([inside] * 4)).save(path)  # both say the same
    np.testing.assert_array_equal(read_index_image(path), inside)
    with pytest.raises(
        MaskError, match=r"a\.png: .*transparency differs from pixel to pixel, and so do its colours"
    ) as error:
        Image.fromarray(np.dstack([MASK] * 3 + [255 - inside])).save(path)
        read_index_image(path)
    assert error.value.kind == "alpha-mask"


def test_a_file_that_is_cut_short(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(MaskError, match="cannot be read"):
        read_index_image(path)


def test_what_is_written_is_read_again(tmp_path_factory):
    for mask in [MASK, MASK.astype(np.int64), np.array([[255]], np.uint8), MASK > 0]:
        with case(mask):
            tmp_path = tmp_path_factory.mktemp("case")
            path = tmp_path / "new" / "mask.png"
            write_index_png(path, mask)
            np.testing.assert_array_equal(read_index_image(path), mask)
            assert [p.name for p in path.parent.iterdir()] == ["mask.png"]


def test_viewers_see_the_colours_of_the_palette(tmp_path):
    palette = mask_palette(["background", "daisy", "rose"])
    write_index_png(tmp_path / "mask.png", MASK, palette)
    shown = cv2.imread(str(tmp_path / "mask.png"))[..., ::-1]
    np.testing.assert_array_equal(shown, palette[MASK])
    write_index_png(tmp_path / "short.png", np.array([[0, 2]]), palette[:3])
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "short.png"))[0, :, ::-1], palette[[0, 2]])


def test_classes_have_the_colours_of_detection():
    with_background, without = mask_palette(["Background", "daisy"]), mask_palette(["daisy", "rose"])
    assert with_background[0].tolist() == [0, 0, 0]
    assert [tuple(c) for c in with_background[1:255].tolist()] == [class_color(k) for k in range(254)]
    assert [tuple(c) for c in without[:255].tolist()] == [class_color(k) for k in range(255)]
    for palette in (with_background, without):
        assert palette.shape == (256, 3) and palette.dtype == np.uint8
        assert palette[255].min() > 200


def test_what_cannot_be_written(tmp_path_factory):
    for mask, palette, words in [
        (np.zeros((2, 2, 3), np.uint8), None, r"uint8 \(2, 2, 3\)"),
        (np.zeros((0, 2), np.uint8), None, r"\(0, 2\)"),
        (np.zeros((2, 2)), None, "float64"),
        (np.array([[0, 256]]), None, "0..256"),
        (np.array([[-1]]), None, "-1..-1"),
        (MASK, np.zeros((300, 3)), r"\(300, 3\)"),
        (MASK, np.zeros((3, 4)), r"\(3, 4\)"),
    ]:
        with case(mask, palette, words):
            tmp_path = tmp_path_factory.mktemp("case")
            with pytest.raises(ValueError, match=f"mask.png: .*{words}"):
                write_index_png(tmp_path / "mask.png", mask, palette)
            assert not (tmp_path / "mask.png").exists()
