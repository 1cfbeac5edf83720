"""The page, in a real browser."""

from pathlib import Path

import pytest

from tests.serving.conftest import CATEGORY, MARKUP, TITLE

CHROMIUM = next(
    (
        path
        for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
        if Path(path).exists()
    ),
    None,
)
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """A function that opens a server's page; whatever the page logs as an error fails the test."""
    opened = []

    def visit(port, **options):
        context = browser.new_context(**options)
        page = context.new_page()
        page.set_default_timeout(120_000)
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
        page.goto(f"http://127.0.0.1:{port}/")
        opened.append((context, errors))
        return page

    yield visit
    for context, errors in opened:
        context.close()
        assert errors == []


def test_a_title_becomes_keyphrases_and_reasons(visit, in_process, post):
    port, _, _ = in_process()
    page = visit(port)
    assert page.evaluate("document.activeElement === document.body")
    page.keyboard.press("Tab")
    page.keyboard.type(TITLE)
    page.keyboard.press("Tab")
    page.keyboard.type(CATEGORY)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#result").wait_for()
    got = post(port, "/v1/explain", {"title": TITLE, "category": CATEGORY})[1]
    kept = [row for row in got["keyphrases"] if row["rank"]]
    dropped = [row for row in got["keyphrases"] if not row["rank"]]
    rows = page.locator("#kept tbody tr")
    assert rows.locator("th").all_text_contents() == [row["keyphrase"] for row in kept]
    assert rows.locator(".value").all_text_contents() == [f"{row['relevance']:.3f}" for row in kept]
    assert rows.locator("td.n:nth-child(3)").all_text_contents() == [f"{row['cosine']:.3f}" for row in kept]
    left = page.locator("#kept .threshold").first.evaluate("line => parseFloat(line.style.left)")
    assert left == pytest.approx(100 * got["threshold"], abs=0.01)
    assert page.locator("#dropped-heading").text_content() == f"Dropped ({len(dropped)})"
    page.locator("#dropped-heading").focus()
    page.keyboard.press("Enter")
    reasons = page.locator("#dropped tbody tr td:last-child").all_text_contents()
    for row, reason in zip(dropped, reasons, strict=True):
        assert (
            reason.startswith("relevance below the threshold")
            if row["fate"] == "below_threshold"
            else row["same_as"] in reason
        )
    assert page.locator("#status").text_content() == f"{len(kept)} kept, {len(dropped)} dropped."


def test_markup_stays_text(visit, in_process):
    """A keyphrase and a title that hold a script."""
    port, _, _ = in_process(only={"recommender_exact"})
    page = visit(port)
    for title in (MARKUP, *("hose", "tea", "garden hose tea", "b hose b tea script")):
        page.fill("#title", title)
        page.keyboard.press("Enter")
        page.locator("#result").wait_for()
        shown = page.locator("#result tbody th").all_text_contents()
        if MARKUP in shown:
            break
    assert MARKUP in shown
    assert page.title() == "Keyphrases for a listing"
    assert page.locator("#result b, #result script").count() == 0


def test_errors_are_said(visit, in_process):
    port, service, _ = in_process()
    page = visit(port)
    page.click("#ask")
    assert page.locator("#title-error").text_content() == "Type the listing’s title first."
    assert page.locator("#title").get_attribute("aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == "title"
    page.fill("#title", "tea")
    assert page.locator("#title-error").is_hidden()
    service.state = "draining"
    page.click("#ask")
    page.locator("#failure").wait_for()
    assert page.locator("#failure").text_content() == "The server refused: the server is draining."
    page.route("**/v1/explain", lambda route: route.abort())
    page.click("#ask")
    page.get_by_text("The server does not answer").wait_for()
    assert page.locator("#result").is_hidden()
    assert page.locator("#ask").get_attribute("aria-disabled") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_has_a_name_and_text_has_contrast(visit, in_process, scheme):
    port, _, _ = in_process()
    page = visit(port, color_scheme=scheme, viewport={"width": 360, "height": 700})
    page.fill("#title", "tea mug")
    page.keyboard.press("Enter")
    page.locator("#result").wait_for()
    page.evaluate("document.getElementById('dropped-details').open = true")
    assert page.get_by_label("Listing title").count() == page.get_by_label("Leaf category").count() == 1
    # Nothing but tables scrolls sideways, on a phone too.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate(CONTRAST) == []


# WCAG 2.2: relative luminance; 4.5 for text.
CONTRAST = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (numbers(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const weak = [];
  for (const node of document.querySelectorAll("h1, h2, p, label, span, th, td, button, summary")) {
    if (!node.textContent.trim() || !node.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) weak.push(`${node.tagName}.${node.className} ${ratio.toFixed(2)}`);
  }
  return weak;
}"""
