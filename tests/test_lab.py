"""The lessons with widgets in a real JupyterLab: run, played, saved, and played again without kernel and network."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from browser import NETWORK, Hands, chromium, listen

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.flaky(reruns=1)  # a browser on a machine that is busy with something else
# One lesson for each kind of widget: players of several figures (and plotly), one that denoises, one that a text box drives, one
# that shows a training as it goes on. Lessons 12 and 23 show the same ones. Step 3 of `make test` runs all lessons.
LESSONS = ["1_motion/02_viewing", "3_diffusion/08_schedule", "4_reward/13_retrieval", "5_rl/17_ddpo"]
# Trainings are cut to a sixth of their iterations here: whole ones, and what they reach, are seen in step 3.
SHORTER = {"5_rl/17_ddpo": {"iterations=24": "iterations=4", "\nassert rise[1] > rise[0] + 0.15": ""}}
LONGEST = 60  # seconds of one core for all cells of a lesson, start of the kernel included; half of it for a shortened one
# anywidget allows a model two seconds; on a busy machine it complains, and goes on.
SLOW_MACHINE = "[anywidget] Failed to initialize model"
TRAITS = """
import ipywidgets, numpy as np
from mocapfree_nb.widgets import MotionPlayer, PlayerBox
bones = np.random.default_rng(0).normal(size=(22, 3))
player = MotionPlayer(bones + np.linspace(0, 0.2, 30)[:, None, None])
player.playing = False
seen, go = ipywidgets.Label("nothing yet"), ipywidgets.Button(description="to frame 3")
player.observe(lambda change: setattr(seen, "value", f"Python sees frame {player.frame}"), "frame")
go.on_click(lambda _: setattr(player, "frame", 3))
PlayerBox([player, seen, go])
"""


def put_notebooks(folder: Path) -> None:
    "Copies to work on: no outputs, and a notebook about traits."
    for name in LESSONS:
        notebook = nbformat.read(ROOT / "nbs" / f"{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = []
        for whole, short in SHORTER.get(name, {}).items():
            assert any(whole in cell.source for cell in notebook.cells), f"{name} has no {whole!r} any more"
            for cell in notebook.cells:
                cell.source = cell.source.replace(whole, short)
        (folder / name).parent.mkdir(exist_ok=True)
        nbformat.write(notebook, folder / f"{name}.ipynb")
    cells = [nbformat.v4.new_code_cell(TRAITS.strip())]
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "traits.ipynb")
    shutil.copytree(ROOT / "nbs" / "results", folder / "results")


@pytest.fixture(scope="module")
def browser(request):
    "Without WebGL where nothing is drawn with it: to draw a whole page with it takes a third of a core."
    with chromium(webgl=getattr(request, "param", False)) as started:
        yield started


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A server with settings of its own; yields the folder of the notebooks and a function that makes an address."
    home = tmp_path_factory.mktemp("lab")
    folder = home / "project" / "nbs"
    folder.mkdir(parents=True)
    put_notebooks(folder)
    (home / "project" / "mocapfree_nb").symlink_to(ROOT / "mocapfree_nb")
    settings = home / "settings" / "@jupyterlab"
    for name, values in {
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    places = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    environment = os.environ | {f"JUPYTER_{key}": str(home / name) for key, name in places.items()} | {
        "JUPYTERLAB_SETTINGS_DIR": str(settings.parent), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.port=0", "--allow-root",
               "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={home / 'project'}"]
    with (home / "log.txt").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=home)
    try:
        give_up = time.monotonic() + 120
        while not (found := list((home / "runtime").glob("jpserver-*.json"))):
            assert server.poll() is None and time.monotonic() < give_up, (home / "log.txt").read_text()[-2000:]
            time.sleep(0.2)
        about = json.loads(found[0].read_text())
        yield folder, lambda name: f"{about['url']}lab/tree/nbs/{name}.ipynb?token={about['token']}&reset", server.pid
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def kernel_seconds(server: int) -> float:
    "Processor seconds of the kernels that a server has started and not ended."
    kernels = [child for child in psutil.Process(server).children() if "ipykernel_launcher" in " ".join(child.cmdline())]
    return sum(sum(child.cpu_times()[:4]) for child in kernels)


@pytest.fixture
def run_all(browser, lab):
    "Open a notebook, run all of its cells, give the page; nothing may go wrong in it, or take longer than a minute."
    folder, address, server = lab
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    heard = listen(page)

    def runner(name: str):
        page.goto(address(name))
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        page.wait_for_function("jupyterapp.shell.currentWidget?.sessionContext")
        page.evaluate("""async () => {
            const session = jupyterapp.shell.currentWidget.sessionContext;
            await session.ready;  // before that, running asks for a kernel
            await session.session.kernel.info;
            await jupyterapp.commands.execute('notebook:run-all-cells');
        }""")
        taken = kernel_seconds(server)
        assert 0 < taken < (LONGEST / 2 if name in SHORTER else LONGEST), f"{name} takes {taken:.0f} s of one core under Run All"
        page.evaluate("jupyterapp.commands.execute('docmanager:save')")
        saved = nbformat.read(folder / f"{name}.ipynb", as_version=4)
        outputs = [output for cell in saved.cells for output in cell.get("outputs", [])]
        errors = [f"{o.ename}: {o.evalue}" for o in outputs if o.output_type == "error"]
        assert not errors, errors
        assert all(cell.execution_count for cell in saved.cells if cell.cell_type == "code" and cell.source)
        return page

    yield runner
    page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
    context.close()
    wrong = [line for line in heard if SLOW_MACHINE not in line and not any(word in line for word in NETWORK)]
    assert wrong == []


def use(page, players) -> None:
    "Every player in a page plays and turns, and denoises where it can."
    assert players.count() >= 1
    for i in range(players.count()):
        hands = Hands(page, players.nth(i))
        hands.check_that_it_plays()
        if hands.slider("Denoising step").count():
            hands.check_that_it_denoises()
        hands.stop()


@pytest.mark.parametrize(
    "browser, name", [(name.endswith("viewing"), name) for name in LESSONS], indirect=["browser"], ids=LESSONS
)
def test_a_lesson_runs_plays_and_still_plays_when_saved(name, run_all, browser, lab, tmp_path):
    from nbconvert import HTMLExporter

    page = run_all(name)
    players = page.locator(".jp-OutputArea-output .mocapfree-player")
    use(page, players)
    if name.endswith("retrieval"):
        page.get_by_label("Find").fill("somebody jumps")
        page.keyboard.press("Enter")
        Hands(page, players).expect(players.locator(".mocapfree-title")).to_have_text("somebody jumps")
    if name.endswith("viewing"):
        page.locator(".jp-OutputArea-output.js-plotly-plot").first.wait_for(state="attached")

    saved, _ = HTMLExporter().from_filename(lab[0] / f"{name}.ipynb")
    (tmp_path / "saved.html").write_text(saved, encoding="utf-8")
    context = browser.new_context(offline=True)
    alone = context.new_page()
    alone.goto((tmp_path / "saved.html").as_uri(), wait_until="domcontentloaded")
    kept = alone.locator(".mocapfree-player")
    assert kept.count() == players.count()
    use(alone, kept)
    context.close()


def test_python_and_the_browser_share_the_frame(run_all):
    page = run_all("traits")
    hands = Hands(page, page.locator(".jp-OutputArea-output .mocapfree-player"))
    assert hands.button("Play").count() == 1, "Python said that it should not play"
    hands.slider("Frame").fill("7")
    page.get_by_text("Python sees frame 7", exact=True).wait_for()
    page.get_by_role("button", name="to frame 3").click()
    hands.expect(hands.player.locator("output")).to_have_text("0.15 of 1.45 s")
    page.get_by_text("Python sees frame 3", exact=True).wait_for()
    hands.button("Play").click()
    page.get_by_text("Python sees frame 2", exact=False).first.wait_for()  # 20 to 29 go by as it plays


def test_make_lab_shows_the_runs_beside_the_lessons():
    "Jupyter takes the folder of the notebook it is given for its root, and `runs/` would lie outside."
    said = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f'--ServerApp.root_dir="{ROOT}" nbs/index.ipynb' in said
