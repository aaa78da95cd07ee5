"""The report in a real browser: without a network, on a wide screen and a phone, light and dark."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import time
from html.parser import HTMLParser
from urllib.parse import unquote

import imageio_ffmpeg
import numpy as np
import pytest
from helpers import suite_file
from test_figures import SUITES

from analysis import make_figures, synthetic
from analysis.report import videos
from suites.language.suite import expand


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    paths = [suite_file(folder, SUITES[name], name) for name in ("figure9", "plain")]
    synthetic.write_suites(folder / "results", paths)
    gone = expand(paths[0]).runs[0].run_id
    shutil.rmtree(folder / "results" / "runs" / gone)
    hostile = expand(paths[1]).runs[0].run_id
    story = folder / "results" / "runs" / hostile / "attempts" / "1" / "provenance.json"
    told = {**json.loads(story.read_text()), "command": ["</script><script>window.bad=1</script>"]}
    story.write_text(json.dumps(told))
    html = folder / "report.html"
    words = ["--results", str(folder / "results"), "--html", str(html), "--suite"]
    assert make_figures.main([*words, *map(str, paths)]) == 0
    return html


def test_page_needs_no_network_and_is_complete(page):
    text = page.read_text()
    outside = re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*|url\((?!data:|#)|@import""", text)
    assert outside == []
    assert "SYNTHETIC DATA" in text
    for words in ("Final scores", "Verdict", "Predictions", "missing: cartpole_balance"):
        assert words in text
    assert text.count("data:video/webm") == 3  # of four dreamer runs with seed 0 one is missing
    assert "<script>window.bad" not in text


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium. Skipped where there is none, but never in CI."""
    chrome = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    selenium = None
    with contextlib.suppress(ImportError):
        from selenium import webdriver as selenium
    if not (chrome and driver and selenium):
        missing = "no chromium, chromedriver and selenium: .ci/system_packages.sh browser"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    options = selenium.ChromeOptions()
    options.binary_location = chrome
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--window-size=1200,900", "--host-resolver-rules=MAP * ~NOTFOUND"):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield opened
    opened.quit()


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def shown_at(browser, page, width, scheme="light"):
    """Opens the page at a width, as a phone below 600 pixels, and waits until it is drawn."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wanted = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
    browser.get(page.as_uri())
    assert browser.execute_script("return document.body.dataset.ready") == "true"
    for panel in find(browser, ".panel"):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", panel)
        until(lambda panel=panel: panel.get_attribute("data-drawn") == "true")


def until(true):
    """Waits until `true()`, at most 10 seconds."""
    for _ in range(200):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("not within 10 seconds")


def click(browser, node):
    """Selenium counts elements that the header covers as visible."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
    node.click()


def traces(browser, number):
    """Names of the methods whose means are drawn in a panel."""
    script = "return arguments[0].data.filter(t => t.meta).map(t => t.name)"
    return browser.execute_script(script, find(browser, "#figure9 .plot")[number])


@pytest.fixture
def downloads(browser, tmp_path):
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    return tmp_path


@pytest.mark.slow
def test_values_zoom_and_methods(browser, page):
    from selenium.webdriver.common.action_chains import ActionChains

    shown_at(browser, page, 1400)
    assert browser.execute_script("return window.bad") is None
    assert len(find(browser, "#figure9 .plot .main-svg")) >= 3
    plot = find(browser, "#figure9 .plot")[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    # The values at the pointer stand beside it.
    ActionChains(browser).move_to_element(plot).perform()
    tip = find(browser, ".tip")[0]
    until(tip.is_displayed)
    assert re.search(r"Dreamer \d+ \[\d+, \d+\], 2 of 3 runs", tip.text)
    assert "3 of 3 runs" in tip.text and "D4PG 993" in tip.text
    box = "const b = arguments[0].getBoundingClientRect(); return [b.left, b.right]"
    (left, right), (start, end) = (browser.execute_script(box, one) for one in (plot, tip))
    assert not start < (left + right) / 2 < end
    # Single runs have their names.
    single = find(browser, "#figure9 .single")[0]
    click(browser, single)
    until(lambda: browser.execute_script("return arguments[0].layout.hovermode", plot) == "closest")
    ActionChains(browser).move_to_element_with_offset(plot, 0, 25).perform()
    ActionChains(browser).move_to_element_with_offset(plot, 0, 20).perform()
    run = r"cartpole_balance-\w+-reconstruction-tiny-s\d-\w+: \d+"
    until(lambda: re.search(run, tip.text))
    click(browser, single)
    # Zoom by dragging, and back.
    zoomed = "return arguments[0].layout.xaxis.range"
    whole = browser.execute_script(zoomed, plot)
    ActionChains(browser).move_to_element_with_offset(plot, -60, 0).click_and_hold().move_by_offset(
        90, 0
    ).release().perform()
    until(lambda: browser.execute_script(zoomed, plot)[1] < whole[1])
    ActionChains(browser).double_click(plot).perform()
    until(lambda: browser.execute_script(zoomed, plot) == whole)
    # One method goes and comes back; one, none, all.
    methods = {one.text: one for one in find(browser, "#figure9 .method")}
    assert list(methods) == [
        "Dreamer", "No value", "PlaNet", "Random actions", "D4PG", "A3C"
    ]  # fmt: skip
    click(browser, methods["No value"])
    until(lambda: traces(browser, 0) == ["Dreamer", "PlaNet"])
    assert methods["No value"].get_attribute("aria-pressed") == "false"
    ActionChains(browser).double_click(methods["PlaNet"]).perform()
    until(lambda: traces(browser, 0) == ["PlaNet"])
    click(browser, find(browser, "#figure9 .none")[0])
    until(lambda: traces(browser, 0) == [])
    click(browser, find(browser, "#figure9 .all")[0])
    until(lambda: len(traces(browser, 0)) == 3)
    # One panel uses the page.
    before = plot.rect
    click(browser, find(browser, "#figure9 .one-panel")[0])
    until(lambda: plot.rect["width"] > 2.5 * before["width"])
    assert plot.rect["height"] > before["height"]
    assert [one.is_displayed() for one in find(browser, "#figure9 .panel")] == [True, False, False]
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_keyboard(browser, page):
    from selenium.webdriver.common.keys import Keys

    shown_at(browser, page, 1400)
    plot = find(browser, "#figure9 .plot")[0]
    plot.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    until(lambda: "3 of 3 runs" in find(browser, ".tip")[0].text)
    span = "return arguments[0].layout.xaxis.range[1] - arguments[0].layout.xaxis.range[0]"
    whole = browser.execute_script(span, plot)
    plot.send_keys("+")
    until(lambda: browser.execute_script(span, plot) < whole)
    plot.send_keys("0")
    until(lambda: browser.execute_script(span, plot) == whole)
    button = find(browser, "#figure9 .method")[0]
    button.send_keys(Keys.SPACE)
    assert button.get_attribute("aria-pressed") == "false"
    fold = find(browser, "#figure9 details details > summary")[0]
    opened = fold.find_element("xpath", "..").get_attribute("open")
    fold.send_keys(Keys.ENTER)
    assert fold.find_element("xpath", "..").get_attribute("open") != opened


@pytest.mark.slow
def test_folds_pictures_and_the_table_of_runs(browser, page, downloads):
    shown_at(browser, page, 1400)
    # Pictures and videos are loaded when they are seen, and no video plays by itself.
    assert not browser.execute_script("return document.querySelectorAll('[src]').length")
    for details in find(browser, "details"):
        browser.execute_script("arguments[0].open = true", details)
    for one in find(browser, "[data-src]"):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", one)
        until(lambda one=one: one.get_attribute("src"))
    broken = "return [...document.images].filter(i => i.complete && !i.naturalWidth).length"
    assert browser.execute_script(broken) == 0
    videos = "return [...document.querySelectorAll('video')]"
    until(lambda: browser.execute_script(videos + ".every(v => v.readyState >= 1)"))
    assert browser.execute_script(videos + ".every(v => v.paused && v.duration > 3)")

    # Search, filter, sort; the runs show their origin.
    def rows():
        return [row.text for row in find(browser, "#figure9 .runs tbody tr") if row.is_displayed()]

    assert len(rows()) == 27
    assert "missing" in rows()[0] and "0123456789ab" in rows()[1]
    search = find(browser, "#figure9 .search")[0]
    search.send_keys("hopper planet")
    assert len(rows()) == 3 and all("hopper_hop-planet" in row for row in rows())
    assert find(browser, "#figure9 .found")[0].text == "3 of 27 runs"
    score = find(browser, "#figure9 .runs th button")[3]
    scores = (
        "return [...document.querySelectorAll('#figure9 .runs tr:not([hidden]) td:nth-child(4)')]"
    )
    scores += ".map(cell => Number(cell.textContent))"
    for order in ("ascending", "descending"):
        click(browser, score)
        assert find(browser, "#figure9 .runs th")[3].get_attribute("aria-sort") == order
        found = browser.execute_script(scores)
        assert found == sorted(found, reverse=order == "descending") and len(set(found)) > 1
    click(browser, find(browser, "#figure9 .choices .csv")[1])
    path = downloads / "figure9-runs.csv"
    until(path.exists)
    table = list(csv.DictReader(path.open()))
    assert [row["run"] for row in table] == [row.split()[0] for row in rows()]
    click(browser, find(browser, "#figure9 .choices .csv")[0])
    path = downloads / "figure9-curves.csv"
    until(path.exists)
    table = list(csv.DictReader(path.open()))
    assert {row["task"] for row in table} == {"cartpole_balance", "hopper_hop", "quadruped_run"}
    assert {row["runs"] for row in table} == {"2", "3"}
    click(browser, find(browser, "#figure9 .png")[0])
    until((downloads / "figure9-cartpole_balance.png").exists)
    assert browser.get_log("browser") == []


OVERLAPS = """
const boxes = [...arguments[0].querySelectorAll('.plot text, h4, .bar button')]
  .filter(e => e.textContent.trim() && e.checkVisibility()).map(e => [e, e.getBoundingClientRect()])
  .filter(([, b]) => b.width && b.height);
const found = [];
boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
  if (p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2)
    found.push(a.textContent + ' / ' + b.textContent);
}));
return found;
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_readable(browser, page, width, scheme):
    shown_at(browser, page, width, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    scrolled = browser.execute_script("return document.documentElement.scrollWidth")
    assert scrolled <= width  # nothing makes the whole page scroll sideways
    texts = "p, li, td, th, button, a, select, .plot text"
    sizes = browser.execute_script(
        f"return [...document.querySelectorAll('{texts}')]"
        ".filter(e => e.checkVisibility()).map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 10.5
    for panel in find(browser, ".panel"):
        assert browser.execute_script(OVERLAPS, panel) == []
        ticks = [text.text for text in panel.find_elements("css selector", ".ytick text")]
        assert not any(tick.endswith(("k", "K")) for tick in ticks)
    heights = browser.execute_script(
        "return [...document.querySelectorAll('.choices button')].map(b => b.offsetHeight)"
    )
    assert min(heights) >= 30
    paper, ink = browser.execute_script(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    )
    text = find(browser, ".plot .xtitle")[0].value_of_css_property("fill")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (paper, ink, text)]
    assert (light[0] > 600) == (scheme == "light")
    assert abs(light[0] - light[1]) > 450 and abs(light[0] - light[2]) > 450
    if width == 390:  # no table is wider than the phone
        wide = "return [...document.querySelectorAll('table')].map(t => t.offsetWidth)"
        assert max(browser.execute_script(wide)) <= 390
    assert browser.get_log("browser") == []


def test_a_prediction_is_a_video_with_names(tmp_path):
    """It has a frame for each image: the names above, then truth, model and error."""
    truth, model = synthetic.pictures({"task": "walker_walk"})
    truth, model = truth[:8], model[:8]
    path = tmp_path / "prediction.webm"
    path.write_bytes(videos.webm(truth, model, 5))
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    found = np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])
    wanted = videos.frames(truth, model, 5)
    assert found.shape == wanted.shape == (8, videos.HEAD + 192, 576, 3)
    assert np.abs(found.astype(float) - wanted).mean() < 6
    heads = wanted[:, : videos.HEAD].reshape(8, videos.HEAD, 3, 192, 3)
    assert (heads.min((1, 3, 4)) < 100).all()  # each column has its name
    assert (heads[0, :, 1] != heads[6, :, 1]).any()  # the model's says how far it looks ahead


HOSTILE = 'x" onload="window.bad=1" <b>\'&amp;'


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_a_hostile_suite_name_is_only_text(tmp_path):
    path = suite_file(tmp_path, SUITES["plain"] + "about: <b>bold</b>\n", HOSTILE)
    synthetic.write_suites(tmp_path / "results", [path])
    html = tmp_path / "report.html"
    words = ["--results", str(tmp_path / "results"), "--html", str(html), "--suite", str(path)]
    assert make_figures.main(words) == 0
    elements = Elements(html.read_text()).found
    assert not [tag for tag, attributes in elements if "onload" in attributes or tag == "i"]
    assert [tag for tag, _ in elements].count(
        "b"
    ) == 1  # the verdict's statement or nothing of ours
    [section] = [attributes for tag, attributes in elements if tag == "section"]
    [link] = [attributes for tag, attributes in elements if tag == "a"]
    [curves] = [a for _, a in elements if a.get("class") == "curves"]
    assert section["id"] == curves["data-suite"] == HOSTILE
    assert unquote(link["href"]) == f"#{HOSTILE}"
    assert "window.bad" not in link["href"].partition("#")[0]
