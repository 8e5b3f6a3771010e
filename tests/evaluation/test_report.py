"""The page in a real browser: Debian's chromium and chromium-driver (`.ci/run` installs them)."""

import base64
import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from cryoden.data import ParticleDataModule
from cryoden.evaluation.figures import file_name
from cryoden.evaluation.report import report, slice_sheet
from cryoden.evaluation.results import Example
from tests.evaluation.made import comparison_of


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    driver_path = shutil.which("chromedriver")
    if driver_path is None:
        told = "no chromedriver: install Debian's chromium and chromium-driver"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    yield driver
    driver.quit()


def opened(browser: webdriver.Chrome, page: Path, width: int = 1200, scheme: str = "light") -> None:
    size = {"width": width, "height": 1600, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme_feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_feature)
    browser.get(page.as_uri())
    WebDriverWait(browser, 20).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#views canvas"))


def pixels(browser: webdriver.Chrome, name: str) -> np.ndarray:
    script = "return document.querySelector(`canvas[aria-label='slice of ${arguments[0]}']`).toDataURL()"
    data = browser.execute_script(script, name).partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))


def test_it_loads_without_errors_and_from_nowhere_else(browser, comparison: Path) -> None:
    page = comparison / "report.html"
    opened(browser, page)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    assert re.findall(r"(?:src|href)=\"(?!data:)", page.read_text()) == []
    assert "@@" not in re.sub(r'"data:[^"]*"', "", page.read_text())
    answer = browser.find_element(By.CLASS_NAME, "headline").text
    assert answer.startswith(("Yes:", "With doubt:", "No:"))
    assert len(browser.find_elements(By.CSS_SELECTOR, ".verdict li")) >= 4
    assert "broken.ckpt" in browser.find_element(By.CLASS_NAME, "verdict").text
    images = browser.find_elements(By.CSS_SELECTOR, ".plot img")
    assert len(images) == len(list((comparison / "figures").glob("*.png")))
    assert all(browser.execute_script("return arguments[0].naturalWidth", image) > 300 for image in images)


def test_the_slider_moves_through_the_volume(browser, comparison: Path) -> None:
    opened(browser, comparison / "report.html")
    names = [caption.text for caption in browser.find_elements(By.CSS_SELECTOR, "#views figcaption")]
    assert names[0] == "input"
    assert names[-1] == "clean"
    assert {"SimpleAE", "CompactUnetAE"} < set(names)
    slider = browser.find_element(By.ID, "z")
    assert pixels(browser, "clean").std() > 5  # it opens where there is something to see
    seen = {}
    for z in (16, 0, 12):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        browser.execute_script(script, slider, z)
        assert browser.find_element(By.ID, "place").text == f"slice {z + 1} of 32"
        seen[z] = pixels(browser, "clean")
    assert seen[16].shape == (32, 32)
    assert seen[0].std() < 0.5  # the particle is in the middle; its cut at Nyquist leaves less than a grey value here
    assert seen[16].std() > 5
    assert not np.array_equal(seen[16], seen[12])
    Select(browser.find_element(By.ID, "example")).select_by_index(1)
    WebDriverWait(browser, 20).until(lambda b: not np.array_equal(pixels(b, "clean"), seen[12]))


def test_the_tables_sort(browser, comparison: Path) -> None:
    opened(browser, comparison / "report.html")
    table = browser.find_element(By.TAG_NAME, "table")
    header = table.find_elements(By.TAG_NAME, "th")[1]
    assert header.text.startswith("NRMSE")

    def column() -> list[float]:
        cells = table.find_elements(By.CSS_SELECTOR, "tbody td:nth-child(2)")
        return [float(cell.text.split()[0]) for cell in cells]

    before = column()
    header.find_element(By.TAG_NAME, "button").click()
    assert column() == sorted(before) != before
    assert header.get_attribute("aria-sort") == "ascending"
    header.find_element(By.TAG_NAME, "button").click()
    assert column() == sorted(before, reverse=True)
    table.find_elements(By.CSS_SELECTOR, "th button")[0].click()
    names = [cell.text for cell in table.find_elements(By.CSS_SELECTOR, "tbody td:first-child")]
    assert names == sorted(names, key=str.casefold)


@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_the_screen_in_light_and_dark(width: int, browser, comparison: Path) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        opened(browser, comparison / "report.html", width, scheme)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        shot = Image.open(io.BytesIO(base64.b64decode(browser.get_screenshot_as_base64()))).convert("L")
        assert shot.width == width
        shades[scheme] = float(np.median(np.asarray(shot)))
    assert shades["light"] > 200
    assert shades["dark"] < 60


def test_a_sheet_holds_all_slices_in_order() -> None:
    volume = np.zeros((5, 4, 6), np.float32)
    for z in range(5):
        volume[z, 0, z] = 1  # the first row of y, which is drawn at the bottom
    sheet = np.asarray(Image.open(io.BytesIO(slice_sheet(volume, -0.35, 1.0))))
    assert sheet.shape == (2 * 4, 3 * 6)
    for z in range(5):
        part = sheet[z // 3 * 4 : z // 3 * 4 + 4, z % 3 * 6 : z % 3 * 6 + 6]
        assert np.unravel_index(part.argmax(), part.shape) == (3, z)
        assert part.max() == 255


def test_names_cannot_break_the_page() -> None:
    data = ParticleDataModule(
        entries=["phantom:1"], copies=4, val_fraction=0.5, box=32, voxel_size=10.0, resolution=20.0
    )
    data.setup()
    name = "</script><script>alert(1)</script>"
    made = comparison_of(data, {name: lambda v: v / 2}, indices=(0, 1))
    volume = np.ones((8, 8, 8), np.float32)
    made.examples = [Example("typical", "phantom:1", 0, {"input": volume, name: volume, "clean": volume})]
    page = report(made, [], {"bars": b""})
    assert page.count("</script>") == 1
    assert file_name(name) == "script_script_alert_1_script"
