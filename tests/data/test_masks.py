"""Sets of masks: values to labels, outlines to masks, order of classes."""

import numpy as np
import pytest
from pycocotools import mask as coco

from detseg.data.annotations import AnnotationError, Category
from detseg.data.base import match_categories
from detseg.data.checks.validate import validate
from detseg.data.formats import read_coco, read_mask_dataset
from detseg.data.index_png import MaskError
from detseg.data.masks import SemanticMasks
from detseg.data.polygons import SegmentsBuilder
from detseg.flowers.dataset import SPECIES, scene_seed, write_flowers
from detseg.flowers.scenes import draw_scene
from tests.cases import case
from tests.data.annotation_samples import make, write_picture
from tests.data.mask_samples import save_mask, write_turned_image


def files(tmp_path, masks, categories, **fields):
    """A set of mask files with images of their sizes."""
    paths = [write_picture(tmp_path / f"{i}.jpg", m.shape[1], m.shape[0], i) for i, m in enumerate(masks)]
    found = [save_mask(tmp_path / f"{i}.png", m) for i, m in enumerate(masks)]
    values = {
        "categories": tuple(Category(*c) for c in categories),
        "image_ids": np.arange(len(masks)) + 5,
        "paths": np.array([str(p) for p in paths]),
        "sizes": np.array([m.shape[::-1] for m in masks], np.int32).reshape(-1, 2),
        "mask_paths": np.array([str(p) for p in found]),
        "source": "here",
    }
    return SemanticMasks(**values | fields)


def test_values_become_labels_in_the_order_of_the_classes(tmp_path):
    values = np.array([[7, 0, 3], [255, 9, 7]], np.uint8)
    masks = files(tmp_path, [values], [(3, "c"), (0, "a"), (7, "b")], ignore_values=(9, 255))
    assert masks.names == ("c", "a", "b")
    assert masks.mask(0).tolist() == [[2, 1, 0], [255, 255, 2]]
    assert masks.mask(0).dtype == np.uint8
    assert repr(masks) == "SemanticMasks(1 images, 3 classes, source='here')"


def test_values_of_16_bits_and_a_class_at_255(tmp_path):
    masks = files(
        tmp_path, [np.array([[300, 255, 65535]], np.uint16)], [(300, "a"), (255, "b")], ignore_values=(65535,)
    )
    assert masks.mask(0).tolist() == [[0, 1, 255]]
    assert files(tmp_path, [np.array([[0, 255]], np.uint8)], [(0, "a"), (255, "b")]).mask(0).tolist() == [[0, 1]]


def test_values_that_are_no_class_are_named_with_their_counts(tmp_path):
    values = np.array([[0, 1, 2, 9, 9], [4, 4, 4, 200, 255]], np.uint8)
    with pytest.raises(MaskError) as caught:
        files(tmp_path, [values], [(0, "a"), (1, "b"), (2, "c")]).mask(0)
    assert caught.value.what == "values that are no class: 4 (3 pixels), 9 (2 pixels), 200 (1 pixels)"
    assert "the classes have the values 0 to 2" in caught.value.remedy
    assert str(caught.value).startswith(f"{tmp_path}/0.png: ")
    many = np.arange(20, dtype=np.uint8)[None]
    with pytest.raises(MaskError, match=r"\.\.\. \(the classes have the values 1, 5:"):
        files(tmp_path, [many], [(5, "a"), (1, "b")]).mask(0)


def test_a_mask_of_another_size(tmp_path):
    masks = files(tmp_path, [np.zeros((20, 30), np.uint8)], [(0, "a")], sizes=np.array([[31, 20]], np.int32))
    with pytest.raises(MaskError, match=r"0\.png: the mask is 30 x 20 pixels, its image 31 x 20 \(use the image"):
        masks.mask(0)


def test_masks_show_the_upright_image(tmp_path_factory):
    for orientation in range(1, 9):
        with case(orientation):
            tmp_path = tmp_path_factory.mktemp("case")
            turned = orientation >= 5
            path = write_turned_image(tmp_path / "a.jpg", (40, 24), orientation)
            size = (24, 40) if turned else (40, 24)
            fields = {"paths": np.array([str(path)]), "sizes": np.array([size], np.int32)}
            upright = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1]) % 3
            classes = [(0, "a"), (1, "b"), (2, "c")]
            np.testing.assert_array_equal(files(tmp_path, [upright], classes, **fields).mask(0), upright)
            stored = files(tmp_path, [np.zeros((24, 40), np.uint8)], classes, **fields)
            if turned:
                with pytest.raises(
                    MaskError, match=f"orientation {orientation}.: drawn on the unturned.*turn the mask"
                ):
                    stored.mask(0)
            else:
                assert stored.mask(0).shape == (24, 40)


def test_subset(tmp_path):
    masks = files(tmp_path, [np.full((4, 4 + i), i, np.uint8) for i in range(4)], [(i, f"{i}") for i in range(4)])
    part = masks.subset([3, -4, 3])
    assert part.image_ids.tolist() == [8, 5, 8]
    assert [part.mask(i)[0, 0] for i in range(3)] == [3, 0, 3]
    assert part.sizes[:, 0].tolist() == [7, 4, 7]
    assert masks.subset(np.array([False, True, False, False])).image_ids.tolist() == [6]
    assert len(masks.subset([])) == 0
    with pytest.raises(IndexError, match=r"0\.\.3, got 4"):
        masks.subset([4])


def test_shapes_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"sizes has shape \(1, 3\)"):
        files(tmp_path, [np.zeros((2, 2), np.uint8)], [(0, "a")], sizes=np.zeros((1, 3), np.int32))
    with pytest.raises(ValueError, match="mask_paths, objects or pack"):
        files(tmp_path, [np.zeros((2, 2), np.uint8)], [(0, "a")], mask_paths=None)
    for count in (0, 256):
        with pytest.raises(AnnotationError, match=f"here: has {count} classes"):
            files(tmp_path, [], [(i, f"{i}") for i in range(count)])
    assert len(files(tmp_path, [], [(i, f"{i}") for i in range(255)]).categories) == 255


def test_classes_are_brought_into_the_order_of_training(tmp_path):
    values = np.array([[0, 1, 2]], np.uint8)
    masks = files(tmp_path, [values], [(0, "a"), (1, "b"), (2, "c")])
    order = (Category(2, "c"), Category(0, "a"), Category(1, "b"))
    assert match_categories(order, masks).mask(0).tolist() == [[1, 2, 0]]
    assert match_categories(masks.categories, masks) is masks
    with pytest.raises(AnnotationError, match=r"here: .*Only in training: 3 'd'\. Only here: 2 'c'"):
        match_categories((*masks.categories[:2], Category(3, "d")), masks)


# -- drawn from outlines -------------------------------------------------------------------------------


def outlined(kinds, boxes=None, **fields):
    """One image of 64 x 48; each kind is polygons, a boolean mask, or None with the box (4, 4, 12.5, 10)."""
    builder = SegmentsBuilder()
    for kind in kinds:
        if kind is None:
            builder.add_nothing()
        elif isinstance(kind, np.ndarray):
            code = coco.encode(np.asfortranarray(kind.astype(np.uint8)))
            builder.add_rle(*kind.shape, code["counts"])
        else:
            builder.add_polygons(kind)
    return make([[4, 4, 12.5, 10]] * len(kinds) if boxes is None else boxes, segments=builder.build(), **fields)


def rectangle(x1, y1, x2, y2):
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def test_outlines_are_drawn_as_pycocotools_draws_them():
    rng = np.random.default_rng(0)
    polygons = [[rng.uniform(0, 48, 12).tolist(), rng.uniform(0, 60, 8).tolist()] for _ in range(3)]
    bitmap = rng.random((48, 64)) < 0.1
    masks = SemanticMasks.from_annotations(outlined([*polygons, bitmap], labels=[0, 1, 2, 1]))
    assert masks.categories[0] == Category(0, "background")
    assert masks.names == ("background", "rose", "daisy", "water lily")
    shapes = [coco.decode(coco.merge(coco.frPyObjects(p, 48, 64))).astype(bool) for p in polygons] + [bitmap]
    wanted = np.zeros((48, 64), np.uint8)
    for shape, label in sorted(zip(shapes, [1, 2, 3, 2], strict=True), key=lambda pair: -pair[0].sum()):
        wanted[shape] = label
    found = masks.mask(0)
    np.testing.assert_array_equal(found, wanted)
    assert found.flags.c_contiguous and found.dtype == np.uint8


def test_the_smaller_object_is_on_top_whatever_the_order_and_the_stated_areas():
    large, small = rectangle(0, 0, 40, 40), rectangle(10, 10, 20, 20)
    for kinds, labels in (([large, small], [0, 1]), ([small, large], [1, 0])):
        annotations = outlined(kinds, labels=labels, areas=np.array([1.0, 1.0]))
        found = SemanticMasks.from_annotations(annotations).mask(0)
        assert (found[15, 15], found[5, 5], found[45, 5]) == (2, 1, 0)
    equal = SemanticMasks.from_annotations(outlined([large, large], labels=[0, 1]))
    assert equal.mask(0)[5, 5] == 2


def test_crowds_boxes_and_unknown_classes_are_ignored_where_no_object_is():
    crowd, flower, unknown = rectangle(20, 0, 40, 20), rectangle(0, 0, 30, 30), rectangle(50, 0, 60, 10)
    annotations = outlined(
        [flower, crowd, None, unknown, None],
        labels=[0, 0, 1, -1, 1],
        iscrowd=np.array([False, True, False, False, True]),
        boxes=np.array([[0, 0, 30, 30], [20, 0, 40, 20], [4, 28, 12.5, 36.4], [50, 0, 60, 10], [0, 40, 70, 90.0]]),
    )
    found = SemanticMasks.from_annotations(annotations).mask(0)
    assert (found[:30, :30] == 1).all()  # the flower covers part of the crowd and of a box
    assert (found[:20, 30:40] == 255).all()
    assert (found[30:36, 4:12] == 255).all()
    assert (found[30:40, 12] == 0).all() and (found[36, 4:12] == 0).all()  # their centres lie outside
    assert (found[:10, 50:60] == 255).all()
    assert (found[40:, :] == 255).all()
    assert (found == 255).sum() == 20 * 10 + 6 * 8 + 100 + 8 * 64


def test_a_box_that_is_not_finite_marks_nothing():
    annotations = outlined([rectangle(0, 0, 3, 3), None], boxes=np.array([[0, 0, 3, 3], [np.nan] * 4]))
    assert (SemanticMasks.from_annotations(annotations).mask(0) == 255).sum() == 0


def test_a_run_length_mask_of_another_size_is_named():
    masks = SemanticMasks.from_annotations(outlined([np.ones((10, 10), bool)]))
    with pytest.raises(MaskError, match=r"0\.jpg: the mask of object 1 is 10 x 10 pixels \(the image is 64 x 48"):
        masks.mask(0)


def test_boxes_alone_give_no_masks():
    with pytest.raises(AnnotationError, match="its 1 objects have boxes but no polygons"):
        SemanticMasks.from_annotations(make([[1, 1, 5, 5]]))
    nothing = SemanticMasks.from_annotations(make([]))
    assert not nothing.mask(0).any()


def test_the_background_has_an_id_of_its_own():
    ids = [Category(0, "daisy"), Category(-1, "rose")]
    masks = SemanticMasks.from_annotations(outlined([rectangle(0, 0, 9, 9)], categories=tuple(ids)))
    assert masks.categories == (Category(-2, "background"), *ids)
    named = (Category(4, "_Background_"), Category(5, "rose"))
    masks = SemanticMasks.from_annotations(outlined([rectangle(0, 0, 9, 9)], labels=[1], categories=named))
    assert masks.categories == named
    assert masks.mask(0)[4, 4] == 1


def test_the_order_of_outlined_classes_follows_training():
    masks = SemanticMasks.from_annotations(outlined([rectangle(0, 0, 9, 9)], labels=[2]))
    background, *rest = masks.categories
    turned = match_categories((background, *rest[::-1]), masks)
    assert (masks.mask(0)[4, 4], turned.mask(0)[4, 4]) == (3, 1)
    assert turned.names == ("background", "water lily", "daisy", "rose")
    with pytest.raises(AnnotationError, match="label 0 of masks drawn from polygons"):
        match_categories((*rest, background), masks)


def test_a_subset_of_outlined_images():
    builder = SegmentsBuilder()
    for x in (5, 9):
        builder.add_polygons(rectangle(0, 0, x, x))
    masks = SemanticMasks.from_annotations(
        make([[0, 0, 5, 5], [0, 0, 9, 9]], [0, 1], [0, 1], [(20, 20), (30, 30)], segments=builder.build())
    )
    part = masks.subset([1])
    np.testing.assert_array_equal(part.mask(0), masks.mask(1))
    assert part.mask(0)[4, 4] == 2


def test_the_embedded_images_have_the_masks_that_were_drawn(tmp_path):
    write_flowers(tmp_path / "flowers", train=3, val=2, size=(96, 80), seed=3)
    data = read_mask_dataset(tmp_path / "flowers")
    for split, masks in data.items():
        assert masks.names == ("background", *SPECIES)
        for i in range(len(masks)):
            scene = draw_scene(scene_seed(3, split, i), (96, 80))
            np.testing.assert_array_equal(masks.mask(i), scene.semantic)
        assert {p.kind for p in validate(masks)} <= {"absent-class"}  # not all five species are in so few images


def test_annotation_files_with_crowds(tmp_path):
    from tests.data.annotation_samples import write_coco_dataset

    masks = SemanticMasks.from_annotations(read_coco(write_coco_dataset(tmp_path)))
    assert masks.categories[0] == Category(-1, "background")  # the file has an id 0 of its own
    by_id = dict(zip(masks.image_ids.tolist(), range(4), strict=True))
    assert set(np.unique(masks.mask(by_id[5]))) == {0, 3}
    assert set(np.unique(masks.mask(by_id[0]))) == {0, 255}  # a crowd, and an object with only a box
    assert (masks.mask(by_id[3]) == 255).all()
    assert not masks.mask(by_id[9]).any()
