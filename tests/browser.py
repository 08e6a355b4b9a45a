"""A real Chromium for the tests that look at pages, and the hands to use a player in it."""

import os
import shutil
from contextlib import contextmanager

import pytest

FLAGS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]  # drawn without a GPU
# Words of the console that say only that this machine has no network; in a page that may not need one they are checked.
NETWORK = ("ERR_INTERNET_DISCONNECTED", "ERR_NAME_NOT_RESOLVED", "ERR_CONNECTION", "ERR_PROXY", "ERR_ADDRESS")


def executable() -> str | None:
    """Where Chromium is: the one that MOCAPFREE_CHROMIUM names, or the first on the path."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("MOCAPFREE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def chromium(webgl: bool = False):
    """A running browser; skips the test where there is none. Without `webgl` canvases are drawn faster."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser tests")
    if executable() is None:
        pytest.skip("no Chromium on this machine: no browser tests (Debian and Ubuntu: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable(), args=FLAGS + (WEBGL if webgl else ["--disable-gpu"]))
        try:
            yield browser
        finally:
            browser.close()


def listen(page) -> list[str]:
    """A list that fills with what goes wrong in a page: errors on the console and exceptions."""
    heard: list[str] = []
    page.on("console", lambda line: heard.append(f"{line.text} {line.location}") if line.type == "error" else None)
    page.on("pageerror", lambda error: heard.append(str(error)))
    return heard


class Hands:
    """One player on a page: what its canvases show, and its controls."""

    def __init__(self, page, player):
        from playwright.sync_api import expect

        expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong
        self.page, self.player, self.expect = page, player, expect
        player.locator("canvas").first.wait_for()
        player.scroll_into_view_if_needed()

    def button(self, words: str):
        return self.player.get_by_role("button", name=words, exact=True)

    def slider(self, name: str):
        return self.player.get_by_role("slider", name=name)

    def picture(self, panel: int = 0) -> str:
        """The pixels of a panel, as a data address."""
        return self.player.locator("figure canvas").nth(panel).evaluate("canvas => canvas.toDataURL()")

    def clock(self) -> str:
        return self.player.locator("output").first.inner_text()

    def stop(self) -> None:
        """Pause, wherever it is. One that is yet to start by itself, as it comes into view, is held by its slider."""
        if self.button("Pause").count():
            self.button("Pause").click()
        else:
            self.slider("Frame").fill(self.slider("Frame").input_value())
        self.button("Play").wait_for()

    def pixels(self, panel: int = 0) -> dict:
        """Counts of blue (left) and orange (right) pixels in the left and right half of a panel, and their lowest rows."""
        return self.player.locator("figure canvas").nth(panel).evaluate("""canvas => {
            const {width: w, height: h} = canvas, d = canvas.getContext('2d').getImageData(0, 0, w, h).data;
            const found = {blueLeft: 0, blueRight: 0, orangeLeft: 0, orangeRight: 0};
            for (let i = 0; i < d.length; i += 4) {
              const [r, g, b, a] = d.slice(i, i + 4);
              if (a < 250) continue;
              const half = (i / 4) % w < w / 2 ? 'Left' : 'Right';
              if (b > 150 && b - r > 100) found['blue' + half]++;
              if (r > 180 && r - b > 150) found['orange' + half]++;
            }
            return found;
        }""")

    def check_that_it_plays(self) -> None:
        """Play moves the figures and the clock, pause holds them, the slider and dragging change the picture."""
        self.stop()
        self.slider("Frame").fill("0")
        start, clock = self.picture(), self.clock()
        self.button("Play").click()
        self.expect(self.player.locator("output").first).not_to_have_text(clock)
        self.page.wait_for_timeout(200)
        self.stop()
        assert self.picture() != start, "play does not move the figure"
        held = self.picture()
        self.page.wait_for_timeout(120)
        assert self.picture() == held, "pause does not hold the figure"
        self.slider("Frame").fill("0")
        assert self.picture() == start, "the slider does not lead back to the first frame"
        self.drag(60, 0)
        assert self.picture() != start, "dragging does not turn the figure"
        self.button("Reset view").click()
        assert self.picture() == start, "the view does not come back"

    def drag(self, right: float, down: float) -> None:
        canvas = self.player.locator("figure canvas").first
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + right, y + down, steps=4)
        self.page.mouse.up()

    def check_that_it_denoises(self) -> None:
        """The denoising slider leads from one picture (noise) to another (the motion), and back to the same."""
        self.stop()
        slider = self.slider("Denoising step")
        last = slider.get_attribute("max")
        slider.fill(last)
        motion = self.picture()
        slider.fill("0")
        noise = self.picture()
        assert noise != motion, "the denoising slider changes nothing"
        slider.fill(last)
        assert self.picture() == motion
