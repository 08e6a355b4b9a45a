"""TMR and the Guo evaluator against outputs of the original code; word vectors without unpickling."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mocapfree_nb.files import UserError
from mocapfree_nb.models.mdm import replace_names
from mocapfree_nb.published.encoders import GUO_NAMES, TAGS, TMR, TMR_NAMES, GuoEvaluator, GuoWords, read_pickled_words
from mocapfree_nb.retrieval import LOSS_WEIGHTS, info_nce, kl_divergence
from mocapfree_nb.rewards import RetrievalReward
from mocapfree_nb.text import TextEmbedding

REFERENCE = Path(__file__).parent / "reference"


def load(name):
    return dict(np.load(REFERENCE / f"{name}.npz", allow_pickle=False))


def fill(model, state):
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) == {"feature_mean", "feature_std"}
    return model.eval()


# --- TMR


@pytest.fixture(scope="module")
def tmr_arrays():
    return load("tmr")


def build_tmr(arrays, dtype=torch.float32):
    state = {key[3:]: torch.tensor(value) for key, value in arrays.items() if key.startswith("sd/")}
    model = TMR(width=48, layers=2, heads=4, feedforward=96, text_width=768)
    return fill(model, replace_names(state, TMR_NAMES)).to(dtype)


def tmr_inputs(arrays, dtype=torch.float32):
    text = torch.tensor(arrays["text/x"], dtype=dtype)
    text = TextEmbedding(text, torch.tensor(arrays["text/mask"]), text[:, 0])
    return torch.tensor(arrays["motion/x"], dtype=dtype), torch.tensor(arrays["motion/lengths"]), text


def gap(found, array):
    return (found - torch.tensor(array)).abs().max().item()


@torch.no_grad()
def test_tmr_distributions_equal_the_original(tmr_arrays):
    model = build_tmr(tmr_arrays)
    motion, lengths, text = tmr_inputs(tmr_arrays)
    for part, encoder, inputs in (
        ("motion", model.motion_encoder, (motion, torch.tensor(tmr_arrays["motion/mask"]))),
        ("text", model.text_encoder, (text.tokens, text.mask)),
    ):
        mean, log_variance = encoder(*inputs)
        assert gap(mean, tmr_arrays[f"{part}/mu"]) < 1e-5
        assert gap(log_variance, tmr_arrays[f"{part}/logvar"]) < 1e-5
    assert gap(model.encode_motion(motion, lengths), tmr_arrays["motion/latent"]) < 1e-5
    assert gap(model.encode_text(text), tmr_arrays["text/latent"]) < 1e-5
    mean, log_variance = model.motion_encoder(motion, torch.tensor(tmr_arrays["motion/mask"]))
    drawn = mean + torch.tensor(tmr_arrays["motion/eps"]) * (log_variance / 2).exp()
    assert gap(drawn, tmr_arrays["motion/latent_sampled"]) < 2e-5


@torch.no_grad()
def test_tmr_in_double_precision(tmr_arrays):
    model = build_tmr(tmr_arrays, torch.float64)
    motion, _, text = tmr_inputs(tmr_arrays, torch.float64)
    mask = torch.tensor(tmr_arrays["motion/mask"])
    for part, found in (
        ("motion", model.motion_encoder(motion, mask)),
        ("text", model.text_encoder(text.tokens, text.mask)),
    ):
        assert gap(found[0], tmr_arrays[f"{part}/mu_float64"]) < 1e-6
        assert gap(found[1], tmr_arrays[f"{part}/logvar_float64"]) < 1e-6


@torch.no_grad()
def test_tmr_decoder_equals_the_original(tmr_arrays):
    model = build_tmr(tmr_arrays)
    motion, lengths, text = tmr_inputs(tmr_arrays)
    assert gap(model.decode(model.encode_motion(motion, lengths), lengths), tmr_arrays["motion/decoded"]) < 2e-5
    assert gap(model.decode(model.encode_text(text), lengths), tmr_arrays["text/decoded_motion"]) < 2e-5


@torch.no_grad()
def test_tmr_scores_through_the_reward(tmr_arrays):
    model = build_tmr(tmr_arrays)
    motion, lengths, text = tmr_inputs(tmr_arrays)
    prompts = ["zero", "one", "two", "three"]
    reward = RetrievalReward(model, lambda new: text[[prompts.index(prompt) for prompt in new]])
    scores = reward(motion.repeat(4, 1, 1), lengths.repeat(4), [p for p in prompts for _ in prompts]).view(4, 4)
    assert gap(scores, tmr_arrays["score_matrix"]) < 1e-5  # rows texts, columns motions
    assert gap(2 * scores - 1, tmr_arrays["sim_matrix"]) < 1e-5


@torch.no_grad()
def test_tmr_loss_equals_the_original(tmr_arrays):
    "All terms, from our networks and our loss functions."
    model = build_tmr(tmr_arrays)
    _, lengths, text = tmr_inputs(tmr_arrays)
    motion, mask = torch.tensor(tmr_arrays["motion/x_zero_padded"]), torch.tensor(tmr_arrays["motion/mask"])
    of_motion, of_text = model.motion_encoder(motion, mask), model.text_encoder(text.tokens, text.mask)
    decoded = [model.decode(latent, lengths) for latent, _ in (of_text, of_motion)]
    terms = {
        "recons": sum(F.smooth_l1_loss(out, motion) for out in decoded),
        "kl": kl_divergence(*of_text, *of_motion)
        + kl_divergence(*of_motion, *of_text)
        + kl_divergence(*of_motion)
        + kl_divergence(*of_text),
        "latent": F.smooth_l1_loss(of_text[0], of_motion[0]),
        "contrastive": info_nce(of_text[0], of_motion[0], torch.tensor(tmr_arrays["sent_emb"])),
    }
    for name, term in terms.items():
        assert term.item() == pytest.approx(float(tmr_arrays[f"losses/{name}"]), rel=1e-5), name
    weights = {"recons": "reconstruction", "kl": "kl", "latent": "latent", "contrastive": "contrastive"}
    total = sum(LOSS_WEIGHTS[weights[name]] * term for name, term in terms.items())
    assert total.item() == pytest.approx(float(tmr_arrays["losses/loss"]), rel=1e-5)


def test_tmr_normalises_raw_motion_with_its_own_numbers(tmr_arrays):
    model = build_tmr(tmr_arrays)
    motion, lengths, _ = tmr_inputs(tmr_arrays)
    before = model.encode_motion(motion, lengths)
    mean, std = torch.randn(263), torch.rand(263) + 0.5
    model.set_statistics(mean, std)
    assert torch.allclose(model.encode_motion(motion * std + mean, lengths), before, atol=2e-4)


# --- the Guo evaluator


@pytest.fixture(scope="module")
def guo_arrays():
    return load("guo_evaluator")


def build_guo(arrays, dtype=torch.float32):
    state = {key.replace("/sd/", "."): torch.tensor(value) for key, value in arrays.items() if "/sd/" in key}
    size = {"movement_hidden": 40, "movement": 32, "motion_hidden": 48, "text_hidden": 36, "embedding": 40}
    return fill(GuoEvaluator(**size, max_frames=60), replace_names(state, GUO_NAMES)).to(dtype)


def guo_inputs(arrays, dtype=torch.float32):
    words = torch.cat([torch.tensor(arrays[name]) for name in ("word_embs", "pos_onehot")], dim=-1).to(dtype)
    mask = torch.arange(words.shape[1]) < torch.tensor(arrays["cap_lens"])[:, None]
    text = TextEmbedding(words, mask, words[:, 0])
    return torch.tensor(arrays["motions"], dtype=dtype), torch.tensor(arrays["m_lens"]), text


@pytest.mark.parametrize(("dtype", "suffix", "limit"), [(torch.float32, "", 1e-5), (torch.float64, "_float64", 1e-9)])
@torch.no_grad()
def test_the_evaluator_equals_the_original(guo_arrays, dtype, suffix, limit):
    model = build_guo(guo_arrays, dtype)
    motion, lengths, text = guo_inputs(guo_arrays, dtype)
    movements = model.movement_encoder(motion[..., :-4])  # the file's padding is no zeros, so nothing is masked here
    assert torch.equal(lengths // 4, torch.tensor(guo_arrays["m_lens_div4"]))
    assert gap(movements, guo_arrays["movements" + suffix]) < limit
    assert gap(model.motion_encoder(movements, lengths // 4), guo_arrays["motion_embedding" + suffix]) < limit
    assert gap(model.encode_text(text), guo_arrays["text_embedding" + suffix]) < limit


@torch.no_grad()
def test_the_evaluator_pads_with_zeros_after_normalisation_and_keeps_the_order(guo_arrays):
    model = build_guo(guo_arrays)
    mean, std = torch.randn(263), torch.rand(263) + 0.5
    motion, lengths, text = guo_inputs(guo_arrays)
    padded = motion * (torch.arange(60) < lengths[:, None])[..., None]
    expected = model.motion_encoder(model.movement_encoder(padded[..., :-4]), lengths // 4)
    model.set_statistics(mean, std)
    raw = motion * std + mean  # junk behind each clip too
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(model.encode_motion(raw, lengths), expected, atol=1e-5)
    assert torch.allclose(model.encode_motion(raw[order], lengths[order]), expected[order], atol=1e-5)
    assert torch.allclose(model.encode_text(text[order]), model.encode_text(text)[order], atol=1e-6)
    short = raw[:, : int(lengths[-1])]  # a batch that is not padded to the end
    assert torch.allclose(model.encode_motion(short[-1:], lengths[-1:]), expected[-1:], atol=1e-5)


def test_a_motion_of_three_frames_is_refused(guo_arrays):
    with pytest.raises(UserError, match="four frames at a time"):
        build_guo(guo_arrays).encode_motion(torch.zeros(2, 60, 263), torch.tensor([60, 3]))


# --- word vectors


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_words_are_read_from_any_pickle_protocol(tmp_path, protocol):
    words = [f"word{i}" for i in range(3000)] + ["naïve"]
    path = tmp_path / "words.pkl"
    path.write_bytes(pickle.dumps(words, protocol))
    assert read_pickled_words(path) == words
    path.write_bytes(pickle.dumps({word: i for i, word in enumerate(words)}, protocol))
    assert read_pickled_words(path)[1::2] == list(range(len(words)))


def test_a_pickled_program_is_refused_and_does_not_run(tmp_path):
    path, mark = tmp_path / "words.pkl", tmp_path / "ran"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(["kick", Trap(str(mark))], protocol))
        with pytest.raises(UserError, match="holds more than words"):
            read_pickled_words(path)
    assert not mark.exists()


@settings(max_examples=100, deadline=None)
@given(junk=st.binary(max_size=200), cut=st.integers(0, 60))
def test_junk_is_no_word_list(tmp_path_factory, junk, cut):
    path = tmp_path_factory.mktemp("words") / "words.pkl"
    whole = pickle.dumps(["kick", "knee"] * 3)
    for content in (junk, whole[:cut] + junk):
        path.write_bytes(content)
        try:
            assert all(isinstance(value, str | int) for value in read_pickled_words(path))
        except UserError as error:
            assert "\n" not in str(error)


def write_glove(folder, words, rows=None):
    vectors = np.random.default_rng(0).normal(size=(len(words), 300)).astype(np.float32)
    np.save(folder / "our_vab_data.npy", vectors)
    (folder / "our_vab_words.pkl").write_bytes(pickle.dumps(list(words)))
    rows = rows or {word: i for i, word in enumerate(words)}
    (folder / "our_vab_idx.pkl").write_bytes(pickle.dumps(rows))
    return vectors


def test_word_vectors_follow_the_index_file(tmp_path):
    words = ["sos", "eos", "unk", "a", "man", "jump"]
    vectors = write_glove(tmp_path, words, {word: 5 - i for i, word in enumerate(words)})
    glove = GuoWords.from_folder(tmp_path, {"A man jumps": "a/DET man/NOUN jump/VERB"})
    embedding = glove(["A man jumps", "nothing known"])
    assert embedding.tokens.shape == (2, 5, 315) and embedding.mask.sum(1).tolist() == [5, 4]
    assert np.array_equal(embedding.tokens[0, 3, :300].numpy(), vectors[0])  # jump, whose row is 5 - 5
    tags = [TAGS[i] for i in embedding.tokens[0, :, 300:].argmax(-1)]
    assert tags == ["OTHER", "DET", "NOUN", "Act_VIP", "OTHER"]
    assert np.array_equal(embedding.tokens[1, 1, :300].numpy(), vectors[3])  # unk
    long = glove.line(" ".join(["a"] * 30))
    assert len(long) == 22 and long[-1] == "eos/OTHER"


def test_word_vectors_that_do_not_fit_are_one_line(tmp_path):
    write_glove(tmp_path, ["sos", "eos", "unk"], {"sos": 0, "eos": 1, "unk": 7})
    with pytest.raises(UserError, match="does not give each of the 3 words a row"):
        GuoWords.from_folder(tmp_path)
    write_glove(tmp_path, ["sos", "eos", "a"])
    with pytest.raises(UserError, match="sos, eos and unk among them"):
        GuoWords.from_folder(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        GuoWords.from_folder(tmp_path / "nowhere")
