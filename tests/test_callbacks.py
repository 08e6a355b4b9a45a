"""Callbacks see what happens, change nothing, and cannot stop a run; ddpo itself needs no display."""

import json
import subprocess
import sys

import pytest
import torch
from small_policy import height

from mocapfree_nb.callbacks import Callback, TrackerCallback, as_callbacks, flat_record
from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.policy import DiffusionPolicy

CONFIG = DDPOConfig(iterations=2, prompts_per_iteration=1, motions_per_prompt=2, distillation_weight=0.0)


def make_trainer(**arguments):
    torch.manual_seed(0)
    denoiser = MotionDenoiser(width=16, layers=1, heads=2, feedforward=16, frames_per_token=4)
    return DDPOTrainer(DiffusionPolicy(denoiser, steps=3), height, ["walks"], [16], CONFIG, **arguments)


class Remembers(Callback):
    def __init__(self):
        self.seen = []

    def on_start(self, settings):
        self.seen.append(("start", settings["iterations"], settings["prompts"]))

    def on_iteration(self, record):
        self.seen.append(("iteration", record["iteration"], record["reward"]))

    def on_end(self, log):
        self.seen.append(("end", len(log)))


def test_a_callback_is_told_of_start_iterations_and_end():
    callback, also = Remembers(), []
    log = make_trainer().run([callback, also.append], progress=False)
    iterations = [("iteration", record["iteration"], record["reward"]) for record in log]
    assert callback.seen == [("start", 2, ["walks"]), *iterations, ("end", 2)]
    assert also == log


def test_a_callback_that_raises_is_one_line_and_loses_nothing(caplog, tmp_path):
    calls, callback = [], Remembers()

    def broken(record):
        calls.append(record)
        raise ValueError("no\nsuch server")

    log = make_trainer(folder=tmp_path).run([broken, callback], progress=False)
    assert log == make_trainer().run(progress=False) and len(calls) == 1 and callback.seen[-1] == ("end", 2)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    (line,) = caplog.messages
    assert "broken failed in on_iteration (ValueError: no such server)" in line and "\n" not in line


def test_what_is_no_callback_is_named():
    assert as_callbacks(None) == [] and len(as_callbacks(print)) == len(as_callbacks([Remembers()])) == 1
    for wrong in (3, [object()], "tensorboard"):
        with pytest.raises(UserError, match="a callback is a function of a record"):
            as_callbacks(wrong)


def test_a_record_becomes_plain_numbers():
    record = {"iteration": 3, "reward": 0.5, "selection": {"score": 1}, "ratio": [0.25, None], "distillation": None}
    assert flat_record(record) == {"reward": 0.5, "selection/score": 1.0, "ratio/step 1": 0.25}


def test_a_tracker_of_accelerate_gets_settings_and_numbers(tmp_path):
    tracking = pytest.importorskip("accelerate.tracking")
    told = []

    class Mine(tracking.GeneralTracker):
        name, requires_logging_directory, main_process_only = "mine", False, False

        @property
        def tracker(self):
            return self

        def store_init_configuration(self, values):
            told.append(values)

        def log(self, values, step):
            told.append((step, values))

        def finish(self):
            told.append("finished")

    log = make_trainer().run(TrackerCallback(Mine(), tmp_path), progress=False)
    assert told[0]["seed"] == 0 and told[0]["iterations"] == 2 and told[-1] == "finished"
    assert told[1:-1] == [(record["iteration"], flat_record(record)) for record in log]
    with pytest.raises(UserError, match="cannot log with 'abacus'"):
        TrackerCallback("abacus", tmp_path)


def test_ddpo_imports_no_widget():
    code = "import sys, json, mocapfree_nb.ddpo; print(json.dumps([m.split('.')[0] for m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "torch" in loaded and not loaded & {"anywidget", "IPython", "matplotlib", "ipywidgets"}


def test_a_training_view_draws_clipped_ratios_only_where_there_are_some():
    from mocapfree_nb.output.live import TrainingView

    view = TrainingView(make_trainer().policy, "walks", 16)
    for iteration, shares in enumerate(([0.0, None], [0.25, None]), start=1):
        view.on_iteration({"iteration": iteration, "reward": 0.5, "clip_share": shares})
        names = [line["name"] for chart in view.player.scene["charts"] for line in chart["lines"]]
        assert names == ["reward", "share of ratios clipped"][:iteration]
