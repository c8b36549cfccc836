"""Lists of classes with colours, and what masks without a list may mean."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from detseg.data import read_mask_dataset, read_masks
from detseg.data.annotations import AnnotationError, Category
from detseg.data.checks.validate import validate
from detseg.data.formats.class_list import read_class_list
from detseg.data.index_png import MaskError
from tests.cases import case
from tests.data.annotation_samples import write_picture
from tests.data.mask_samples import save_mask

ROSE, DAISY = (250, 50, 83), (50, 183, 250)
COLOURS = np.array([(0, 0, 0), ROSE, DAISY], np.uint8)
LABELS = np.array([[0, 1, 1, 2], [0, 0, 2, 2]], np.uint8)
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nrose:250,50,83::\ndaisy:50,183,250::\n"


def write_set(folder, masks, file="", text=""):
    """Images a, b, ... with these masks: arrays or images of Pillow."""
    for number, mask in enumerate(masks):
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        write_picture(folder / f"images/{'abcdef'[number]}.jpg", *image.size, number)
        (folder / "masks").mkdir(exist_ok=True)
        image.save(folder / f"masks/{'abcdef'[number]}.png")
    if file:
        (folder / file).write_text(text)
    return folder


def palette(labels, order):
    """A palette PNG of the colours in another order: equal to look at."""
    image = Image.fromarray(np.argsort(order)[labels].astype(np.uint8))
    image.putpalette(COLOURS[order].tobytes())
    return image


def test_lists_of_colours(tmp_path):
    plain = [(0, "background"), (1, "rose"), (2, "daisy")]
    for text, expected in (
        (LABELMAP, plain),
        ("name,r,g,b\nbackground,0,0,0\nrose,250,50,83\ndaisy,50,183,250\n", plain),
        (
            "Name, Red, Green, Blue, more\nbackground, 0, 0, 0, x\n'rose', 250, 50, 83\n",
            [(0, "background"), (1, "'rose'")],
        ),
        ("0 0 0\tbackground\n250 50 83 rose\n50 183 250\t\tdaisy", plain),
        ("background,#000000\nrose,#FA3253\ndaisy,#32b7fa", plain),
        ("#000000 background\n#fa3253 rose\n#32b7fa daisy", plain),
        ("background 0 0 0\nrose 250 50 83\ndaisy 50 183 250", plain),
        ("0 0 0 Void\n250 50 83 red rose", [(1, "red rose")]),
    ):
        with case(text):
            (tmp_path / "list.txt").write_text(text)
            found = read_class_list(tmp_path / "list.txt")
            assert [tuple(category) for category in found.categories] == expected
            assert found.reading.colours[1].rgb == ROSE


def test_lists_of_colours_that_cannot_be(tmp_path):
    for text, words in (
        ("a:0,0,0::\nb:0,0,0::", "the colour 0,0,0 twice, to 'a' and 'b'"),
        ("a:0,0,0::\nb:0,0,256::", "0,0,256 is no colour"),
        ("name,r,g,b\na,0,0", "line 2 has no name with three numbers: a,0,0"),
        ("name,r,g,b\na,0,0,0\n,1,1,1", "line 3 has no name"),
        ("a:0,0,0::\na:1,0,0::", "gives the name a twice"),
        ("ignore:0,0,0::", "lists no class"),
    ):
        with case(text):
            (tmp_path / "labelmap.txt").write_text(text)
            with pytest.raises(AnnotationError, match=f"labelmap.txt: .*{words}"):
                read_class_list(tmp_path / "labelmap.txt")
    (tmp_path / "_classes.csv").write_text("filename, rose, daisy\na.jpg, 0, 1\n")
    with pytest.raises(
        AnnotationError, match=r"_classes\.csv: lists no classes: its first line names neither the columns name, r"
    ):
        read_class_list(tmp_path / "_classes.csv")


def test_masks_in_colours(tmp_path):
    rgb = COLOURS[LABELS]
    alpha = np.dstack([rgb, np.full(LABELS.shape, 255, np.uint8)])
    masks = [rgb, alpha, palette(LABELS, [0, 1, 2]), palette(LABELS, [2, 0, 1]), np.zeros((2, 4), np.uint8)]
    found = read_masks(write_set(tmp_path, masks, "labelmap.txt", LABELMAP))
    assert found.names == ("background", "rose", "daisy")
    for number in range(4):
        np.testing.assert_array_equal(found.mask(number), LABELS)
    assert not found.mask(4).any()
    assert not validate(found)


def test_masks_in_colours_take_the_list_that_has_them(tmp_path):
    write_set(tmp_path, [COLOURS[LABELS]], "classes.txt", "rose\ndaisy\n")
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    np.testing.assert_array_equal(read_masks(tmp_path).mask(0), LABELS)
    save_mask(tmp_path / "masks/a.png", LABELS % 2)
    assert read_masks(tmp_path).names == ("rose", "daisy")


def test_the_border_of_vocs_objects_counts_for_nothing(tmp_path):
    rgb = COLOURS[LABELS]
    rgb[0, 0] = (224, 224, 192)
    found = read_masks(write_set(tmp_path, [rgb], "labelmap.txt", LABELMAP))
    assert found.mask(0).tolist() == [[255, 1, 1, 2], [0, 0, 2, 2]]


def test_colours_that_are_not_listed_are_named_and_not_guessed(tmp_path):
    rgb = COLOURS[LABELS]
    rgb[0, 0], rgb[1, 0] = (250, 50, 84), (1, 1, 1)
    found = read_masks(write_set(tmp_path, [COLOURS[LABELS], rgb], "labelmap.txt", LABELMAP))
    (problem,) = validate(found)
    assert problem.kind == "mask-values" and problem.file.endswith("b.png")
    assert problem.what == (
        "2 colours that are not in the list of classes: 1,1,1 (1 pixels; the nearest is background 0,0,0), "
        "250,50,84 (1 pixels; the nearest is rose 250,50,83)"
    )


def test_numbers_beside_a_list_of_colours(tmp_path):
    found = read_masks(write_set(tmp_path, [LABELS * 0, LABELS], "labelmap.txt", LABELMAP))
    np.testing.assert_array_equal(found.mask(1), LABELS)
    grey = "black:0,0,0::\ngrey:1,1,1::\n"
    found = read_masks(write_set(tmp_path, [np.uint8([[0, 1, 1, 0]] * 2)] * 2, "labelmap.txt", grey))
    assert found.mask(0).tolist() == [[0, 1, 1, 0]] * 2


def test_colours_without_a_list_name_it(tmp_path):
    found = read_masks(write_set(tmp_path, [COLOURS[LABELS]]))
    with pytest.raises(MaskError, match=r"a\.png: .*colours \(RGB\).*put a list of the colours beside it.*labelmap"):
        found.mask(0)


# -- no list ---------------------------------------------------------------------------------------------


def test_one_and_255_in_different_files_are_the_same(tmp_path):
    bits = LABELS > 0
    found = read_masks(write_set(tmp_path, [bits, bits.astype(np.uint8) * 255, bits.astype(np.uint8)]))
    assert [tuple(category) for category in found.categories] == [(0, "background"), (1, "foreground")]
    for number in range(3):
        np.testing.assert_array_equal(found.mask(number), bits)


def test_255_beside_1_is_ignored(tmp_path):
    found = read_masks(write_set(tmp_path, [LABELS % 2 * 1, np.uint8([[0, 1, 255, 0]] * 2), np.uint8([[255] * 4] * 2)]))
    assert found.mask(1).tolist() == [[0, 1, 255, 0]] * 2 and (found.mask(2) == 255).all()


def test_palettes_in_black_and_white_go_by_colour(tmp_path):
    bits = (LABELS > 0).astype(np.uint8)
    white_first = Image.fromarray(1 - bits)
    white_first.putpalette([255, 255, 255, 0, 0, 0])
    black_first = Image.fromarray(bits)
    black_first.putpalette([0, 0, 0, 255, 255, 255])
    for masks in ([white_first, black_first], [white_first] * 2, [white_first, Image.fromarray(bits * 255)]):
        found = read_masks(write_set(tmp_path, masks))
        for number in range(2):
            np.testing.assert_array_equal(found.mask(number), bits)
    with pytest.raises(AnnotationError, match=r"hold 0, 1 and 255, others are palettes in black and white .*a\.png"):
        read_masks(write_set(tmp_path, [white_first, np.uint8([[0, 1, 255, 0]] * 2)]))


def test_palettes_of_other_order_are_an_error(tmp_path):
    """A class would be another one in some of the masks."""
    write_set(tmp_path, [palette(LABELS, [0, 1, 2]), palette(LABELS, [2, 1, 0])], "classes.txt", "none\nrose\ndaisy\n")
    errors = [problem for problem in validate(read_masks(tmp_path)) if problem.severity == "error"]
    assert [problem.kind for problem in errors] == ["palette-differs"] and errors[0].file.endswith("b.png")
    assert f"value 0 has the colour {DAISY} in its palette, and (0, 0, 0) in {tmp_path}/masks/a.png" in errors[0].what
    write_set(tmp_path, [palette(LABELS, [0, 1, 2]), LABELS])
    assert not validate(read_masks(tmp_path))


def test_two_classes_written_in_two_ways_are_told(tmp_path):
    write_set(tmp_path, [LABELS % 2, LABELS // 2 * 255], "classes.txt", "background\nflower\n")
    (problem,) = validate(read_masks(tmp_path))
    assert problem.kind == "white-differs" and problem.severity == "warning"
    assert "1 of 2 masks hold 255, which is ignored, and no 1 ('flower')" in problem.what
    save_mask(tmp_path / "masks/a.png", np.uint8([[0, 1, 255, 0]] * 2))
    assert not validate(read_masks(tmp_path))


def test_soft_edges_name_the_file_and_the_threshold(tmp_path):
    hard = Image.fromarray(np.kron(LABELS > 0, np.ones((8, 8))).astype(np.uint8) * 255)
    soft = hard.filter(ImageFilter.GaussianBlur(2))
    for classes in ("", "background\nflower\n"):
        write_set(tmp_path, [hard, soft], "classes.txt" if classes else "", classes)
        with pytest.raises(AnnotationError, match=r"b\.png: \d+ greys between black and white.*--threshold 128"):
            read_masks(tmp_path).mask(1)
        found = read_masks(tmp_path, threshold=128)
        assert found.names == ("background", "flower" if classes else "foreground")
        np.testing.assert_array_equal(found.mask(0), np.asarray(hard) == 255)
        np.testing.assert_array_equal(found.mask(1), np.asarray(soft) >= 128)


def test_jpeg_masks_with_a_threshold(tmp_path):
    hard = np.kron(LABELS > 0, np.ones((8, 8))).astype(np.uint8) * 255
    for mode in ("L", "RGB"):
        write_picture(tmp_path / "images/a.jpg", 32, 16)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(hard).convert(mode).save(tmp_path / "masks/a.jpg", quality=80)
        with pytest.raises(MaskError, match=r"a\.jpg: .*JPEG.*--threshold 128"):
            read_masks(tmp_path).mask(0)
        np.testing.assert_array_equal(read_masks(tmp_path, threshold=128).mask(0), hard == 255)


def test_a_threshold_needs_two_classes_and_nothing_ignored(tmp_path):
    write_set(tmp_path, [LABELS], "classes.txt", "a\nb\nc\n")
    with pytest.raises(
        AnnotationError, match=r"classes\.txt: --threshold tells two classes apart, and there are 3 \(a, b"
    ):
        read_masks(tmp_path, threshold=128)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(AnnotationError, match="with a threshold every pixel has a class; leave ignore_value out"):
        read_masks(tmp_path, threshold=128, ignore_value=3)
    assert read_masks(tmp_path, threshold=2).mask(0).tolist() == (LABELS >= 2).astype(int).tolist()


def test_a_list_of_one_class(tmp_path):
    found = read_masks(write_set(tmp_path, [LABELS, LABELS // 2 * 255], "classes.txt", "flower\n"))
    assert found.categories == (Category(0, "background"), Category(1, "flower"))
    np.testing.assert_array_equal(found.mask(0), LABELS > 0)
    np.testing.assert_array_equal(found.mask(1), LABELS == 2)
    with pytest.raises(AnnotationError, match="whatever is not 0 is 'flower'"):
        read_masks(tmp_path, ignore_value=255)


def test_numbers_of_objects_are_named_as_a_possibility(tmp_path):
    write_set(tmp_path, [LABELS, np.uint8([[0, 1, 2, 3]] * 2)])
    with pytest.raises(
        AnnotationError, match=r"values 0, 1, 2, 3,.*number the objects of each image, write into classes"
    ):
        read_masks(tmp_path)
    write_set(tmp_path, [LABELS, np.uint8([[0, 1, 2, 4]] * 2)])
    with pytest.raises(AnnotationError, match=r"'4 bluebell'; 255 is 'ignore'$"):
        read_mask_dataset(tmp_path, val_share=0.5)


# -- hostile ---------------------------------------------------------------------------------------------


def test_damaged_masks_and_lists_name_their_file(tmp_path):
    """Only AnnotationError, of which MaskError is one, and the file in it."""
    rng = np.random.default_rng(7)
    write_set(tmp_path, [palette(LABELS, [0, 1, 2])], "labelmap.txt", LABELMAP)
    mask, lists = tmp_path / "masks/a.png", tmp_path / "labelmap.txt"
    good = {mask: mask.read_bytes(), lists: lists.read_bytes()}
    for _ in range(100):
        for file, content in good.items():
            damaged = bytearray(content)
            for place in rng.integers(0, len(damaged), rng.integers(1, 6)):
                damaged[place] = rng.integers(0, 256)
            file.write_bytes(bytes(damaged[: rng.integers(1, len(damaged) + 1)]))
            try:
                found = read_masks(tmp_path)
                validate(found)
                assert found.mask(0).shape
            except AnnotationError as error:
                assert str(tmp_path) in str(error)
            file.write_bytes(content)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1" * 5000 + " a",
            "name,r,g,b\n" + "9" * 5000 + ",1,2,3",
            "a:" + "9" * 5000 + ",0,0::",
            "\0",
            "a\0b",
            "[" * 9000,
        ),
        *("name,r,g,b\na,²,1,1", "٣ a", 'name,r,g,b\n"a', "0 a\n" * 70000, "\n".join(f"c{i}" for i in range(300))),
        *("a b " * 5000 + "1 2 x", "name,r,g,b\n" + "\n".join(f"c{i},{i % 256},{i // 256},0" for i in range(40000))),
    ],
    ids=range(13),
)
def test_odd_lists(tmp_path, text):
    write_set(tmp_path, [LABELS], "classes.txt", text)
    try:
        found = read_masks(tmp_path)
        validate(found)
        found.mask(0)
    except AnnotationError as error:
        assert str(tmp_path) in str(error)
