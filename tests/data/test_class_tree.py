"""Trees of classes: their shape, and every form and mistake of their files."""

import cv2
import numpy as np
import pytest

from detseg.data.annotations import AnnotationError, Annotations, Category
from detseg.data.class_tree import ClassTree, on_nodes, read_tree
from detseg.data.formats.class_folders import read_class_folders

FLOWERS = tuple(Category(3 + i, name) for i, name in enumerate(("rose", "wild rose", "daisy")))
# Labels 0 to 2 are the data set's; Rosaceae and Asteraceae follow.
PARENTS, ADDED = (3, 3, 4, -1, -1), ["Rosaceae", "Asteraceae"]


def read(tmp_path, text, categories=FLOWERS, encoding="utf-8"):
    path = tmp_path / "tree.txt"
    path.write_text(text, encoding=encoding)
    return read_tree(path, categories)


@pytest.mark.parametrize(
    "text",
    [
        "Rosaceae\n  rose\n  wild rose\nAsteraceae\n  daisy\n",
        "# families\nRosaceae\n\trose\n\twild rose\n\nAsteraceae\n\tdaisy",
        "Rosaceae\n    rose\n    wild rose\nAsteraceae\n daisy\n",
        "Rosaceae\r\n  rose\r\n  wild rose\r\nAsteraceae\r\n  daisy\r\n",
        "rose -> Rosaceae\nwild rose->Rosaceae\ndaisy → Asteraceae\n",
        "rose -> Rosaceae\nRosaceae\nwild rose -> Rosaceae\ndaisy -> Asteraceae\nAsteraceae\n",
        "child,parent\nrose,Rosaceae\nwild rose, Rosaceae\ndaisy,Asteraceae\n",
        "Rosaceae,\nrose,Rosaceae\nwild rose,Rosaceae\nAsteraceae,\ndaisy,Asteraceae\n",
        "rose\tRosaceae\nwild rose\tRosaceae\ndaisy\tAsteraceae\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_all_forms_give_the_same_tree(tmp_path, text, encoding):
    tree, nodes = read(tmp_path, text, encoding=encoding)
    assert nodes[:3] == FLOWERS, "labels and ids of the data set stay"
    assert [node.name for node in nodes[3:]] == ADDED and [node.id for node in nodes[3:]] == [6, 7]
    assert tree.parents == PARENTS


def test_a_category_may_be_an_inner_node_and_a_name_may_have_a_comma(tmp_path):
    categories = (Category(1, "Rosaceae"), Category(2, "rose, wild"))
    tree, nodes = read(tmp_path, "Plantae\n Rosaceae\n  rose, wild\n  rose\n", categories)
    assert [node.name for node in nodes] == ["Rosaceae", "rose, wild", "Plantae", "rose"]
    assert tree.parents == (2, 0, -1, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "tree.txt: is empty"),
        ("# nothing\n\n", "tree.txt: is empty"),
        ("Rosaceae\n    rose\n  wild rose\ndaisy\n", "line 3: the indentation of 'wild rose' is that of none"),
        ("  Rosaceae\n    rose\n", "line 1: the indentation of 'Rosaceae'"),
        ("Rosaceae\n\trose\n  wild rose\ndaisy\n", "line 3: the indentation"),
        ("a\n\tb\n  c\n", "line 3: the indentation of 'c'"),
        ("a\n  b\n\t\t\tc\n", "line 3: the indentation of 'c'"),
        ("rose\ndaisy\nrose\n", "line 3: 'rose' has a place in the tree by line 1"),
        ("rose -> a\nrose -> b\n", "line 2: 'rose' has a place in the tree by line 1"),
        ("rose -> daisy\ndaisy -> wild rose\nwild rose -> rose\n", "rose -> daisy -> wild rose -> rose is a circle"),
        ("rose -> rose\n", "line 1: 'rose' is its own parent"),
        ("rose -> a -> b\n", "line 1: names 3 classes; write child -> parent"),
        ("-> b\n", "line 1: the child has no name"),
        (
            "Rose\nwild  rose\nlily\n",
            r"no line for the data set's 'rose' \(near: 'Rose'\), 'wild rose' \(near: 'wild  ",
        ),
        ("rose\ndaisy\n", r"no line for the data set's 'wild rose' \(near: 'rose'\)"),
    ],
)
def test_mistakes_are_told_by_file_and_line(tmp_path, text, message):
    with pytest.raises(AnnotationError, match=message) as error:
        read(tmp_path, text)
    assert str(tmp_path / "tree.txt") in str(error.value)


def test_other_encodings_missing_files_and_equal_names_are_refused(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be read as text"):
        read(tmp_path, "Rosaceæ\n rose\n", encoding="latin-1")
    with pytest.raises(AnnotationError, match="cannot be read as text"):
        read_tree(tmp_path / "none.txt", FLOWERS)
    with pytest.raises(AnnotationError, match="two categories of the data set have one name"):
        read(tmp_path, "rose\n", (Category(1, "rose"), Category(2, "rose")))


def test_paths_depths_leaves_and_cuts_by_hand():
    tree = ClassTree((3, 3, -1, 4, -1))  # 4 > 3 > 0, 1 and the root 2, a leaf
    assert tree.paths.tolist() == [[4, 3, 0], [4, 3, 1], [2, -1, -1], [4, 3, -1], [4, -1, -1]]
    assert tree.depth.tolist() == [3, 3, 1, 2, 1] and tree.levels == 3
    assert tree.leaves.tolist() == [True, True, True, False, False]
    assert tree.cut(1).tolist() == [4, 4, 2, 4, 4]
    assert tree.cut(2).tolist() == [3, 3, 2, 3, -1], "a leaf above a level counts as itself"
    assert tree.cut(3).tolist() == [0, 1, 2, -1, -1]


def test_a_flat_tree_has_one_level_of_all_nodes():
    tree = ClassTree((-1,) * 4)
    assert tree.levels == 1 and tree.leaves.all() and tree.cut(1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("parents", "message"), [((1, 0), "circle"), ((0,), "circle"), ((2, -1), "lie in"), ((), "lie")]
)
def test_what_is_no_tree(parents, message):
    with pytest.raises(ValueError, match=message):
        ClassTree(parents)


def test_paths_of_random_trees_are_what_walking_upwards_gives():
    rng = np.random.default_rng(0)
    for size in (1, 7, 60):
        parents = [-1, *(int(rng.integers(-1, i)) for i in range(1, size))]
        order = rng.permutation(size)
        where = np.argsort(order)
        shuffled = tuple(int(where[parents[i]]) if parents[i] >= 0 else -1 for i in order)
        tree = ClassTree(shuffled)
        for node in range(size):
            path = [node]
            while shuffled[path[0]] >= 0:
                path.insert(0, shuffled[path[0]])
            assert tree.paths[node][: len(path)].tolist() == path and (tree.paths[node][len(path) :] == -1).all()


def test_annotations_get_the_nodes_by_name():
    boxes = np.array([[0, 0, 4, 4], [2, 2, 9, 9]], np.float64)
    data = Annotations(
        categories=(Category(90, "daisy"), Category(91, "Rosaceae")),
        image_ids=np.array([1]),
        paths=np.array(["a.jpg"]),
        sizes=np.array([[10, 10]], np.int32),
        image_index=np.zeros(2, np.int32),
        boxes=boxes,
        labels=np.array([1, 0], np.int32),
        iscrowd=np.zeros(2, bool),
        ids=np.arange(2),
        areas=np.ones(2),
    )
    nodes = (*FLOWERS, Category(6, "Rosaceae"))
    assert on_nodes(data, nodes).labels.tolist() == [3, 2] and on_nodes(data, nodes).categories == nodes
    with pytest.raises(AnnotationError, match="no node for 'Rosaceae'"):
        on_nodes(data, FLOWERS)


def test_folders_of_a_single_class_are_read(tmp_path):
    (tmp_path / "labels/rose").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "labels/rose/a.png"), np.zeros((8, 8, 3), np.uint8))
    data = read_class_folders(tmp_path / "labels")
    assert data.names == ("rose",) and data.labels.tolist() == [0]
    (tmp_path / "empty").mkdir()
    for place, message in (("empty", "holds no folders with images"), ("none", "is no folder")):
        with pytest.raises(AnnotationError, match=message):
            read_class_folders(tmp_path / place)
