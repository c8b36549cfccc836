import io
import struct
import warnings
from contextlib import suppress
from functools import partial

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from detseg.data import images
from detseg.data.checks.looks import read_looks
from detseg.data.images import ORIENTATION, image_size, inspect_image, read_image
from detseg.data.index_png import read_index_image
from tests.cases import case
from tests.data.annotation_samples import write_picture
from tests.data.mask_samples import write_grey_png


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


@pytest.fixture
def blocks():
    """(40, 24, 3): even blocks, so that JPEG and WebP keep their colours."""
    colours = np.random.default_rng(0).integers(0, 256, (5, 3, 3), dtype=np.uint8)
    return np.kron(colours, np.ones((8, 8, 1), np.uint8))


def test_rgb_as_pillow_reads_it(tmp_path_factory, blocks):
    for extension in ["jpg", "png", "webp", "tif", "bmp"]:
        with case(extension):
            tmp_path = tmp_path_factory.mktemp("case")
            path = save(tmp_path / f"a.{extension}", blocks)
            expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
            found = read_image(path)
            assert found.dtype == np.uint8 and found.flags.c_contiguous
            assert np.abs(found - expected).max() <= (2 if extension in ("jpg", "webp") else 0)
            assert image_size(path) == (24, 40)


def test_exif_orientation_as_pillow_turns_it(tmp_path_factory, blocks):
    for extension in ["jpg", "png", "webp", "tif"]:
        for orientation in range(1, 9):
            with case(orientation, extension):
                tmp_path = tmp_path_factory.mktemp("case")
                exif = Image.Exif()
                exif[ORIENTATION] = orientation
                path = save(tmp_path / f"a.{extension}", blocks, exif=exif)
                with Image.open(path) as image:
                    expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
                found = read_image(str(path))
                assert found.shape == expected.shape
                assert np.abs(found - expected).max() <= (2 if extension in ("jpg", "webp") else 0)
                assert image_size(path) == (found.shape[1], found.shape[0])
                assert inspect_image(path).size == image_size(path)
                if orientation >= 5 and extension != "tif":
                    assert inspect_image(path).stored_size == (24, 40)


def test_orientations_that_do_not_exist_are_ignored(tmp_path_factory, blocks):
    for value in [0, 9, 77]:
        with case(value):
            tmp_path = tmp_path_factory.mktemp("case")
            exif = Image.Exif()
            exif[ORIENTATION] = value
            path = save(tmp_path / "a.jpg", blocks, exif=exif)
            assert read_image(path).shape == (40, 24, 3)


def test_grey_has_three_equal_channels(tmp_path, blocks):
    for name in ("a.jpg", "a.png"):
        grey = read_image(save(tmp_path / name, blocks, "L"))
        assert grey.shape == (40, 24, 3)
        assert (grey == grey[..., :1]).all() and grey.std() > 10


def test_sixteen_bits_are_scaled_over_the_whole_range(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65407, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png")[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255, 255]
    colour = np.stack([values, values[:, ::-1], values * 0], axis=-1)  # cv2 writes blue, green, red
    for name in ("colour.png", "colour.tiff"):
        cv2.imwrite(str(tmp_path / name), colour)
        found = read_image(tmp_path / name)
        assert found[0, :, 2].tolist() == [0, 0, 1, 1, 128, 255, 255]
        assert found[0, :, 1].tolist() == [255, 255, 128, 1, 1, 0, 0]
        assert (found[..., 0] == 0).all()


def test_transparency_is_laid_over_white(tmp_path):
    pixels = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], dtype=np.uint8)
    found = read_image(save(tmp_path / "a.png", pixels))
    assert found[0].tolist() == [[200, 100, 0], [255, 255, 255], [244, 224, 204]]
    white = Image.new("RGBA", (3, 1), "white")
    white.alpha_composite(Image.fromarray(pixels))
    np.testing.assert_allclose(found, np.asarray(white.convert("RGB")), atol=1)


def test_transparency_as_pillow_lays_it_over_white(tmp_path_factory):
    for mode in ["LA", "RGBA"]:
        for extension in ["png", "tif", "webp"]:
            with case(extension, mode):
                tmp_path = tmp_path_factory.mktemp("case")
                pixels = np.random.default_rng(0).integers(0, 256, (12, 10, len(mode)), dtype=np.uint8)
                image = Image.merge(mode, [Image.fromarray(channel) for channel in np.moveaxis(pixels, 2, 0)])
                image.save(
                    tmp_path / f"a.{extension}", **({"lossless": True, "exact": True} if extension == "webp" else {})
                )
                found = read_image(tmp_path / f"a.{extension}").astype(int)
                assert np.abs(found - over_white(image)).max() <= 1


def test_a_transparent_colour_is_white(tmp_path_factory):
    for mode, key in [("1", 0), ("L", 100), ("RGB", (100, 100, 100)), ("P", 3)]:
        with case(mode, key):
            tmp_path = tmp_path_factory.mktemp("case")
            grey = np.arange(120, dtype=np.uint8).reshape(10, 12)
            image = Image.fromarray(grey).convert(mode)
            image.save(tmp_path / "a.png", transparency=key)
            with Image.open(tmp_path / "a.png") as saved:
                expected = over_white(saved)
            assert (expected != np.asarray(image.convert("RGB"))).any()
            np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def over_white(image):
    """What Pillow makes of transparent pixels, as whole numbers."""
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")).astype(int)


def test_palettes_are_looked_up(tmp_path, blocks):
    image = Image.fromarray(blocks).convert("P", palette=Image.Palette.ADAPTIVE)
    for name in ("a.png", "a.gif", "a.bmp"):
        image.save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name), np.asarray(image.convert("RGB")))
    image.save(tmp_path / "clear.png", transparency=0)
    first = np.asarray(image) == 0
    assert (read_image(tmp_path / "clear.png")[first] == 255).all()


def test_one_bit_and_grey_with_alpha(tmp_path, blocks):
    expected = np.asarray(Image.fromarray(blocks).convert("1").convert("RGB"))
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", blocks, "1")), expected)
    expected = np.asarray(Image.fromarray(blocks).convert("L").convert("RGB"))
    np.testing.assert_array_equal(read_image(save(tmp_path / "b.png", blocks, "LA")), expected)


def test_cmyk_jpeg(tmp_path, blocks):
    found = read_image(save(tmp_path / "a.jpg", blocks, "CMYK", quality=100))
    assert np.abs(found.astype(int) - blocks).max() < 6


def test_floating_point_images_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tiff"), np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match=r"a\.tiff: pixels are float32"):
        read_image(tmp_path / "a.tiff")


def test_names_beyond_ascii(tmp_path):
    assert read_image(write_picture(tmp_path / "Gänseblümchen 雛菊.jpg")).shape == (48, 64, 3)


def test_missing_empty_and_foreign_files_are_named(tmp_path_factory):
    for function in [read_image, image_size, inspect_image]:
        with case(function):
            tmp_path = tmp_path_factory.mktemp("case")
            (tmp_path / "empty.jpg").write_bytes(b"")
            (tmp_path / "text.jpg").write_text("no image")
            for name in ("missing.jpg", "empty.jpg", "text.jpg", "."):
                with pytest.raises(ValueError, match=f"^{tmp_path / name}: ") as error:
                    function(tmp_path / name)
                assert "BytesIO" not in str(error.value)


def test_images_larger_than_pillows_limit(tmp_path):
    path = tmp_path / "large.png"
    for side, words in ((14_000, "unrecognized"), (2**15 + 1, "more than 1073741824"), (2**16, "more than 1073741824")):
        write_grey_png(path, side, side, 1, np.random.default_rng(0).bytes(25_000))
        if side == 14_000:
            assert image_size(path) == (side, side)  # by its header
        for function in (read_image, *([image_size] if side > 14_000 else [])):
            with warnings.catch_warnings(), pytest.raises(ValueError, match=rf"large\.png: .*{words}"):
                warnings.simplefilter("error" if side == 14_000 else "ignore")
                function(path)


def test_png_files_too_short_for_their_pixels_take_no_memory(tmp_path):
    path = write_grey_png(tmp_path / "mask.png", 16, 16_776_972, 16, b"\0" * 400)
    for function in (read_image, inspect_image, read_index_image):
        with pytest.raises(ValueError, match=r"mask\.png: .*16 x 16776972 pixels, and the file is too short for them"):
            function(path)


def claiming(path, kind, **options):
    """A small image whose header says 30000 x 30000."""
    Image.new("L", (16, 12)).save(path, kind, **options)
    content, side = bytearray(path.read_bytes()), 30_000
    if kind == "GIF":
        content[6:10] = struct.pack("<HH", side, side)
    elif kind == "JPEG":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", side, side)
    elif kind == "TIFF":
        for tag in (256, 257):
            place = content.index(struct.pack("<HHI", tag, 4, 1)) + 8
            content[place : place + 4] = struct.pack("<I", side)
    else:  # BMP in run lengths, which end at once
        content[18:34] = struct.pack("<IIHHI", side, side, 1, 8, 1)
        content[1078:] = b"\0\1"
    path.write_bytes(content)
    return path


def test_files_too_short_for_what_they_claim_take_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("it is decoded"))
    for kind in ("GIF", "JPEG", "BMP", "TIFF"):
        path = claiming(tmp_path / "photo", kind)
        for read in (read_image, inspect_image, partial(read_image, channels=1), partial(read_image, channels=4)):
            with case(kind), pytest.raises(ValueError, match=r"photo: .*30000 x 30000 pixels, and the file is too"):
                read(path)
        assert not read_looks([str(path)]).readable.any()


def test_blank_images_are_not_taken_for_too_short(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("detseg.data.claims.MANY", 0)
    folder, blank = tmp_path_factory.mktemp("case"), np.zeros((1500, 1500, 3), np.uint8)
    ways = [
        *(("jpg", {"quality": 1, "progressive": progressive}) for progressive in (False, True)),
        *(("tif", {"compression": way}) for way in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate")),
        *((kind, {}) for kind in ("gif", "bmp", "png", "jp2", "tga")),
        ("webp", {"lossless": True}),
    ]
    for number, (kind, options) in enumerate(ways):
        with case(kind, options):
            path = save(folder / f"{number}.{kind}", blank, mode="L", **options)
            assert read_image(path).shape == blank.shape
            cv2.imwrite(str(path), blank) if kind not in ("gif", "tga") else None
            assert read_image(path).shape == blank.shape


def test_png_chunks_that_claim_more_than_the_file_take_no_memory(tmp_path, monkeypatch):
    whole = save(tmp_path / "a.png", np.full((12, 16, 3), 7, np.uint8)).read_bytes()
    for tail in (b"", b"x" * 5000):  # after the end
        (tmp_path / "a.png").write_bytes(whole + tail)
        assert (read_image(tmp_path / "a.png") == 7).all()
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("it is decoded"))
    length, coded = struct.pack(">I", 2**31 - 1), whole.index(b"IDAT")
    (tmp_path / "a.png").write_bytes(whole[: coded - 4] + length + whole[coded:])
    for read in (read_image, partial(read_image, channels=1), lambda path: read_looks([str(path)])):
        with suppress(ValueError):
            read(tmp_path / "a.png")
    for name in (b"IDAT", b"tEXt", b"zzZz"):
        (tmp_path / "a.png").write_bytes(whole[:-12] + length + name + whole[-12:])
        for read in (read_image, inspect_image, partial(read_image, channels=1)):
            with case(name, read), pytest.raises(ValueError, match=r"a\.png: not a readable image"):
                read(tmp_path / "a.png")


def test_no_program_is_run_for_an_image(tmp_path, monkeypatch):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript is called"))
    for function in (read_image, image_size, inspect_image):
        with pytest.raises(ValueError, match=rf"^{path}: .*EPS file is a program"):
            function(path)


def test_files_cut_short_are_named(tmp_path_factory):
    for share in [0.3, 0.6, 0.97]:
        for extension in ["jpg", "png", "webp", "tif", "bmp", "gif"]:
            with case(extension, share):
                tmp_path = tmp_path_factory.mktemp("case")
                noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
                path = save(tmp_path / f"a.{extension}", noise)
                assert inspect_image(path).size == (64, 64)
                path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
                for function in (read_image, inspect_image):
                    with pytest.raises(ValueError, match=f"^{path}: "):
                        function(path)


def test_a_whole_preview_does_not_hide_a_cut_image(tmp_path):
    """A camera's preview inside the header has an end mark of its own."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    preview, image = io.BytesIO(), io.BytesIO()
    Image.fromarray(noise).save(preview, "JPEG")
    Image.fromarray(noise).save(image, "JPEG", quality=30)
    data = image.getvalue()
    block = b"\xff\xe2" + (len(preview.getvalue()) + 2).to_bytes(2, "big") + preview.getvalue()
    whole = data[:2] + block + data[2:]
    (tmp_path / "a.jpg").write_bytes(whole)
    assert read_image(tmp_path / "a.jpg").shape == (96, 96, 3)
    (tmp_path / "a.jpg").write_bytes(whole[: -len(data) // 2])
    for function in (read_image, inspect_image):
        with pytest.raises(ValueError, match="cut short"):
            function(tmp_path / "a.jpg")


def test_bytes_after_the_end_mark_are_harmless(tmp_path, blocks):
    path = save(tmp_path / "a.jpg", blocks)
    path.write_bytes(path.read_bytes() + b"\0" * 100_000)
    assert inspect_image(path).size == (24, 40)
    assert read_image(path).shape == (40, 24, 3)


def test_real_images_have_the_size_their_header_says(flowers_det):
    for path in sorted((flowers_det / "images").iterdir())[::40]:
        assert image_size(path) == read_image(path).shape[1::-1]


def write_tiff(path, pixels, extra=0):
    """An uncompressed TIFF of (H, W, C) bands, those beyond three of kind `extra`: 0 unspecified, 2 transparency."""
    height, width, bands = pixels.shape
    content = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    bits = 8 * pixels.dtype.itemsize
    tags = [(256, [width]), (257, [height]), (258, [bits] * bands), (259, [1]), (262, [2]), (273, [0]), (277, [bands])]
    tags += [(278, [height]), (279, [len(content)]), (284, [1]), (338, [extra] * (bands - 3))]
    tags = [(tag, values) for tag, values in tags if values]
    lists = b""
    rows = []
    start = 14 + 12 * len(tags)
    for tag, values in tags:
        body = struct.pack(f"<{len(values)}I", *values)
        place = body if len(values) == 1 else struct.pack("<I", start + len(lists))
        lists += b"" if len(values) == 1 else body
        rows.append(struct.pack("<HHI", tag, 4, len(values)) + place)
    rows = [row[:8] + struct.pack("<I", start + len(lists)) if row[:2] == b"\x11\x01" else row for row in rows]
    head = b"II*\0" + struct.pack("<IH", 8, len(rows)) + b"".join(rows) + bytes(4)
    path.write_bytes(head + lists + content)
    return path


def test_a_fourth_band_is_transparency_only_where_the_file_says_so(tmp_path):
    """Aerial images have infrared there: SamplesPerPixel 4, ExtraSamples 0."""
    for kind in (np.uint8, np.uint16):
        scale = 1 if kind is np.uint8 else 257
        pixels = np.tile(np.array([220, 30, 40, 60], kind) * scale, (4, 5, 1))
        assert read_image(write_tiff(tmp_path / "a.tif", pixels)).tolist() == [[[220, 30, 40]] * 5] * 4
        found = read_image(write_tiff(tmp_path / "with_extra_band.tif", pixels, extra=2))
        np.testing.assert_allclose(found[0, 0], [247, 202, 204], atol=1)  # over white


def test_more_bands_are_left_out_or_told(tmp_path, capfd):
    pixels = np.tile(np.arange(10, 70, 10, dtype=np.uint8), (4, 5, 1))
    for bands in (5, 6):
        path = write_tiff(tmp_path / f"{bands}.tif", pixels[..., :bands])
        assert read_image(path).tolist() == [[[10, 20, 30]] * 5] * 4
        assert inspect_image(path).size == (5, 4)
    path = write_tiff(tmp_path / "a.tif", pixels[..., :5].astype(np.uint16))
    with pytest.raises(ValueError, match=r"a\.tif: a TIFF image of 5 bands cannot be read as RGB; .* --channels 5"):
        read_image(path)
    assert image_size(path) == inspect_image(path).size == (5, 4)
    assert capfd.readouterr().err == ""


def test_twelve_bits_in_sixteen_are_told_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(images, "_warned_of_few_bits", False)
    for values, warned in (([0, 0], False), ([7000, 1], False), ([4095, 7], True), ([300, 1], False)):
        caplog.clear()
        path = tmp_path / f"{values[0]}.png"
        Image.fromarray(np.array([values], np.uint16)).save(path)
        read_image(path)
        assert (f"{path}: a 16-bit image whose largest value is 4095, of 65535" in caplog.text) == warned
        assert bool(caplog.text) == warned
        assert not warned or "multiply their values by 16" in caplog.text


@pytest.mark.parametrize("name", ["many.gif", "many.tif", "many.png", "many.webp"])
def test_frames_and_pages_are_told_once(tmp_path, caplog, monkeypatch, name):
    monkeypatch.setattr(images, "_warned_of_frames", False)
    frames = [Image.new("RGB", (8, 6), (level, 0, 0)) for level in (0, 90, 200)]
    frames[0].save(tmp_path / f"one_{name}")
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    read_image(tmp_path / f"one_{name}")
    assert not caplog.text
    assert read_image(tmp_path / name).max() < 9  # the first
    assert f"{name}: has 3 frames or pages, and only the first is read" in caplog.text
    caplog.clear()
    read_image(tmp_path / name)
    assert not caplog.text
