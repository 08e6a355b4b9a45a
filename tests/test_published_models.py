"""The main job on published models: MDM adapted under TMR's reward, evaluated by the Guo evaluator, all tiny and random."""

import functools
import json
import pickle

import numpy as np
import pytest
import torch

from mocapfree_nb import experiment, selection, tasks, text
from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.ddpo import DDPOConfig
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.models import registry
from mocapfree_nb.models.mdm import MDM
from mocapfree_nb.published.encoders import TMR, GuoEvaluator, GuoWords
from mocapfree_nb.retrieval import RetrievalModel


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "A corpus, the three networks saved, word vectors near the evaluator, and a CLIP and a DistilBERT to read with."
    from transformers import (
        AutoTokenizer,
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        DistilBertConfig,
        DistilBertModel,
    )

    root, corpus = tmp_path_factory.mktemp("published"), load_corpus("procedural", num_clips=500)
    torch.manual_seed(0)
    small = {"width": 32, "layers": 1, "feedforward": 32}
    networks = {
        "mdm": MDM(**small, num_timesteps=50),
        "tmr": TMR(**small),
        "evaluator": GuoEvaluator(movement_hidden=16, movement=16, motion_hidden=16, text_hidden=16, embedding=12),
    }
    for name, network in networks.items():
        network.set_statistics(corpus.mean, corpus.std)
        network.save_pretrained(root / name)
    (root / "glove").mkdir()
    words = ["sos", "eos", "unk", "a", "person", "the"]
    np.save(root / "glove" / "our_vab_data.npy", np.random.default_rng(0).normal(size=(6, 300)).astype(np.float32))
    (root / "glove" / "our_vab_words.pkl").write_bytes(pickle.dumps(words))
    (root / "glove" / "our_vab_idx.pkl").write_bytes(pickle.dumps({word: i for i, word in enumerate(words)}))
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    (root / "clip").mkdir()
    (root / "clip" / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (root / "clip" / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(root / "clip").save_pretrained(root / "clip")
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    config = CLIPTextConfig(vocab_size=len(tokens), projection_dim=512, **size, **marks)
    CLIPTextModelWithProjection(config).save_pretrained(root / "clip")
    DistilBertModel(DistilBertConfig(dim=768, hidden_dim=32, n_layers=1, n_heads=2)).save_pretrained(root / "bert")
    AutoTokenizer.from_pretrained(text.model_folder(), local_files_only=True).save_pretrained(root / "bert")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(text.PUBLISHED_ENCODERS, "clip", str(root / "clip"))
        patch.setitem(text.PUBLISHED_ENCODERS, "distilbert", str(root / "bert"))
        yield root, corpus


def test_published_networks_take_the_places_of_ours(world):
    root, _ = world
    scorers = registry.load_scorers(root / "tmr", root / "evaluator")
    assert not scorers.rigid  # or the numbers were not those of the literature
    assert isinstance(scorers.evaluator, GuoEvaluator) and isinstance(scorers.read, GuoWords)
    assert isinstance(scorers.reward.model, TMR) and scorers.reward.text_encoder.kind == "distilbert"
    policy = registry.load_policy(root / "mdm", steps=2)
    assert isinstance(policy.denoiser, MDM) and policy.text_encoder.kind == "clip"
    motion = policy.generate(["a person waves", "a person bows"], [30, 20])
    scores = scorers.reward(motion, torch.tensor([30, 20]), ["a person waves", "a person bows"])
    assert ((scores > 0) & (scores < 1)).all()


def test_a_published_model_is_adapted_and_evaluated(world, tmp_path, monkeypatch):
    root, corpus = world
    monkeypatch.setattr(experiment, "make_task", functools.partial(tasks.make_task, retained=16))
    monkeypatch.setattr(experiment, "fit_scorer", functools.partial(selection.fit_scorer, most=100))
    monkeypatch.setattr(experiment, "HeldOutSelector", functools.partial(selection.HeldOutSelector, count=8, others=8))
    quick = DDPOConfig(iterations=1, prompts_per_iteration=2, motions_per_prompt=2, distillation_batch=4, select_every=1)
    report = experiment.adapt(
        corpus=corpus,
        model=root / "mdm",
        full_model=None,
        retrieval=root / "tmr",
        evaluator=root / "evaluator",
        config=quick,
        steps=3,
        evaluation_prompts=4,
        folder=tmp_path / "run",
        progress=False,
    )
    assert all(np.isfinite(report.after["r_precision"])) and report.after["fid"] > 0
    after, before = (registry.load_policy(path, steps=2).denoiser for path in (tmp_path / "run" / "model", root / "mdm"))
    assert type(after) is MDM
    assert any(not torch.equal(a, b) for a, b in zip(after.parameters(), before.parameters(), strict=True))


def test_a_network_in_the_wrong_place_is_one_line(world, tmp_path):
    root, _ = world
    with pytest.raises(UserError, match="holds a TMR, which is of no use here"):
        registry.load_policy(root / "tmr")
    with pytest.raises(UserError, match="holds a MDM, which is of no use here"):
        registry.load_scorers(root / "mdm", root / "evaluator")
    with pytest.raises(UserError, match="no model at"):
        registry.load_policy(tmp_path / "nowhere")
    RetrievalModel().save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match="holds a RetrievalModel"):
        registry.load_scorers(root / "tmr", tmp_path / "ours")
    MotionDenoiser(width=16, layers=1, heads=2).save_pretrained(tmp_path / "ours2")
    assert type(registry.load_denoiser(tmp_path / "ours2")) is MotionDenoiser
