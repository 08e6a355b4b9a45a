"""What a researcher adds through public names alone: reward, advantage, sampler, denoiser, text encoder, folder reader."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mocapfree_nb import text
from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer
from mocapfree_nb.denoiser import DENOISERS, Denoiser, register_denoiser
from mocapfree_nb.features import length_mask
from mocapfree_nb.files import UserError
from mocapfree_nb.models import registry
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.pretrain import PretrainConfig, pretrain
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.solvers import SOLVERS, register_sampler
from mocapfree_nb.text import TextEmbedding, make_text_encoder, mean_pool, register_text_encoder


def landed(module):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not there yet")


class Toy(Denoiser):
    "Says what it was given, seen through one matrix, and the caption's mean."

    def __init__(self, num_features=263, text_width=4, num_timesteps=20, trained_frames=None):
        super().__init__(num_features, "x0", "cosine", num_timesteps, trained_frames)
        self.frames, self.words = nn.Linear(num_features, num_features), nn.Linear(text_width, num_features)

    def forward(self, x_t, t, text, lengths, conditional=None):
        shown = torch.ones(len(x_t), dtype=torch.bool) if conditional is None else conditional
        answer = self.frames(x_t) + (self.words(text.pooled) * shown[:, None])[:, None]
        return answer * length_mask(lengths, x_t.shape[1])[..., None]


class Vowels:
    "Four numbers a caption."

    width = 4

    def __call__(self, prompts):
        rows = torch.tensor([[float(prompt.count(vowel)) for vowel in "aeio"] for prompt in prompts])[:, None]
        mask = torch.ones(len(rows), 1, dtype=torch.bool)
        return TextEmbedding(rows, mask, mean_pool(rows, mask))


def low_pelvis(motion, lengths, prompts):
    "A reward: the root height is feature 3."
    return -(motion[..., 3] * length_mask(lengths, motion.shape[1])).sum(1) / lengths


@pytest.fixture
def doors(monkeypatch):
    monkeypatch.setattr(text, "TEXT_ENCODERS", dict(text.TEXT_ENCODERS))
    before, denoisers = dict(SOLVERS), dict(DENOISERS)
    register_text_encoder("vowels")(Vowels)
    register_denoiser(Toy)
    yield
    DENOISERS.clear()
    DENOISERS.update(denoisers)
    SOLVERS.clear()
    SOLVERS.update(before)


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(num_clips=60)


def trainer(policy, **settings):
    config = DDPOConfig(
        iterations=1, prompts_per_iteration=2, motions_per_prompt=3, lora_rank=0, distillation_weight=0.0, **settings
    )
    return DDPOTrainer(policy, low_pelvis, ["a person bows", "a person sits"], torch.tensor([20, 24]), config)


def test_a_denoiser_and_a_text_encoder_are_pretrained_saved_found_again_and_adapted_with_a_reward(doors, corpus, tmp_path):
    config = PretrainConfig(steps=2, batch_size=4, warmup_steps=1)
    pretrain(Toy(), corpus, config, make_text_encoder("vowels"), progress=False).save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    assert said["architecture"] == "Toy" and said["text_encoder"] == {"name": "vowels"}
    policy = registry.load_policy(tmp_path, steps=3)
    assert isinstance(policy.denoiser, Toy) and isinstance(policy.text_encoder, Vowels)
    before = {name: value.clone() for name, value in policy.denoiser.state_dict().items()}
    trainer(policy).run(progress=False)
    assert any(not torch.equal(before[name], value) for name, value in policy.denoiser.state_dict().items())


def test_a_folder_of_an_unknown_class_or_encoder_is_one_line(doors, tmp_path):
    model = Toy()
    model.text_encoder_config = {"name": "consonants"}
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no text encoder 'consonants'"):
        registry.load_policy(tmp_path, steps=2)
    DENOISERS.pop("Toy")
    with pytest.raises(UserError, match="holds a Toy"):
        registry.load_policy(tmp_path, steps=2)


def test_a_registered_name_is_taken(doors):
    class MotionUNet(Toy):
        pass

    with pytest.raises(UserError, match="a denoiser 'MotionUNet' already"):
        register_denoiser(MotionUNet)
    with pytest.raises(UserError, match="'vowels' already"):
        register_text_encoder("vowels")(Toy)


def test_a_sampler_is_one_function(doors):
    @register_sampler("halfway")
    def halfway(plan, step, x_t, x0, history):
        last = plan.alphas_next[step] == 1  # there the prediction is written down
        return torch.where(last[:, None, None], x0, (x_t + x0) / 2), torch.where(last, 0.0, 0.1)

    policy = DiffusionPolicy(Toy(), Vowels(), steps=4, solver="halfway")
    motion = policy.generate(["a person bows"], torch.tensor([20]), seed=0)
    assert motion.shape == (1, 20, 263) and motion.isfinite().all()
    trajectory = policy.rollout(["a person bows"], torch.tensor([20]), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(policy.log_prob(trajectory)[:, :-1], trajectory.log_probs[:, :-1], atol=1e-4)


@landed("mocapfree_nb.advantages")
def test_an_advantage_is_one_function(doors):
    from mocapfree_nb import advantages

    seen = []

    @advantages.register_advantage("ranks")
    def ranks(scores, groups, tracker):
        seen.append(scores)
        return scores.argsort().argsort().float() - (len(scores) - 1) / 2

    try:
        trainer(DiffusionPolicy(Toy(), Vowels(), steps=3), advantage="ranks").run(progress=False)
    finally:
        advantages.ADVANTAGES.pop("ranks")
    assert len(seen) == 1 and seen[0].shape == (6,)


@landed("mocapfree_nb.sources")
def test_a_reader_of_folders_is_one_class(tmp_path, monkeypatch):
    from mocapfree_nb import sources

    monkeypatch.setattr(sources, "READERS", dict(sources.READERS))
    made = generate_clips(12, seed=1)
    np.savez(tmp_path / "everything.npz", **{f"clip{i}": made.joints[i, : made.lengths[i]] for i in range(12)})
    (tmp_path / "said.json").write_text(json.dumps({f"clip{i}": made.captions[i] for i in range(12)}))

    class OneFile(sources.Source):
        kind = "one-file"

        def __init__(self, folder):
            super().__init__(folder)
            self.said = json.loads((self.folder / "said.json").read_text())
            self.names = sorted(self.said)

        def read(self, name):
            with np.load(self.folder / "everything.npz", allow_pickle=False) as arrays:
                return sources.Recording(name, arrays[name], tuple(map(sources.Caption, self.said[name])))

    sources.register_reader("one-file")(lambda folder, **_: OneFile(folder) if (folder / "said.json").is_file() else None)
    corpus = load_corpus(tmp_path)
    assert len(corpus) == 12 and corpus.source.startswith("one-file folder")
    clip = {clip.name: clip for clip in corpus}["clip3"]
    assert clip.captions == tuple(made.captions[3]) and len(clip) == made.lengths[3] - 1


def test_the_command_line_imports_a_module_of_ones_own_or_says_why_not(tmp_path, monkeypatch):
    from mocapfree_nb.cli.common import import_module

    (tmp_path / "toys_of_mine.py").write_text("answer = 42")
    (tmp_path / "broken_toys.py").write_text("def")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert import_module("--import", "toys_of_mine").answer == 42
    for wrong in ("no_such_toys", "broken_toys", ""):
        with pytest.raises(UserError, match=f"^--import {wrong}"):
            import_module("--import", wrong)
