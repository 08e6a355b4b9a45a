"""Metrics against the public reference numbers, scipy, and properties that must hold."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mocapfree_nb import metrics, validity
from mocapfree_nb.evaluator import EvaluatorModel, hinge_loss
from mocapfree_nb.text import TextEmbedding

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared" / "reference"


@pytest.fixture(scope="module")
def reference():
    return dict(np.load(HERE / "reference" / "metrics.npz", allow_pickle=False))


@pytest.fixture(scope="module")
def shared():
    path = SHARED / "metrics.npz"
    if not path.is_file():
        pytest.skip("the shared reference numbers are not here")
    return dict(np.load(path, allow_pickle=False))


def normals(rows, width, seed=0, scale=1.0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


# --- FID


def test_frechet_distance_equals_the_reference(shared):
    assert metrics.frechet_distance(shared["real"], shared["fake"]) == pytest.approx(float(shared["fid"]), rel=1e-7)


def test_frechet_distance_with_fewer_rows_than_dimensions(shared):
    value = metrics.frechet_distance(shared["small_real"], shared["small_fake"])
    assert value == pytest.approx(float(shared["fid_small_exact"]), rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_frechet_distance_equals_scipy(seed):
    a, b = normals(200, 12, seed) @ normals(12, 12, seed + 5), normals(150, 12, seed + 9) + 0.3
    cov_a, cov_b = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(cov_a + cov_b - 2 * root)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_is_a_distance():
    a, b = normals(100, 8), normals(90, 8, 1, 2.0) + 1
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a, b) == pytest.approx(metrics.frechet_distance(b, a), rel=1e-10)
    assert metrics.frechet_distance(a, a + 2) == pytest.approx(4 * 8, rel=1e-9)  # a shift costs its square
    rotation = torch.linalg.qr(normals(8, 8, 3))[0]
    assert metrics.frechet_distance(a @ rotation, b @ rotation) == pytest.approx(
        metrics.frechet_distance(a, b), rel=1e-9
    )


# --- R-precision and matching distance


def test_r_precision_and_distance_equal_the_reference(reference):
    text, fake = reference["text"], reference["fake"]
    assert metrics.r_precision(text, fake).tolist() == reference["r_precision_fake"].tolist()
    assert metrics.matching_distance(text, fake) == pytest.approx(float(reference["matching_score_fake"]), rel=1e-6)


def test_r_precision_and_distance_equal_the_shared_reference(shared):
    assert metrics.r_precision(shared["text"], shared["real"]).tolist() == shared["r_precision_real"].tolist()
    found = metrics.matching_distance(shared["text"], shared["real"])
    assert found == pytest.approx(float(shared["matching_score_real"]), rel=1e-6)


def test_an_incomplete_last_batch_is_dropped(reference):
    text, fake = torch.from_numpy(reference["text"]), torch.from_numpy(reference["fake"])
    corrupted = fake.clone()
    corrupted[320:] = 1e3
    assert torch.equal(metrics.r_precision(text, fake), metrics.r_precision(text, corrupted))
    assert metrics.matching_distance(text, fake) == metrics.matching_distance(text, corrupted)


def test_a_collapsed_network_scores_what_guessing_scores():
    flat = torch.ones(64, 16)
    assert metrics.r_precision(flat, flat).tolist() == [1 / 32, 2 / 32, 3 / 32]


def test_r_precision_does_not_depend_on_the_order_inside_a_batch():
    text, motion = normals(32, 4), normals(32, 4, 1)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    found = metrics.r_precision(text[order], motion[order])
    torch.testing.assert_close(found, metrics.r_precision(text, motion))


def test_distractors_replace_the_rivals():
    text = normals(10, 8)
    motion = text + 0.01 * normals(10, 8, 1)
    far, near = normals(40, 8, 2) + 50, text[:1].repeat(40, 1)
    generator = torch.Generator().manual_seed(0)
    assert metrics.r_precision(text, motion, distractors=far, generator=generator).tolist() == [1, 1, 1]
    beaten = metrics.r_precision(text, motion, distractors=near, generator=generator)
    assert beaten.tolist() == [0.9, 0.9, 0.9]  # the rivals sit on the first caption


def test_one_action_alone_needs_distractors():
    """Clips that all show one thing cannot be told apart; among other actions they can."""
    text = torch.zeros(64, 4, dtype=torch.float64)
    motion, others = 0.1 * normals(64, 4, 1), normals(200, 4, 2) + 10
    assert metrics.r_precision(text, motion)[0] < 0.2
    assert metrics.r_precision(text, motion, distractors=others)[0] == 1


# --- diversity, multimodality, intervals


def test_diversity_equals_the_reference_with_its_random_numbers(reference):
    randomness = np.random.RandomState(int(reference["diversity_seed"]))
    found = metrics.diversity(reference["fake"], generator=randomness)
    # the reference draws once for the real rows and once more for the others; compare on its own indices
    first, second = reference["diversity_first"], reference["diversity_second"]
    fake = reference["fake"].astype(np.float64)
    expected = np.linalg.norm(fake[first] - fake[second], axis=1).mean()
    assert expected == pytest.approx(float(reference["diversity_fake"]), rel=1e-6)
    assert found == pytest.approx(expected, rel=1e-6)


def test_multimodality_equals_the_reference_with_its_random_numbers(reference):
    randomness = np.random.RandomState(int(reference["multimodality_seed"]))
    found = metrics.multimodality(reference["multimodality_embeddings"], generator=randomness)
    assert found == pytest.approx(float(reference["multimodality"]), rel=1e-6)


def test_the_same_generator_gives_the_same_numbers():
    emb = normals(400, 6)
    draws = [metrics.diversity(emb, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_interval_equals_the_reference(reference):
    mean, width = metrics.mean_and_interval(list(reference["replication_values"]))
    assert mean.item() == pytest.approx(float(reference["replication_mean"]), rel=1e-12)
    assert width.item() == pytest.approx(float(reference["replication_ci95"]), rel=1e-12)


def test_replicate_seeds_each_call_differently():
    mean, width = metrics.replicate(lambda generator: torch.rand(3, generator=generator), replications=20)
    assert mean.shape == width.shape == (3,)
    assert (width > 0.05).all() and (width < 0.25).all()  # .29 * 1.96 / sqrt(20) = .13


# --- retrieval recall


@pytest.fixture(scope="module")
def retrieval():
    return dict(np.load(HERE / "reference" / "tmr_losses.npz", allow_pickle=False))


@pytest.mark.parametrize(
    ("case", "sims", "threshold"),
    [
        ("no_threshold", "sims", None),
        ("threshold0.95", "sims", 0.95),
        ("threshold0.8", "sims", 0.8),
        ("ties_no_threshold", "sims_with_ties", None),
    ],
)
def test_retrieval_recall_equals_the_reference(retrieval, case, sims, threshold):
    sentence = retrieval["retrieval/sent_emb"]
    found = metrics.retrieval_recall(retrieval[f"retrieval/{sims}"], sentence, threshold)
    assert len(found) == 12
    for name, value in found.items():
        assert value == pytest.approx(float(retrieval[f"retrieval/{case}/{name}_unrounded"]), rel=1e-12), name


def test_ranks_equal_the_reference_exactly(retrieval):
    sims = retrieval["retrieval/sims_with_ties"]
    for name, matrix in (("t2m", sims), ("m2t", sims.T)):
        expected = retrieval[f"retrieval/ties_no_threshold/{name}/rank0"]
        assert metrics.retrieval_ranks(matrix.copy()).tolist() == expected.tolist()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000))
def test_recall_is_monotone_and_survives_a_shuffle(size, seed):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randn(size, size, generator=generator)
    found = metrics.retrieval_recall(similarity)
    for direction in ("t2m", "m2t"):
        values = [found[f"{direction}/R{k:02d}"] for k in (1, 2, 3, 5, 10)]
        assert values == sorted(values) and 0 <= values[0] and values[-1] <= 100
    order = torch.randperm(size, generator=generator)
    assert metrics.retrieval_recall(similarity[order][:, order]) == pytest.approx(found)


# --- foot skating


def gliding(speed, height=0.0, frames=21):
    joints = torch.zeros(1, frames, 22, 3)
    joints[..., 0] = torch.arange(frames)[None, :, None] * speed / 20
    joints[0, 1:, :, 1] = height
    return joints


def test_foot_skate_counts_what_slides_on_the_floor():
    assert validity.foot_skate(gliding(0.4)).item() == 0  # slow enough
    assert validity.foot_skate(gliding(0.6)).item() == 1
    assert validity.foot_skate(gliding(0.6, height=0.2)).item() == 0  # in the air, but for the first frame
    assert validity.foot_skate(gliding(0.6)[0]).item() == 1  # one clip without a batch


def test_a_landing_is_no_skate():
    """A foot that comes down fast was not on the floor before; it has nothing to slide on."""
    joints = torch.zeros(1, 3, 22, 3)
    joints[0, 0, :, 1] = 0.3
    joints[0, 1:, :, 0] = 1.0
    assert validity.foot_skate(joints).item() == 0
    assert validity.foot_skate(joints.flip(1)).item() == 0  # nor is a take-off


def test_foot_skate_ignores_padding_and_where_the_clip_stands():
    joints = torch.cat([gliding(0.6), gliding(0.4)])
    padded = torch.nn.functional.pad(joints, (0, 0, 0, 0, 0, 30), value=-7.0)
    lengths = torch.tensor([21, 21])
    assert torch.equal(validity.foot_skate(padded, lengths), validity.foot_skate(joints))
    moved = joints + torch.tensor([3.0, 1.5, -2.0])
    assert torch.equal(validity.foot_skate(moved), validity.foot_skate(joints))


def test_half_a_glide_is_half():
    joints = gliding(1.0)
    joints[:, 10:, :, 0] = joints[:, 10:11, :, 0]
    assert validity.foot_skate(joints).item() == pytest.approx(0.5)


class OnApple(torch.Tensor):
    """A tensor on a device without float64."""

    device = torch.device("mps")

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")


@pytest.mark.parametrize(
    ("measure", "shape"),
    [
        (lambda values: metrics.diversity(values, generator=np.random.default_rng(0)), (20, 4)),
        (lambda values: metrics.multimodality(values, generator=np.random.default_rng(0)), (3, 5, 4)),
        (lambda values: metrics.r_precision(values, values[..., [1, 0]]), (32, 2)),
        (lambda values: metrics.retrieval_ranks(values).mean().item(), (6, 6)),
    ],
    ids=["diversity", "multimodality", "r_precision", "ranks"],
)
def test_a_device_without_float64_gives_the_numbers_of_the_cpu(measure, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(measure(values.as_subclass(OnApple)), measure(values), atol=0, rtol=0)


# --- bad input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.frechet_distance(torch.zeros(1, 4), torch.zeros(9, 4)), "N >= 2"),
        (lambda: metrics.frechet_distance(torch.full((5, 4), torch.nan), torch.zeros(9, 4)), "NaN"),
        (lambda: metrics.frechet_distance(torch.zeros(5, 4), torch.zeros(9, 3)), "wide"),
        (lambda: metrics.r_precision(torch.zeros(20, 4), torch.zeros(20, 4)), "batch of 32"),
        (lambda: metrics.r_precision(torch.zeros(40, 4), torch.zeros(39, 4)), "one shape"),
        (
            lambda: metrics.r_precision(torch.zeros(4, 4), torch.zeros(4, 4), distractors=torch.zeros(30, 4)),
            "N >= 31",
        ),
        (lambda: metrics.retrieval_recall(torch.zeros(3, 4)), "N, N"),
        (lambda: metrics.retrieval_recall(torch.eye(3), threshold=0.9), "sentences"),
        (lambda: metrics.multimodality(torch.zeros(3, 1, 4)), "repeats >= 2"),
        (lambda: validity.foot_skate(torch.zeros(1, 9, 21, 3)), "22"),
        (lambda: EvaluatorModel().encode_motion(torch.zeros(1, 9, 251), torch.tensor([9])), "263"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- the evaluator


@pytest.fixture(scope="module")
def evaluator():
    torch.manual_seed(0)
    return EvaluatorModel().eval()


def embedding(count, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(length)[None] < torch.randint(2, length + 1, (count, 1), generator=generator)
    tokens = torch.randn(count, length, 384, generator=generator) * mask[..., None]
    return TextEmbedding(tokens, mask, tokens.mean(1))


@torch.no_grad()
def test_evaluator_keeps_the_order_of_its_input(evaluator):
    """Recurrent networks like batches sorted by length; the answer must not come back sorted."""
    motion, lengths = torch.randn(6, 40, 263), torch.tensor([12, 40, 7, 33, 8, 21])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    together = evaluator.encode_motion(motion, lengths)
    torch.testing.assert_close(evaluator.encode_motion(motion[order], lengths[order]), together[order])
    text = embedding(6, 9)
    torch.testing.assert_close(evaluator.encode_text(text[order]), evaluator.encode_text(text)[order])


@torch.no_grad()
def test_evaluator_ignores_padding(evaluator):
    motion, lengths = torch.randn(4, 30, 263), torch.tensor([30, 13, 6, 25])
    padded = torch.nn.functional.pad(motion, (0, 0, 0, 11), value=9.0)
    motion[1, 13:] = 5.0
    found = evaluator.encode_motion(padded, lengths)
    torch.testing.assert_close(found, evaluator.encode_motion(motion, lengths), atol=1e-5, rtol=1e-5)
    text = embedding(4, 9)
    longer = TextEmbedding(
        torch.nn.functional.pad(text.tokens, (0, 0, 0, 4), value=3.0),
        torch.nn.functional.pad(text.mask, (0, 4)),
        text.pooled,
    )
    torch.testing.assert_close(evaluator.encode_text(longer), evaluator.encode_text(text), atol=1e-5, rtol=1e-5)


def test_hinge_loss_by_hand():
    text = torch.tensor([[0.0], [10.0]])
    motion = torch.tensor([[1.0], [8.0]])
    # distances: own 1, 2; caption 0 to motion 1: 8, caption 1 to motion 0: 9; margin 8
    # rows: 8+1-8 = 1, 8+2-9 = 1; columns: 8+1-9 = 0, 8+2-8 = 2
    assert hinge_loss(text, motion, margin=8.0).item() == pytest.approx((1 + 1) / 2 + (0 + 2) / 2)
    assert hinge_loss(text, motion, torch.tensor([5, 5]), margin=8.0).item() == 0
