"""The page in a browser: drop, look, filter, save. Skipped where there is no Chromium with its driver."""

import base64
import csv
import io
import json
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from detseg.serve.app import create_app
from detseg.serve.limits import Limits
from tests.serve.served import NAMES, Told, image_file, running

pytestmark = pytest.mark.slow

DROP = """
const [name, type, data] = arguments;
const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
const dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([bytes], name, { type }));
const target = document.getElementById("drop");
target.dispatchEvent(new DragEvent("dragenter", { dataTransfer, bubbles: true, cancelable: true }));
target.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
"""
PASTE = """
const [name, data] = arguments;
const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
const clipboardData = new DataTransfer();
clipboardData.items.add(new File([bytes], name, { type: "image/png" }));
document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
"""
PIXEL = """
const canvas = document.getElementById("canvas");
const [x, y] = [Math.floor(arguments[0] * canvas.width), Math.floor(arguments[1] * canvas.height)];
return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
"""


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(downloads):
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    helper = shutil.which("chromedriver")
    if browser is None or helper is None:
        pytest.skip("no Chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(helper))
    driver.set_window_size(1280, 900)
    yield driver
    driver.quit()


class Page:
    """What a user sees and does."""

    def __init__(self, driver, downloads):
        self.driver, self.downloads = driver, downloads

    def of(self, name):
        return self.driver.find_element("id", name)

    def until(self, true, seconds=10):
        end = time.monotonic() + seconds
        while not (value := true()):
            assert time.monotonic() < end, (self.of("error").text, self.of("status").text)
            time.sleep(0.02)
        return value

    def drop(self, content, name="garden.png", kind="image/png"):
        self.driver.execute_script(DROP, name, kind, base64.b64encode(content).decode())

    def answered(self):
        """Wait for the result of the image that was given last."""
        self.until(
            lambda: self.of("panel").is_displayed() and "working" not in self.of("figure").get_attribute("class")
        )

    def legend(self):
        rows = self.driver.find_elements("css selector", "#legend li")
        return [tuple(row.find_element("class name", c).text for c in ("class-name", "count")) for row in rows]

    def pixel(self, x, y):
        return self.driver.execute_script(PIXEL, x, y)[:3]

    def saved(self, kind, name):
        path = self.downloads / name
        path.unlink(missing_ok=True)
        self.of(f"save-{kind}").click()
        self.until(path.is_file)
        return path.read_bytes()

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def opened(driver, downloads):
    """Opens the page of a model."""
    servers = []

    def open_page(model=None, **options):
        server = running(create_app(Told() if model is None else model, name="garden <i>", **options))
        host, port = server.__enter__()
        servers.append(server)
        driver.get(f"http://{host}:{port}/")
        page = Page(driver, downloads)
        page.complaints()  # of pages before
        page.until(lambda: page.of("name").text == "garden <i>")
        return page

    yield open_page
    driver.get("about:blank")
    for server in servers:
        server.__exit__(None, None, None)


def grey(size=(400, 300)):
    content = io.BytesIO()
    Image.new("RGB", size, (128, 128, 128)).save(content, "PNG")
    return content.getvalue()


def test_boxes_appear_and_the_slider_filters_them(opened):
    page = opened()
    assert page.of("about").text == "finds objects · 3 classes · 64 px"
    page.drop(grey(), "<img src=x onerror=alert(1)>.png")
    page.answered()
    assert page.of("file-name").text == "<img src=x onerror=alert(1)>.png"
    assert page.legend() == [(NAMES[0], "1"), (NAMES[1], "1")]
    assert page.of("status").text.startswith(f"1 {NAMES[0]}, 1 {NAMES[1]} · ")
    assert page.of("score-value").text == "0.30"
    assert page.pixel(0.1 + 0.0005, 0.5) == [230, 159, 0]  # the left side of the first box
    assert page.pixel(0.02, 0.98) == [128, 128, 128]
    slider = page.of("score")
    slider.send_keys("\ue010")  # End
    page.until(lambda: page.legend() == [(NAMES[0], "0"), (NAMES[1], "0")])
    assert page.pixel(0.1 + 0.0005, 0.5) == [128, 128, 128]
    assert page.of("nothing").text == "None is shown: lower the minimum score or tick classes."
    slider.send_keys("\ue011")  # Home
    page.until(lambda: page.legend() == [(NAMES[0], "2"), (NAMES[1], "1")])
    assert page.of("score-value").text == "0.05"
    page.driver.find_element("css selector", "#legend input").click()
    assert page.of("status").text.startswith(f"1 {NAMES[1]} · ")
    assert page.pixel(0.1 + 0.0005, 0.5) == [128, 128, 128]
    assert not page.driver.find_elements("css selector", "#legend script, #rows script, figcaption img")
    assert page.complaints() == []


def test_what_is_shown_can_be_saved(opened):
    page = opened(Told(masks=True))
    page.drop(grey(), "my garden/1.png")
    page.answered()
    found = json.loads(page.saved("json", "my_garden_1-found.json"))
    assert (found["image"], found["model"], found["score_threshold"]) == ("my garden/1.png", "garden <i>", 0.3)
    assert [o["score"] for o in found["objects"]] == [0.9, 0.6] and found["objects"][0]["polygons"]
    rows = list(csv.reader(io.StringIO(page.saved("csv", "my_garden_1-found.csv").decode())))
    assert rows[0] == ["image", "name", "label", "score", "x1", "y1", "x2", "y2"]
    assert rows[2] == ["my garden/1.png", NAMES[1], "1", "0.6", "160", "30", "360", "150"]
    image = Image.open(io.BytesIO(page.saved("image", "my_garden_1-found.png")))
    assert image.size == (400, 300)
    inside = np.asarray(image.convert("RGB"))[100, 80].astype(int)
    assert np.abs(inside - (0.55 * np.array([128] * 3) + 0.45 * np.array([230, 159, 0]))).max() <= 2
    assert page.complaints() == []


def test_a_bad_file_shows_its_message_and_the_next_one_works(opened):
    page = opened(limits=Limits(pixels=200_000, bytes=1_000_000))
    for content, message in (
        (b"no image", "the file is no image of a known type"),
        (image_file("PNG")[:4000], "image file is truncated"),
        (grey((1000, 300)), "more than the 0.2 million that are taken"),
        (bytes(1_000_001), "larger than 1 MB"),
    ):
        page.drop(content, "bad <b>.png")
        page.until(lambda message=message: message in page.of("error").text)
        assert page.of("error").text.startswith("bad <b>.png: ")
        assert not page.of("panel").is_displayed() and not page.of("figure").is_displayed()
    page.drop(grey())
    page.answered()
    assert not page.of("error").is_displayed()


def test_choosing_and_pasting_do_as_well(opened, tmp_path):
    page = opened()
    (tmp_path / "chosen.png").write_bytes(grey())
    page.of("file").send_keys(str(tmp_path / "chosen.png"))
    page.answered()
    assert page.of("file-name").text == "chosen.png"
    page.driver.execute_script(PASTE, "pasted.png", base64.b64encode(grey()).decode())
    page.until(lambda: page.of("file-name").text == "pasted.png")
    page.answered()


def test_images_that_the_browser_cannot_show_are_shown(opened):
    page = opened()
    content = io.BytesIO()
    Image.new("RGB", (200, 100), (10, 200, 30)).save(content, "TIFF")
    page.drop(content.getvalue(), "scan.tif", "image/tiff")
    page.answered()
    assert np.abs(np.array(page.pixel(0.02, 0.98)) - [10, 200, 30]).max() <= 3
    assert page.pixel(0.1 + 0.0005, 0.5) == [230, 159, 0]


def test_a_segmenter_colours_classes_that_can_be_switched_off(opened):
    page = opened(Told("segment"))
    page.drop(grey())
    page.answered()
    assert page.legend() == [(NAMES[1], "50 %"), (NAMES[0], "25 %"), (NAMES[2], "25 %")]
    blue = [round(0.55 * 128 + 0.45 * value) for value in (86, 180, 233)]
    assert np.abs(np.array(page.pixel(0.4, 0.8)) - blue).max() <= 2
    page.driver.find_element("css selector", "#legend input").click()
    page.until(lambda: page.pixel(0.4, 0.8) == [128, 128, 128])
    rows = list(csv.reader(io.StringIO(page.saved("csv", "garden-found.csv").decode())))
    assert [row[1] for row in rows[1:]] == [NAMES[0], NAMES[2]]
    assert page.complaints() == []


def test_a_classifier_lists_what_is_likely(opened):
    page = opened(Told("classify"))
    page.drop(grey())
    page.answered()
    assert page.legend() == [(NAMES[1], "70 %"), (NAMES[0], "20 %"), (NAMES[2], "10 %")]
    page.driver.execute_script(
        "arguments[0].value = 0.15; arguments[0].dispatchEvent(new Event('input'))", page.of("score")
    )
    assert [name for name, _ in page.legend()] == [NAMES[1], NAMES[0]]
    image = Image.open(io.BytesIO(page.saved("image", "garden-found.png")))
    assert image.width == 400 and image.height > 300  # the classes are written below
    assert page.complaints() == []


@pytest.mark.parametrize("width", [390, 320])
def test_it_fits_a_telephone(opened, width):
    page = opened(Told(masks=True))
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for _ in range(2):
            assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
            page.drop(grey())
            page.answered()
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_server_that_has_gone_is_told(opened):
    page = opened()
    page.driver.execute_script("window.fetch = () => Promise.reject(new TypeError('failed'))")
    page.drop(grey())
    page.until(lambda: page.of("error").text == "garden.png: The server does not answer. Is it still running?")
