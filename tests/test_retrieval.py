"""The contrastive loss against the reference, the network's invariances, the reward, and left against right."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mocapfree_nb import evaluator, retrieval, rewards, text
from mocapfree_nb.batches import draw_batch, stack_corpus
from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.files import UserError
from mocapfree_nb.text import TextEmbedding

HERE = Path(__file__).parent
WEIGHTS = Path(retrieval.__file__).parent / "weights" / "retrieval"


@pytest.fixture(scope="module")
def reference():
    return dict(np.load(HERE / "reference" / "tmr_losses.npz", allow_pickle=False))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return retrieval.RetrievalModel(width=32, motion_layers=1, text_layers=1).eval()


@pytest.fixture(scope="module")
def shipped():
    return retrieval.RetrievalModel.from_folder(WEIGHTS)


class Words:
    """A text encoder for tests: every word is a fixed random vector; counts what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, prompts):
        self.asked += prompts
        length = max(len(prompt.split()) for prompt in prompts)
        tokens = torch.zeros(len(prompts), length, 384)
        mask = torch.zeros(len(prompts), length, dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            for j, word in enumerate(prompt.split()):
                seed = sum(ord(letter) * 31**k for k, letter in enumerate(word)) % 2**31
                tokens[i, j] = torch.randn(384, generator=torch.Generator().manual_seed(seed))
                mask[i, j] = True
        return TextEmbedding(tokens, mask, tokens.sum(1) / mask.sum(1, keepdim=True))


# --- the loss


@pytest.mark.parametrize("case", range(6))
def test_info_nce_equals_the_reference(reference, case):
    at = f"infonce/case{case}"
    temperature, threshold = float(reference[f"{at}/temperature"]), float(reference[f"{at}/threshold"])
    x, y, sentence = (torch.from_numpy(reference[f"infonce/{name}"]).double() for name in ("x", "y", "sent_emb"))
    x.requires_grad_(), y.requires_grad_()
    loss = retrieval.info_nce(x, y, sentence, temperature, None if threshold < 0 else threshold)
    assert loss.item() == pytest.approx(float(reference[f"{at}/loss_float64"]), abs=1e-10)
    loss.backward()
    np.testing.assert_allclose(x.grad.numpy(), reference[f"{at}/grad_x"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(y.grad.numpy(), reference[f"{at}/grad_y"], rtol=1e-5, atol=1e-7)


def test_info_nce_gradient_is_right_with_a_filter():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    actions = torch.tensor([0, 1, 0, 2, 1])
    assert torch.autograd.gradcheck(lambda x, y: retrieval.info_nce(x, y, actions=actions), (x, y))


def test_filtered_pairs_leave_the_loss():
    x = torch.eye(4, dtype=torch.float64)[[0, 1, 2, 0]]
    unlike, twins = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0])
    assert retrieval.info_nce(x, x, actions=unlike) > retrieval.info_nce(x, x, actions=twins) + 0.1
    assert retrieval.false_negatives() is None
    assert not retrieval.false_negatives(actions=twins).diagonal().any()
    assert retrieval.false_negatives(actions=twins).nonzero().tolist() == [[0, 3], [3, 0]]


def test_kl_equals_the_reference(reference):
    at = {name: torch.from_numpy(reference[f"kl/{name}"]) for name in ("mu_q", "logvar_q", "mu_p", "logvar_p")}
    q, p = (at["mu_q"], at["logvar_q"]), (at["mu_p"], at["logvar_p"])
    for arguments, name in ((q + p, "q_p"), (p + q, "p_q"), (q, "q_standard"), (p, "p_standard")):
        found = retrieval.kl_divergence(*arguments).item()
        assert found == pytest.approx(float(reference[f"kl/loss_{name}"]), rel=1e-5)


def test_reconstruction_and_latent_terms_are_the_reference_loss(reference):
    """Both are a smooth L1 with beta 1, averaged over all elements."""
    for name, keys in (("recons", ("prediction", "target")), ("latent", ("a", "b"))):
        arrays = (torch.from_numpy(reference[f"{name}/{key}"]) for key in keys)
        found = torch.nn.functional.smooth_l1_loss(*arrays).item()
        assert found == pytest.approx(float(reference[f"{name}/loss"]), rel=1e-5)


# --- the network


@torch.no_grad()
def test_padding_and_company_do_not_matter(model):
    motion, lengths = torch.randn(5, 37, 263), torch.tensor([37, 5, 16, 30, 1])
    found = model.encode_motion(motion, lengths)
    padded = torch.nn.functional.pad(motion, (0, 0, 0, 20), value=100.0)
    torch.testing.assert_close(model.encode_motion(padded, lengths), found, atol=1e-5, rtol=1e-5)
    order = torch.tensor([4, 2, 0, 3, 1])
    torch.testing.assert_close(model.encode_motion(motion[order], lengths[order]), found[order], atol=1e-5, rtol=1e-5)
    for i, length in enumerate(lengths):
        alone = model.encode_motion(motion[i : i + 1, :length], lengths[i : i + 1])
        torch.testing.assert_close(alone[0], found[i], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_text_padding_does_not_matter(model):
    text = Words()(["walks", "a person walks to the left"])
    alone = Words()(["walks"])
    torch.testing.assert_close(model.encode_text(text)[:1], model.encode_text(alone), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoded_padding_is_zero(model):
    lengths = torch.tensor([9, 4])
    decoded = retrieval.decode(model, torch.randn(2, 32), lengths)
    assert decoded.shape == (2, 9, 67)  # root and joint positions
    assert (decoded[1, 4:] == 0).all() and (decoded[1, :4] != 0).any()


def test_normalisation_travels_with_the_weights(tmp_path):
    torch.manual_seed(0)
    model = retrieval.RetrievalModel(width=32, motion_layers=1, text_layers=1)
    model.set_statistics(np.full(263, 3.0), np.full(263, 2.0))
    model.save_pretrained(tmp_path)
    again = retrieval.RetrievalModel.from_folder(tmp_path)
    motion, lengths = torch.randn(2, 8, 263) * 2 + 3, torch.tensor([8, 5])
    normal, mask = again.normalise(motion, lengths)
    torch.testing.assert_close(normal[0], ((motion[0] - 3) / 2).clamp(-6, 6))
    assert (normal[~mask] == 0).all()
    with torch.no_grad():
        torch.testing.assert_close(model.eval().encode_motion(motion, lengths), again.encode_motion(motion, lengths))


@torch.no_grad()
def test_only_root_and_positions_are_seen(model):
    """Rotations, velocities and contacts say the same in other words; bending them alone must earn nothing."""
    motion, lengths = torch.randn(2, 12, 263), torch.tensor([12, 12])
    bent = motion.clone()
    bent[..., 67:] += 5
    assert torch.equal(model.encode_motion(motion, lengths), model.encode_motion(bent, lengths))
    bent[..., 66] += 1
    assert not torch.equal(model.encode_motion(motion, lengths), model.encode_motion(bent, lengths))


def test_corruption_keeps_a_clean_share():
    motion, lengths = torch.randn(400, 24, 67), torch.full((400,), 24)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(retrieval.corrupt(motion, lengths, generator, share=0.0), motion)
    found = retrieval.corrupt(motion, lengths, generator, share=0.5)
    same = (found == motion).flatten(1).all(1)
    assert 0.4 < same.float().mean() < 0.6
    assert (found - motion)[~same].square().mean() < 1.5  # corrupted, not destroyed


def test_interpolations_lie_on_the_straight_line():
    motion, lengths = torch.randn(6, 10, 67), torch.tensor([10, 9, 8, 7, 6, 5])
    mixed, short, partner, share = retrieval.interpolate_motions(motion, lengths, 4, torch.Generator().manual_seed(0))
    for i in range(4):
        j, end = partner[i], short[i]
        assert end == min(lengths[i], lengths[j])
        expected = (1 - share[i]) * motion[i, :end] + share[i] * motion[j, :end]
        torch.testing.assert_close(mixed[i, :end], expected)
        assert (mixed[i, end:] == 0).all()


def test_corruption_never_reads_past_a_clip():
    motion, lengths = torch.randn(64, 24, 67), torch.full((64,), 15)
    loud = motion.clone()
    loud[:, 15:] = 1e4
    found = [retrieval.corrupt(m, lengths, torch.Generator().manual_seed(0), share=1.0) for m in (motion, loud)]
    torch.testing.assert_close(found[0][:, :15], found[1][:, :15], atol=1e-5, rtol=1e-5)


# --- the reward


def test_reward_is_bounded_batched_and_asks_for_each_caption_once(model):
    words = Words()
    reward = rewards.RetrievalReward(model, words)
    motion, lengths = torch.randn(6, 20, 263), torch.tensor([20, 9, 14, 20, 6, 11])
    prompts = ["walks", "runs", "walks", "walks", "jumps", "runs"]
    scores = reward(motion, lengths, prompts)
    assert scores.shape == (6,) and not scores.requires_grad
    assert (scores >= 0).all() and (scores <= 1).all()
    alone = [reward(motion[i : i + 1, :length], lengths[i : i + 1], prompts[i : i + 1]).item()
             for i, length in enumerate(lengths.tolist())]
    np.testing.assert_allclose(scores.numpy(), alone, atol=1e-5)
    assert sorted(words.asked) == ["jumps", "runs", "walks"]


def test_reward_can_be_multiplied_into_a_loss(model):
    weight = torch.ones(2, requires_grad=True)
    scores = rewards.RetrievalReward(model, Words())(torch.randn(2, 8, 263), torch.tensor([8, 8]), ["a", "b"])
    (weight * scores).sum().backward()
    torch.testing.assert_close(weight.grad, scores)


def test_reward_folds_predictions_along_a_rollout(model):
    reward = rewards.RetrievalReward(model, Words())
    motion, lengths, prompts = torch.randn(3, 4, 12, 263), torch.tensor([12, 5, 8, 12]), ["a", "b", "c", "d"]
    folded = reward(motion, lengths, prompts)
    assert folded.shape == (3, 4)
    torch.testing.assert_close(folded[2], reward(motion[2], lengths, prompts), atol=1e-6, rtol=1e-5)


def test_margin_reward_by_its_formula(model):
    motion, lengths, prompts = torch.randn(3, 12, 263), torch.tensor([12, 5, 8]), ["walks", "runs", "waves"]
    plain = rewards.RetrievalReward(model, Words())
    cosines = torch.stack([2 * plain(motion, lengths, [p] * 3) - 1 for p in ("walks", "runs", "sits")], 1).double()
    own = 2 * plain(motion, lengths, prompts) - 1
    margin = rewards.RetrievalReward(model, Words(), distractors=["walks", "runs", "sits", "sits"])
    rivals = [[1, 2], [0, 2], [0, 1, 2]]  # a distractor equal to the prompt does not count
    expected = [own[i].item() - 0.1 * torch.logsumexp(cosines[i, r] / 0.1, 0).item() for i, r in enumerate(rivals)]
    np.testing.assert_allclose(margin(motion, lengths, prompts).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("features", [263, 251])
def test_a_look_mirror_consistent_counts_the_lower_score(features):
    from mocapfree_nb.features import mirror
    from mocapfree_nb.skeleton import HUMANML3D, KIT_ML

    asked = []

    def reward(motion, lengths, prompts):  # likes motion whose first numbers are large, and the word "left"
        asked.append(list(prompts))
        return motion[:, 0, :3].sum(-1) + torch.tensor([10.0 * ("left" in prompt) for prompt in prompts])

    motion, lengths, prompts = torch.randn(3, 8, features), torch.tensor([8, 5, 8]), ["go left", "go right", "jump"]
    scores = rewards.mirror_consistent(reward)(motion, lengths, prompts)
    seen = mirror(motion, KIT_ML if features == 251 else HUMANML3D)[:, 0, :3].sum(-1) + torch.tensor([0.0, 10.0, 0.0])
    plain = motion[:, 0, :3].sum(-1) + torch.tensor([10.0, 0.0, 0.0])
    torch.testing.assert_close(scores, torch.minimum(plain, seen))
    assert sorted(asked) == sorted([prompts, ["go right", "go left", "jump"]])


def test_bad_input_is_named(model):
    reward = rewards.RetrievalReward(model, Words())
    with pytest.raises(ValueError, match="2 motions, 2 lengths, 1 prompts"):
        reward(torch.zeros(2, 8, 263), torch.tensor([8, 8]), ["walks"])
    with pytest.raises(ValueError, match="263"):
        reward(torch.zeros(1, 8, 251), torch.tensor([8]), ["walks"])
    with pytest.raises(UserError, match="distractor"):
        rewards.RetrievalReward(model, Words(), distractors=["walks"])(
            torch.zeros(1, 8, 263), torch.tensor([8]), ["walks"]
        )
    with pytest.raises(ValueError, match="one shape"):
        retrieval.info_nce(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(UserError, match="no clips"):
        stack_corpus([])
    with pytest.raises(UserError, match="no model"):
        retrieval.RetrievalModel.from_folder("nowhere")


# --- training


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("procedural", num_clips=160, seed=5)


def test_stacking_gives_the_clips_back(corpus):
    stacked = stack_corpus(corpus.split("train"), Words())
    clips = list(corpus.split("train"))
    motion, lengths = stacked.motion(torch.tensor([3, 0, 7]), 196)
    for row, i in enumerate((3, 0, 7)):
        assert lengths[row] == len(clips[i].features)
        np.testing.assert_array_equal(motion[row, : lengths[row]].numpy(), clips[i].features)
        assert (motion[row, lengths[row] :] == 0).all()
        assert {stacked.prompts[j] for j in stacked.captions[i].tolist()} == set(clips[i].captions)
    cut, lengths = stacked.motion(torch.tensor([3]), 20, torch.tensor([0.999]))
    assert lengths.tolist() == [20]
    np.testing.assert_array_equal(cut[0].numpy(), clips[3].features[-20:])


def test_training_repeats_with_its_seed(corpus):
    small = dict(steps=6, batch_size=8, width=32, motion_layers=1, text_layers=1, progress=False)
    words = Words()
    first, history = retrieval.train_retrieval(corpus, words, seed=1, **small)
    second, _ = retrieval.train_retrieval(corpus, words, seed=1, **small)
    other, _ = retrieval.train_retrieval(corpus, words, seed=2, **small)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.start.weight, other.start.weight)
    assert not first.training and history[-1]["step"] == 6 and 0 <= history[-1]["val_recall"] <= 1


@pytest.mark.parametrize("train", [retrieval.train_retrieval, evaluator.train_evaluator])
def test_a_stopped_training_goes_on_to_the_same_bits(corpus, train, tmp_path, monkeypatch):
    small = dict(steps=6, batch_size=8, save_every=3, progress=False)
    sizes = {retrieval.train_retrieval: dict(width=32, motion_layers=1, text_layers=1)}
    small |= sizes.get(train, dict(channels=16, hidden=16))
    whole, history = train(corpus, Words(), **small)
    module = retrieval if train is retrieval.train_retrieval else evaluator
    draw, calls = module.draw_batch, []

    def stop(*arguments):
        calls.append(None)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(module, "draw_batch", stop)
    with pytest.raises(KeyboardInterrupt):
        train(corpus, Words(), folder=tmp_path, **small)
    assert (tmp_path / "checkpoint.pt").exists()
    with pytest.raises(UserError, match="other settings"):
        train(corpus, Words(), folder=tmp_path, **small | {"batch_size": 7})
    calls.clear()
    resumed, again = train(corpus, Words(), folder=tmp_path, **small)
    assert len(calls) == 3, "steps 4 to 6"
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))
    assert [row["step"] for row in again] == [row["step"] for row in history] == [3, 6]
    assert again[-1]["loss"] == history[-1]["loss"] and not (tmp_path / "checkpoint.pt").exists()
    saved = type(resumed).from_folder(tmp_path)
    assert torch.equal(next(saved.parameters()), next(resumed.parameters()))


def test_captions_come_back_from_the_stack_as_they_were_encoded(corpus):
    stacked, words = stack_corpus(corpus.split("train"), Words()), Words()
    rows = torch.tensor([5, 0, 11, 5])
    found, expected = stacked.text(rows), words([stacked.prompts[i] for i in rows])
    longest = int(expected.mask.sum(1).max())
    assert torch.equal(found.mask, expected.mask[:, :longest]) and torch.equal(found.pooled, expected.pooled)
    torch.testing.assert_close(found.tokens.float(), expected.tokens[:, :longest], atol=1e-3, rtol=1e-3)


def test_the_loss_can_be_learned(corpus):
    stacked = stack_corpus(corpus.split("train"), Words())
    torch.manual_seed(0)
    model = retrieval.RetrievalModel(width=32, motion_layers=1, text_layers=1, dropout=0.0)
    model.set_statistics(corpus.mean, corpus.std)
    generator = torch.Generator().manual_seed(0)
    batch = draw_batch(stacked, 12, generator, 48)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    values = []
    for _ in range(40):
        terms = retrieval.retrieval_loss(model, batch.motion, batch.lengths, batch.text, generator, batch.actions)
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        values.append(terms["contrastive"].item())
    assert np.mean(values[-5:]) < 0.3 * np.mean(values[:5])


def test_without_clips_to_train_on_there_is_one_line(corpus):
    for train in (retrieval.train_retrieval, evaluator.train_evaluator):
        with pytest.raises(UserError, match="no clips to train on; check the split"):
            train(corpus.split("test"), Words(), steps=1, progress=False)


# --- left and right, and the network that ships


@pytest.mark.parametrize(
    ("caption", "mirrored"),
    [
        ("a person raises the left arm, then the right", "a person raises the right arm, then the left"),
        ("Left-handed, he walks leftwards; LEFT!", "Right-handed, he walks rightwards; RIGHT!"),
        ("throws lefts, one lefthand, his left's best", "throws rights, one righthand, his right's best"),
        ("upright, bright, rightly, leftovers", "upright, bright, rightly, leftovers"),
    ],
)
def test_only_sides_are_swapped_and_twice_is_nothing(caption, mirrored):
    assert rewards.swap_sides(caption) == mirrored and rewards.swap_sides(mirrored) == caption


@torch.no_grad()
def test_shipped_network_tells_left_from_right_where_sentences_do_not(shipped):
    """Clips of a corpus that it never saw, each with its caption and the mirrored caption: which scores higher?"""
    clips = [
        clip
        for clip in load_corpus("procedural", num_clips=330, seed=77)
        if clip.captions[0] != rewards.swap_sides(clip.captions[0])
    ]
    assert len(clips) > 100
    own = [clip.captions[0] for clip in clips]
    mirrored = [rewards.swap_sides(caption) for caption in own]
    lengths = torch.tensor([len(clip) for clip in clips])
    motion = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip.features) for clip in clips], batch_first=True)
    reward = rewards.RetrievalReward(shipped)
    right = (reward(motion, lengths, own) > reward(motion, lengths, mirrored)).float().mean().item()
    assert right >= 0.9
    encoder = text.default_text_encoder()
    a, b = encoder(own[:50]).pooled, encoder(mirrored[:50]).pooled
    assert torch.nn.functional.cosine_similarity(a, b).mean() > 0.9  # the sentences alone hardly differ
