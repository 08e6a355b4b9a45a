"""What chooses the weights that are kept: neither the check, nor the evaluator, nor the reward."""

import ast
import inspect

import numpy as np
import pytest
import torch

from mocapfree_nb import experiment, selection
from mocapfree_nb.corpus import collate, load_corpus
from mocapfree_nb.selection import HeldOutSelector, LinearScorer, describe, fit_scorer
from mocapfree_nb.tasks import EvaluationPrompts, Task

CORPUS = load_corpus(num_clips=400)


def test_statistics_do_not_see_padding():
    batch = collate(list(CORPUS)[:8])
    wide = torch.nn.functional.pad(batch.motion, (0, 0, 0, 9), value=1e9)
    expected = describe(batch.motion, batch.lengths)
    assert torch.equal(expected, describe(wide, batch.lengths)) and expected.isfinite().all()
    alone = describe(batch.motion[:1, : batch.lengths[0]], batch.lengths[:1])
    assert torch.allclose(alone, expected[:1], atol=1e-12)


def test_the_maps_are_those_of_canonical_correlation_analysis(monkeypatch):
    """Against the eigenvalues of Cxx^-1 Cxy Cyy^-1 Cyx, the squared correlations (Hotelling 1936)."""
    seen = {}

    def encode(captions):
        from mocapfree_nb.text import TextEmbedding

        noise = torch.randn(len(captions), 6, generator=torch.Generator().manual_seed(0))
        seen["y"] = (noise + seen["x"] @ torch.linspace(-1, 1, 30).view(5, 6).double()).float()
        return TextEmbedding(seen["y"][:, None], torch.ones(len(captions), 1, dtype=torch.bool), seen["y"])

    def few(motion, lengths):
        seen["x"] = torch.randn(len(motion), 5, generator=torch.Generator().manual_seed(1)).double()
        return seen["x"]

    monkeypatch.setattr(selection, "default_text_encoder", lambda: encode)
    monkeypatch.setattr(selection, "describe", few)
    found = fit_scorer(list(CORPUS.split("train")), width=5, most=300, ridge=0.0)
    x, y = ((part - part.mean(0)).double() for part in (seen["x"], seen["y"]))
    squared = torch.linalg.eigvals(torch.linalg.solve(x.T @ x, x.T @ y) @ torch.linalg.solve(y.T @ y, y.T @ x)).real
    correlations = squared.clamp_min(0).sqrt().sort(descending=True).values
    sides = {name: (rows - mean) / std @ onto for name, rows, (mean, std, onto) in (
        ("x", seen["x"], found.motion), ("y", seen["y"].double(), found.text))}  # fmt: skip
    for placed in sides.values():  # uncorrelated, and as wide as they agree
        assert torch.allclose(placed.T @ placed / len(placed), torch.diag(correlations), atol=1e-6)
    assert torch.allclose((sides["x"] * sides["y"]).mean(0), correlations**2, atol=1e-6)


def test_a_caption_finds_motion_of_its_own_action():
    scorer = fit_scorer(list(CORPUS.split("train")), most=250)
    clips = [clip for clip in CORPUS if clip.split != "train" and len(clip.actions) == 1]
    batch = collate(clips)
    text = scorer.embed_text([clip.captions[0] for clip in clips])
    similarity = (text @ scorer.embed_motion(batch.motion, batch.lengths).T).numpy()
    same = np.array([[one.actions == other.actions for other in clips] for one in clips])
    own, others = np.where(same, similarity, np.nan), np.where(same, np.nan, similarity)
    assert np.nanmean(own) > np.nanmean(others) + 0.3


def test_too_few_clips_fit_nothing():
    assert fit_scorer(list(CORPUS)[:99]) is None


class Still:
    """Generates standing rows that go with the sentences "new" and "old" as far as the levels say."""

    guidance_scale = 1.0

    def __init__(self, new: tuple[float, float], old: tuple[float, float]):
        self.levels = {"new": new, "old": old}

    def generate(self, prompts, lengths, seed):
        rows = torch.tensor([self.levels[prompt.split()[0]] for prompt in prompts])
        return torch.nn.functional.pad(rows, (0, 261))[:, None].expand(-1, int(max(lengths)), 263).clone()


class Level(LinearScorer):
    """Cosines that are the levels themselves; "old c" says the same as "new"."""

    def __init__(self):
        pass

    def embed_text(self, prompts):
        new = torch.tensor([prompt.startswith("new") or prompt == "old c" for prompt in prompts]).double()
        return torch.stack([new, 1 - new], 1)

    def embed_motion(self, motion, lengths):
        return motion[:, 0, :2].double()


OLD = EvaluationPrompts(["old a", "old b", "old c"], torch.tensor([20, 30, 40]), ["a", "b", "c"])
TASK = Task(["never used"], ["new c", "new d"], OLD, OLD, OLD, [], [])


def test_what_is_lost_costs_twice_what_is_gained():
    selector = HeldOutSelector(Still((0.1, 0.6), (0.0, 0.8)), TASK, Level(), count=3, others=2)
    assert set(selector.prompts[:3]) == {"new c", "new d"} and selector.prompts[3:] == ["old a", "old b"]
    assert selector.target_before == pytest.approx(0.1 - 0.6)
    assert selector(Still((0.5, 0.2), (0.0, 0.7)))["score"] == pytest.approx(0.5 - 0.2 - 2 * 0.1)
    assert selector(Still((0.5, 0.2), (0.0, 0.9)))["score"] == pytest.approx(0.3)  # better than before counts for nothing


def test_the_error_is_that_of_the_mean_margin_and_of_twice_what_was_lost():
    class Uneven(Still):
        def generate(self, prompts, lengths, seed):
            rows = super().generate(prompts, lengths, seed)
            rows[:, :, 0] += torch.tensor([0.0, 0.3, 0.0, 0.0, 0.0])[:, None]  # one margin of three is .3 higher
            rows[:, :, 1] += torch.tensor([0.0, 0.0, 0.0, 0.0, -0.2])[:, None]  # one cosine of two is .2 lower
            return rows

    selector = HeldOutSelector(Still((0.1, 0.6), (0.0, 0.8)), TASK, Level(), count=3, others=2)
    expected = (np.var([0.0, 0.3, 0.0]) / 3 + 4 * np.var([0.0, 0.2]) / 2) ** 0.5
    assert selector(Uneven((0.1, 0.6), (0.0, 0.8)))["error"] == pytest.approx(expected)


def test_what_lowers_every_cosine_decides_nothing():
    """A clean motion of the wrong action is nearer to every sentence than a rough one of the right action."""
    wrong, right = Still((0.3, 0.7), (0.0, 0.8)), Still((0.25, 0.1), (0.0, 0.8))
    selector = HeldOutSelector(wrong, TASK, Level(), count=3, others=2)
    assert selector(right)["score"] > selector.target_before + 0.5


def test_lengths_of_selection_prompts_are_those_of_near_captions(monkeypatch):
    asked = {}

    def near(prompts, known, encoder):
        asked["known"] = known
        return torch.full((len(prompts), 4), 77)

    monkeypatch.setattr(selection, "near_lengths", near)
    selector = HeldOutSelector(Still((0.1, 0.6), (0.0, 0.8)), TASK, Level(), count=3, others=2)
    assert selector.lengths.tolist() == [77, 77, 77, 20, 30] and asked["known"][1] == ("old b", 30)


def test_selection_reads_no_check_no_evaluator_and_no_reward():
    names = {alias.name for node in ast.walk(ast.parse(inspect.getsource(selection))) if isinstance(node, ast.ImportFrom)
             for alias in node.names}  # fmt: skip
    assert not names & {"verify", "check_motion", "CHECKS", "EvaluatorModel", "RetrievalReward", "Scorers"}
    chooses = inspect.getsource(experiment._select_by)
    assert "scorers" not in chooses and "check" not in chooses
