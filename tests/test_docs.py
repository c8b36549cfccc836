"""What the README and the pages of docs/ print works: code, commands, links, options and lists of files."""

import dataclasses
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from detseg.cli import main
from tests.train.runs import untimed

ROOT = Path(__file__).resolve().parents[1]
PAGES = {p.relative_to(ROOT).as_posix(): p for p in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md")))}
TINY = ("--size", "64", "--epochs", "1", "--batch-size", "4", "--precision", "fp32")
TINY += ("--backbone", "test_efficientnet", "--weights", "none")


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder as the pages assume it: flowers/ in COCO form, the same with masks, images, a video, ground truth,
    detections, trained runs."""
    with untimed():
        return make_world(tmp_path_factory.mktemp("world"))


def make_world(folder):
    """As `world`, in a folder."""
    from detseg.data.images import read_image
    from detseg.flowers.dataset import write_flowers
    from detseg.visualize.video import VideoFile

    flowers = write_flowers(folder / "flowers", train=8, val=4, size=(96, 96))
    for number, name in enumerate(("garden", "meadow")):
        shutil.copy(flowers / f"images/val_{number:06d}.jpg", folder / f"{name}.jpg")
    truth = json.loads((flowers / "val.json").read_text())
    keys = ("image_id", "category_id", "bbox", "segmentation")
    found = [{key: entry[key] for key in keys} | {"score": 0.9} for entry in truth["annotations"]]
    with VideoFile(folder / "street.mp4", 10) as video:
        for path in sorted((flowers / "images").iterdir()):
            video.write(read_image(path))
    (folder / "sources.txt").write_text("garden.jpg\nmeadow.jpg\n")
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "dt.json").write_text(json.dumps(found))
    (folder / "other.json").write_text(json.dumps(found[::2]))
    run = folder / "runs/detector-1"
    assert main(["train", "detector", "--data", str(flowers), "--output", str(run), *TINY]) == 0
    write_masks(flowers, folder / "flowers-masks")
    shutil.copytree(run, folder / "runs/detector-2")
    run = folder / "runs/segmenter-1"
    assert main(["train", "segmenter", "--data", str(folder / "flowers-masks"), "--output", str(run), *TINY]) == 0
    shutil.copytree(run, folder / "runs/segmenter-2")
    run = folder / "runs/localizer-1"
    assert main(["train", "localizer", "--data", str(flowers), "--objectness", "--output", str(run), *TINY]) == 0
    return folder


def write_masks(flowers, folder):
    """The same images in a folder with masks."""
    from detseg.data import read_mask_dataset, write_index_png

    (folder / "images").mkdir(parents=True)
    for split, masks in read_mask_dataset(flowers).items():
        for index, path in enumerate(map(Path, masks.paths)):
            shutil.copy(path, folder / "images")
            write_index_png(folder / "masks" / f"{path.stem}.png", masks.mask(index))
        (folder / f"{split}.txt").write_text("".join(f"{Path(path).stem}\n" for path in masks.paths))
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in masks.names))


def code_blocks(page):
    """(language, line of its fence, code) of each fenced block of a page."""
    text = page.read_text()
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(m[1], text[: m.start()].count("\n") + 1, m[2]) for m in fences]


def shell_commands(code):
    """Each command of a block as words, without what follows a pipe or redirection."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        end = next((i for i, word in enumerate(words) if set(word) <= set("();<>|&")), len(words))
        if words[:end]:
            yield words[:end]


def detseg_commands(code):
    """The arguments of every call of detseg in a block, also of those through a launcher."""
    found = []
    for words in shell_commands(code):
        if "detseg" in words:
            found.append(words[words.index("detseg") + 1 :])
        elif "tools/train_detector.py" in words:
            found.append(["train", "detector", *words[words.index("tools/train_detector.py") + 1 :]])
    return found


def runnable(page):
    """Whether a page has Python code or commands of detseg."""
    blocks = code_blocks(PAGES[page])
    return any(language == "python" or (language == "sh" and detseg_commands(code)) for language, _, code in blocks)


# What most people read first; the others take a minute together.
FIRST = ("README.md", "docs/data.md", "docs/formats.md", "docs/nms.md")
RUNNABLE = [page if page in FIRST else pytest.param(page, marks=pytest.mark.slow) for page in PAGES if runnable(page)]


@pytest.mark.parametrize("page", RUNNABLE)
def test_the_blocks_of_a_page_run_in_their_order(page, world, tmp_path, monkeypatch):
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    # Child processes find detseg from there too, where it is not installed but on a relative path.
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    # A command that trains, or that goes on until it is stopped, is only checked: its options, not what it does.
    for long in ("train", "demo", "serve"):
        monkeypatch.setattr(f"detseg.cli.{long}.run", checked)
    names: dict[str, object] = {}
    with untimed():
        for language, number, code in code_blocks(PAGES[page]):
            if language == "python":
                exec(compile("\n" * number + code, PAGES[page], "exec"), names)
            for arguments in detseg_commands(code) if language == "sh" else ():
                assert main(arguments) == 0, arguments


def checked(config):
    if hasattr(config, "check"):
        config.check()
    return 0


def test_commands_are_found_in_shell_blocks():
    code = "detseg evaluate --json \\\n  --detections dt.json > metrics.json  # all of it\nmake demo\n"
    code += "torchrun --no-python detseg train detector --size 64 | tee log\npython tools/train_detector.py --size 96"
    assert detseg_commands(code) == [
        ["evaluate", "--json", "--detections", "dt.json"],
        ["train", "detector", "--size", "64"],
        ["train", "detector", "--size", "96"],
    ]


def test_make_targets_and_scripts_of_the_pages_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page, path in PAGES.items():
        for words in (w for language, _, code in code_blocks(path) if language == "sh" for w in shell_commands(code)):
            if words[0] == "make":
                assert {word for word in words[1:] if "=" not in word} <= targets, (page, words)
            for word in words:
                script = re.fullmatch(r"(benchmarks|tools|tests|\.ci)/\S+", word)
                assert not script or (ROOT / word).exists(), (page, words)


def test_links_within_the_repository_lead_somewhere():
    for page, path in PAGES.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            if re.match(r"[a-z]+:", link):
                continue
            place, _, anchor = link.partition("#")
            target = path.parent / place if place else path
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors(target), f"{page}: {link}"


def anchors(page):
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_docs_is_in_the_index():
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", PAGES["docs/README.md"].read_text()))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= linked | {"README.md"}


def test_the_page_on_training_has_every_option_with_its_default():
    from detseg.train.config import TrainDetector

    rows = re.findall(r"^\| (`--[^|]*) \| ([^|]*) \|", PAGES["docs/train.md"].read_text(), re.MULTILINE)
    listed = {
        option.removeprefix("no-").replace("-", "_"): default.strip("`")  # --no-x switches off what is on
        for options, default in rows
        for option in re.findall(r"`--([a-z-]+)`", options)
    }
    fields = {field.name: field.default for field in dataclasses.fields(TrainDetector)}
    assert listed.keys() == fields.keys()
    for name, default in fields.items():
        if isinstance(default, bool):
            assert listed[name] == ("on" if default else "off"), name
        elif isinstance(default, tuple):
            assert listed[name] == " ".join(map(str, default)), name
        elif default is not None:  # a default that is worked out is given in words
            assert type(default)(listed[name]) == default, name


def test_the_readme_lists_the_files_of_a_run_and_no_others(world):
    part = re.search(r"### What a run leaves\n(.*?)\n### ", PAGES["README.md"].read_text(), re.DOTALL)[1]
    listed = re.findall(r"`([^`]+)`", " ".join(row.split("|")[1] for row in part.splitlines() if row.startswith("| `")))
    assert sorted(name.rstrip("/") for name in listed) == sorted(p.name for p in (world / "runs/detector-1").iterdir())


def test_the_readme_describes_the_demo_as_it_is():
    from detseg.cli.demo import Demo

    demo, readme = Demo(), " ".join(PAGES["README.md"].read_text().split())
    others = demo.images // 4
    assert f"draws {demo.images + others} annotated flower images" in readme
    assert f"on {demo.images} of them for {demo.minutes:g} minutes" in readme
    assert f"mAP on the other {others} " in readme
