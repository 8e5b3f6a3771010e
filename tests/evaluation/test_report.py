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
from cryoden.evaluation.report import page, report, slice_sheet
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
    """Of a canvas that is called so, from the top."""
    script = "return document.querySelector(`canvas[aria-label='${arguments[0]}']`).toDataURL()"
    data = browser.execute_script(script, name).partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))


@pytest.fixture(scope="module")
def data() -> ParticleDataModule:
    made = ParticleDataModule(
        entries=["phantom:1"], copies=4, val_fraction=0.5, box=32, voxel_size=10.0, resolution=20.0
    )
    made.setup()
    return made


def test_it_loads_without_errors_and_from_nowhere_else(browser, comparison: Path) -> None:
    page = comparison / "report.html"
    opened(browser, page)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    assert re.findall(r"(?:src|href)=\"(?!data:|#)", page.read_text()) == []
    assert "@@" not in re.sub(r'"data:[^"]*"', "", page.read_text())
    answer = browser.find_element(By.CLASS_NAME, "headline").text
    assert answer.startswith(("Yes:", "With doubt:", "No:"))
    assert len(browser.find_elements(By.CSS_SELECTOR, ".verdict li")) >= 4
    assert "broken.ckpt" in browser.find_element(By.CLASS_NAME, "verdict").text
    images = browser.find_elements(By.CSS_SELECTOR, ".plot img")
    assert len(images) == len(list((comparison / "figures").glob("*.png")))
    assert all(browser.execute_script("return arguments[0].naturalWidth", image) > 300 for image in images)


def move(browser: webdriver.Chrome, axis: str, place: int) -> None:
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    browser.execute_script(script, browser.find_element(By.ID, axis), place)


def test_where_there_are_no_volumes_to_look_at_nothing_is_offered(browser, comparison: Path, tmp_path: Path) -> None:
    opened(browser, comparison / "report.html")
    assert browser.find_element(By.ID, "look").is_displayed()
    (tmp_path / "halves.html").write_text(page("halves", "No: none is.", [], "", "", {}), encoding="utf-8")
    browser.get((tmp_path / "halves.html").as_uri())
    assert browser.find_element(By.TAG_NAME, "h1").is_displayed()
    assert not browser.find_element(By.ID, "look").is_displayed()


def test_a_slider_moves_through_the_volume_along_each_axis(browser, comparison: Path) -> None:
    opened(browser, comparison / "report.html")
    names = [caption.text for caption in browser.find_elements(By.CSS_SELECTOR, "#views figcaption")]
    assert len(names) % 3 == 0
    assert names[0] == "input"
    assert names[-1] == "clean"
    assert {"SimpleAE", "CompactUnetAE"} < set(names)
    for axis, plane in zip("zyx", ("xy", "xz", "yz"), strict=True):
        assert pixels(browser, f"{plane} slice of clean").std() > 5  # it opens where there is something to see
        seen = {}
        for place in (16, 0, 12):
            move(browser, axis, place)
            assert browser.find_element(By.ID, f"place-{axis}").text == f"slice {place + 1} of 32"
            seen[place] = pixels(browser, f"{plane} slice of clean")
        assert seen[16].shape == (32, 32)
        assert seen[0].std() < 1  # the particle is in the middle; its cut at Nyquist leaves a grey value here
        assert seen[16].std() > 5
        assert not np.array_equal(seen[16], seen[12])


def test_the_three_planes_show_one_volume_with_y_and_the_beam_up(browser, data: ParticleDataModule, tmp_path) -> None:
    volume = np.random.default_rng(0).integers(0, 256, (6, 8, 10)) / 255
    levels = np.round(volume * 255)
    made = comparison_of(data, {"model": lambda v: v / 2}, indices=(0, 1))
    # grey_scale of the page: -0.35 of the top is black
    clean = (1.35 * volume - 0.35).astype(np.float32)
    clean[0, 0, 0] = 1
    levels[0, 0, 0] = 255
    made.examples = [Example("typical", "phantom:1", 0, {"input": clean, "clean": clean})]
    (tmp_path / "page.html").write_text(report(made, [], {}))
    opened(browser, tmp_path / "page.html")
    for axis, place in zip("zyx", (4, 5, 6), strict=True):
        move(browser, axis, place)
    for plane, expected in (("xy", levels[4]), ("xz", levels[:, 5]), ("yz", levels[:, :, 6])):
        np.testing.assert_allclose(pixels(browser, f"{plane} slice of input"), expected[::-1], atol=1.5)


def test_a_scale_bar_is_as_long_as_it_says(browser, comparison: Path) -> None:
    opened(browser, comparison / "report.html")
    bars = browser.find_elements(By.CLASS_NAME, "bar")
    assert [bar.text for bar in bars] == ["10 nm"] * 3
    for bar in bars:
        width = bar.find_element(By.XPATH, "..").find_element(By.TAG_NAME, "canvas").rect["width"]
        assert bar.rect["width"] == pytest.approx(width * 100 / 320, abs=1)  # 32 voxels of 10 Å


def test_the_verdict_leads_to_the_worst_volume(browser, comparison: Path) -> None:
    opened(browser, comparison / "report.html")
    link = browser.find_element(By.CSS_SELECTOR, ".verdict a")
    chosen = Select(browser.find_element(By.ID, "example"))
    assert chosen.first_selected_option.text.startswith("typical volume")
    before = pixels(browser, "xy slice of clean")
    link.click()
    assert chosen.first_selected_option.text.startswith("worst volume")
    assert chosen.first_selected_option.text.endswith(link.text)
    WebDriverWait(browser, 20).until(lambda b: not np.array_equal(pixels(b, "xy slice of clean"), before))


@pytest.mark.parametrize(("width", "columns"), [(400, 2), (1400, 5)])
def test_pictures_fill_the_page(width: int, columns: int, browser, comparison: Path) -> None:
    opened(browser, comparison / "report.html", width)
    row = browser.find_elements(By.CSS_SELECTOR, ".views")[0]
    tops = [figure.rect for figure in row.find_elements(By.TAG_NAME, "figure")]
    first = [rect for rect in tops if rect["y"] == tops[0]["y"]]
    assert len(first) >= min(columns, len(tops))
    assert sum(rect["width"] for rect in first) > 0.85 * width


def test_on_paper_nothing_is_dark_or_cut_off(browser, comparison: Path) -> None:
    opened(browser, comparison / "report.html", 700)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not any(slider.is_displayed() for slider in browser.find_elements(By.CSS_SELECTOR, "input[type=range]"))
    script = "return getComputedStyle(document.querySelector('.scroll')).overflowX"
    assert browser.execute_script(script) == "visible"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


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


def test_names_cannot_break_the_page(data: ParticleDataModule) -> None:
    name = "</script><script>alert(1)</script>"
    made = comparison_of(data, {name: lambda v: v / 2}, indices=(0, 1))
    volume = np.ones((8, 8, 8), np.float32)
    made.examples = [Example("typical", "phantom:1", 0, {"input": volume, name: volume, "clean": volume})]
    page = report(made, [], {"bars": b""})
    assert page.count("</script>") == 1
    assert file_name(name) == "script_script_alert_1_script"
