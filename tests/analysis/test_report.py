"""The report in a real browser: it opens without a network and bears a click through."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from helpers import suite_file
from test_figures import SUITES

from analysis import make_figures, synthetic
from analysis.count.methods import ORANGE
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
    assert text.count("data:image/gif") == 3  # of four dreamer runs with seed 0 one is missing
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


@pytest.mark.slow
def test_click_through(browser, page):
    from selenium.webdriver.common.action_chains import ActionChains

    browser.get(page.as_uri())
    assert browser.execute_script("return document.body.dataset.ready") == "true"
    assert browser.execute_script("return window.bad") is None
    nine = "#figure9 "
    assert len(find(browser, nine + ".panel svg")) == 3
    panel = find(browser, nine + ".panel")[0]
    svg = panel.find_element("css selector", "svg")
    # Hover: the mean of each method, and the run that is nearest.
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    ActionChains(browser).move_to_element(svg).perform()
    tip = panel.find_element("css selector", ".tip")
    assert tip.is_displayed()
    assert "Dreamer" in tip.text and "2 of 3 runs" in tip.text and "3 of 3 runs" in tip.text
    assert re.search(r"cartpole_balance-\w+-reconstruction-tiny-s\d-\w+: \d+", tip.text)
    # Zoom by dragging, and back.
    before = svg.get_attribute("outerHTML")
    ActionChains(browser).move_to_element_with_offset(svg, -60, 0).click_and_hold().move_by_offset(
        90, 0
    ).release().perform()
    svg = panel.find_element("css selector", "svg")
    assert svg.get_attribute("outerHTML") != before
    ActionChains(browser).double_click(svg).perform()
    svg = panel.find_element("css selector", "svg")
    ticks = [t.text for t in svg.find_elements("css selector", "text")]
    assert "10K" in ticks
    # Methods and tasks go and come back.
    lines = len(find(browser, nine + f".panel line[stroke='{ORANGE}']"))
    button = find(browser, nine + ".methods button")[1]
    assert button.text == "No value"
    button.click()
    assert lines > 0 and not find(browser, nine + f".panel line[stroke='{ORANGE}']")
    button.click()
    assert len(find(browser, nine + f".panel line[stroke='{ORANGE}']")) == lines
    find(browser, nine + ".tasks button")[0].click()
    assert not panel.is_displayed()
    # Everything that opens, opens; the runs tell their origin.
    for details in find(browser, "summary"):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", details)
        details.click()
    runs = find(browser, "#figure9 table.runs tbody tr")
    assert len(runs) == 27
    assert "missing" in runs[0].text and "0123456789ab" in runs[1].text
    # All pictures are pictures.
    broken = "return [...document.images].filter(i => i.complete && !i.naturalWidth).length"
    assert browser.execute_script(broken) == 0
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_readable_on_a_phone(browser, page):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
    )
    browser.get(page.as_uri())
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= 390  # nothing makes the whole page scroll sideways
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('p, li, td, th, button, a, .panel text')]"
        ".filter(e => e.checkVisibility()).map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 10.5
    buttons = browser.execute_script(
        "return [...document.querySelectorAll('.choices button')].map(b => b.offsetHeight)"
    )
    assert min(buttons) >= 30
    assert browser.get_log("browser") == []


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
