"""How fast the player is on this machine: `python tests/player_bench.py` prints the table of lesson 02. Not a test."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from browser import chromium

from mocapfree_nb.player import player_code
from mocapfree_nb.plotting import plot_motion
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.viewer import film_strip
from mocapfree_nb.widgets import MotionPlayer

# Draws of the first panel, counted for three seconds while it plays.
COUNT = """() => new Promise(done => {
  const draw = CanvasRenderingContext2D.prototype.clearRect, first = document.querySelector('figure canvas');
  let count = 0;
  CanvasRenderingContext2D.prototype.clearRect = function (...box) {
    if (this.canvas === first) count++;
    return draw.apply(this, box);
  };
  const start = performance.now();
  setTimeout(() => {
    CanvasRenderingContext2D.prototype.clearRect = draw;
    done(1000 * count / (performance.now() - start));
  }, 3000);
})"""


def milliseconds(job, repeats: int = 9) -> float:
    """Median wall-clock time of a job, after one run that is not counted."""
    job()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    """Print build times, page sizes and frames a second."""
    made = generate_clips(64, seed=3, min_frames=49, max_frames=49)
    clip = np.concatenate([made.joints[i] for i in range(3)])[:120]
    print("| 120 frames, one body | build | size |\n|---|---|---|")
    for name, build, size in (
        ("`film_strip`, as PNG", lambda: film_strip(clip)._repr_png_(), lambda: len(film_strip(clip)._repr_png_())),
        ("`plot_motion`, as JSON", lambda: plot_motion(clip), lambda: len(plot_motion(clip).to_json())),
        ("`MotionPlayer`, as HTML", lambda: MotionPlayer(clip).to_html(), lambda: len(MotionPlayer(clip).to_html())),
    ):
        print(f"| {name} | {milliseconds(build):.0f} ms | {size() / 1000:.0f} KB |")
    print(f"\nCode and style of the player, once a page: {len(player_code()) / 1000:.0f} KB\n")
    print("| player in Chromium, drawn without a GPU | page | frames/s |\n|---|---|---|")
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        for bodies in (1, 2, 4):
            player = MotionPlayer([made.joints[i] for i in range(bodies)])
            path = player.save(Path(folder) / "page.html")
            page = browser.new_page(viewport={"width": 1100, "height": 700})
            page.goto(path.as_uri())
            page.get_by_role("button", name="Pause").wait_for()
            size, rate = path.stat().st_size / 1000, page.evaluate(COUNT)
            print(f"| {bodies} {'body' if bodies == 1 else 'bodies'} | {size:.0f} KB | {rate:.0f} |")
            page.close()


if __name__ == "__main__":
    main()
