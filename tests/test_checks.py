"""The five silent errors: each guard speaks when the mistake is made, and is silent otherwise."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.data import folders
from mocapfree_nb.data.checks import (
    check_embedding_order,
    is_normalised,
    normalisation_kind,
    normalisation_ratio,
    pace,
    toes_forward,
    unit_of,
)
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.evaluator import EvaluatorModel
from mocapfree_nb.features import FEATURE_GROUPS, check_width, joints_to_features
from mocapfree_nb.files import UserError
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.retrieval import RetrievalModel
from mocapfree_nb.text import default_text_encoder

DATA = Path(__file__).parents[2] / "shared" / "data"
MADE = generate_clips(24, seed=2)
JOINTS = [np.asarray(MADE.joints[i, : MADE.lengths[i]]) for i in range(24)]


def write(root: Path, joints: list[np.ndarray], std: np.ndarray | None = None) -> Path:
    for part in ("new_joints", "texts"):
        (root / part).mkdir(parents=True)
    for i, clip in enumerate(joints):
        np.save(root / f"new_joints/{i:03d}.npy", clip)
        (root / f"texts/{i:03d}.txt").write_text("a person moves#a/DET#0.0#0.0\n")
    if std is not None:
        np.save(root / "Mean.npy", np.zeros(263, np.float32))
        np.save(root / "Std.npy", std)
    return root


def deviations() -> np.ndarray:
    return np.concatenate([joints_to_features(clip).numpy() for clip in JOINTS]).std(0) + 1e-3


def of_evaluator(std: np.ndarray, times: float = 25.0) -> np.ndarray:
    std = std.copy()
    for name in ("yaw_velocity", "root_velocity", "root_height", "contacts"):
        std[FEATURE_GROUPS()[name]] /= times
    return std


def slowed(clip: np.ndarray, times: int) -> np.ndarray:
    at = np.arange(0, len(clip) - 1 + 1e-9, 1 / times)
    flat = clip.reshape(len(clip), -1)
    return np.stack([np.interp(at, np.arange(len(clip)), column) for column in flat.T], 1).reshape(-1, 22, 3)


def said(root: Path) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_corpus(root)
    return "\n".join(str(one.message) for one in caught)


# --- when a folder is opened ---------------------------------------------------------------------------


def test_a_sound_folder_is_opened_in_silence(tmp_path):
    assert said(write(tmp_path / "a", JOINTS, deviations())) == ""


def test_the_evaluator_s_normalisation_is_told_apart(tmp_path):
    found = said(write(tmp_path / "a", JOINTS, of_evaluator(deviations())))
    assert "25 times too small" in found and "evaluator's normalisation" in found and "mirrored" not in found


def test_a_mirrored_folder_is_told(tmp_path):
    y_and_z_swapped = [clip * np.array([1, 1, -1]) for clip in JOINTS]  # what (x, z, y) for (x, z, -y) leaves
    found = said(write(tmp_path / "a", y_and_z_swapped))
    assert "the bodies are mirrored, left is right" in found and "frames a second" not in found


@pytest.mark.parametrize("times", [3, 5, 6])
def test_another_frame_rate_is_told(tmp_path, times):
    found = said(write(tmp_path / "a", [slowed(clip, times) for clip in JOINTS]))
    assert "people move very slowly if this is 20 frames a second" in found and "mirrored" not in found


def test_turned_and_moved_bodies_are_not_mirrored():
    for angle in np.linspace(0, 2 * np.pi, 7):
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        assert toes_forward(joints_to_features(JOINTS[0] @ turn.T + [3, 1, -2]).numpy()) > 0.05
    backward = JOINTS[0][::-1].copy()  # walks backward
    assert toes_forward(joints_to_features(backward).numpy()) > 0.05


def test_no_guard_speaks_about_real_motion():
    if not (DATA / "bandai_h3d").is_dir():
        pytest.skip("real motion is not part of the project")
    assert said(DATA / "bandai_h3d") == ""
    vectors = np.load(DATA / "humanml3d_sample/new_joint_vecs/012314.npy")
    assert toes_forward(vectors) > 0 and 0.75 < pace(vectors) < 3.2


# --- units, up, normalised twice -------------------------------------------------------------------------


def opened(root: Path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return load_corpus(root), "\n".join(str(one.message) for one in caught)


def same_motion(corpus, other, atol=1e-4):
    pairs = list(zip(corpus, other, strict=True))
    return len(pairs) > 8 and all(np.abs(a.features - b.features).max() < atol for a, b in pairs)


@pytest.mark.parametrize(("unit", "size"), [("centimetres", 100), ("millimetres", 1000)])
def test_joints_in_another_unit_are_converted_and_that_is_said(tmp_path, unit, size):
    plain, _ = opened(write(tmp_path / "a", JOINTS))
    corpus, said_ = opened(write(tmp_path / "b", [size * clip for clip in JOINTS]))
    assert f"24 of 24 clips looked at have joints in {unit}; they are divided by {size}, to metres" in said_
    assert same_motion(corpus, plain)


def test_a_unit_that_is_none_of_them_is_said_and_left(tmp_path):
    corpus, said_ = opened(write(tmp_path / "a", [39.37 * clip for clip in JOINTS]))
    assert "unknown unit" in said_ and "the root is 3" in said_ and corpus[0].features[:, 3].mean() > 30


@pytest.mark.parametrize("axes", [[2, 0, 1], [1, 2, 0]], ids=["z up", "x up"])
def test_joints_with_another_axis_up_are_turned_not_mirrored(tmp_path, axes):
    turned = [clip[..., axes] for clip in JOINTS]  # cyclic: a rotation
    corpus, said_ = opened(write(tmp_path / "a", turned))
    assert f"the joints have {'z' if axes[0] == 2 else 'x'} up; they are turned" in said_ and "mirrored" not in said_
    assert min(toes_forward(clip.features) for clip in corpus) > 0
    assert np.median([clip.features[:, 3].mean() for clip in corpus]) == pytest.approx(0.9, abs=0.1)


def test_z_up_by_a_swap_of_axes_is_turned_and_said_to_be_mirrored(tmp_path):
    assert "mirrored" in said(write(tmp_path / "a", [clip[..., [0, 2, 1]] for clip in JOINTS]))


def test_a_few_who_lie_are_left_lying_and_asked_about(tmp_path):
    corpus, said_ = opened(write(tmp_path / "a", [clip[..., [2, 0, 1]] for clip in JOINTS[:3]]))
    assert "nearly everybody lies" in said_ and "turned so that" not in said_ and "mirrored" not in said_ and len(corpus) == 3


def test_a_note_is_kept_by_a_pack(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PACK_FROM", 2)
    monkeypatch.setenv("MOCAPFREE_CACHE", str(tmp_path / "cache"))
    root = write(tmp_path / "a", [1000 * clip for clip in JOINTS])
    (first, once), (second, again) = opened(root), opened(root)
    assert list((tmp_path / "cache").iterdir()) and once == again and "millimetres" in once
    assert same_motion(first, second, 0 + 1e-9)


def test_normalised_features_are_taken_back_or_refused(tmp_path):
    raw = [joints_to_features(clip).numpy() for clip in JOINTS]
    mean, std = np.concatenate(raw).mean(0), deviations().astype(np.float32)
    for name, given in (("a", True), ("b", False)):
        root = write(tmp_path / name, JOINTS)
        (root / "new_joint_vecs").mkdir()
        for i, rows in enumerate(raw):
            np.save(root / f"new_joint_vecs/{i:03d}.npy", (rows - mean) / std)
            (root / f"new_joints/{i:03d}.npy").unlink()
        if given:
            np.save(root / "Mean.npy", mean)
            np.save(root / "Std.npy", std)
    corpus, said_ = opened(tmp_path / "a")
    assert "normalised features" in said_ and "taken back with Mean.npy and Std.npy" in said_
    assert all(np.abs(clip.features - rows).max() < 1e-4 for clip, rows in zip(corpus, raw, strict=True))
    with pytest.raises(UserError, match="holds normalised features; the raw ones are wanted, or Mean.npy and Std.npy"):
        load_corpus(tmp_path / "b")


def test_units_and_normalisation_of_clips():
    for clip in JOINTS:
        assert [unit_of(clip * size) for size in (1, 100, 1000, 10, 39.37)] == ["metres", "centimetres", "millimetres", "", ""]
        assert not is_normalised(joints_to_features(clip).numpy())
    generator = np.random.default_rng(0)
    assert not is_normalised(generator.normal(size=(60, 263))) and not is_normalised(np.ones((30, 263)))


# --- the normalisation ---------------------------------------------------------------------------------


def test_the_ratio_is_measured_whatever_the_scale_of_the_rest():
    std = deviations()
    assert normalisation_ratio(std, std) == pytest.approx(1)
    assert normalisation_ratio(of_evaluator(std) * 7, std) == pytest.approx(25, rel=1e-6)
    assert [normalisation_kind(of_evaluator(std, times), std) for times in (1, 4, 6, 25)] == ["data"] * 2 + ["evaluator"] * 2


def test_the_two_public_normalisations_against_real_motion():
    if not (DATA / "humanml3d_sample").is_dir():
        pytest.skip("real motion is not part of the project")
    shipped, other = np.load(DATA / "humanml3d_sample/Std.npy"), np.load(DATA / "bandai_h3d/Std.npy")
    assert normalisation_kind(shipped, other) == "data"  # deviations of other motion than the file was made from
    assert normalisation_kind(of_evaluator(shipped), other) == "evaluator"


# --- another skeleton ----------------------------------------------------------------------------------


SIZE = {"width": 32, "layers": 1, "heads": 2, "feedforward": 32}
NETWORKS = {
    "denoiser": lambda kit: MotionDenoiser(**SIZE)(kit, torch.zeros(2, dtype=torch.long), words(), LENGTHS),
    "denoiser, guided": lambda kit: MotionDenoiser(**SIZE).guided(kit, torch.zeros(2, dtype=torch.long), words(), LENGTHS, 2.5),
    "retrieval": lambda kit: RetrievalModel().encode_motion(kit, LENGTHS),
    "evaluator": lambda kit: EvaluatorModel().encode_motion(kit, LENGTHS),
}
LENGTHS = torch.tensor([40, 30])


def words():
    return default_text_encoder()(["a person walks", "a person sits"])


@pytest.mark.parametrize("network", NETWORKS)
def test_kit_ml_offered_to_a_network_for_humanml3d_is_refused_in_words(network):
    NETWORKS[network](torch.zeros(2, 40, 263))
    with pytest.raises(UserError, match=r"251.*KIT-ML \(21 joints\) offered to a network for HumanML3D.*skeleton=HUMANML3D"):
        NETWORKS[network](torch.zeros(2, 40, 251))


def test_widths_that_nobody_uses_are_refused_without_a_guess():
    check_width(torch.zeros(1, 5, 251), 251)
    for shape in ((2, 40, 100), (40, 263), (263,)):
        with pytest.raises(ValueError, match=r"\(batch, frames, 263\)"):
            check_width(np.zeros(shape), 263)
    with pytest.raises(UserError, match="HumanML3D.*offered to a network for KIT-ML"):
        check_width(np.zeros((1, 9, 263)), 251)


# --- the order of embeddings ---------------------------------------------------------------------------


def pairs(count=256, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    meaning = torch.randn(count, 32, generator=generator)
    text, motion = (meaning + noise * torch.randn(count, 32, generator=generator) for _ in range(2))
    return text, motion, torch.randint(10, 50, (count,), generator=generator)


@pytest.mark.parametrize("noise", [0.1, 1.0, 1.5])
def test_rows_sorted_by_length_are_refused(noise):
    text, motion, lengths = pairs(noise=noise)
    check_embedding_order(text, motion, lengths)
    orders = {
        "longest first": np.argsort(lengths.numpy())[::-1].copy(),  # as the reference sorts
        "stable": np.argsort(-lengths.numpy(), kind="stable"),
        "shortest first": np.argsort(lengths.numpy(), kind="stable"),
    }
    for order in orders.values():
        with pytest.raises(UserError, match="sorted by length"):
            check_embedding_order(text, motion[torch.as_tensor(order)], lengths)


def test_rows_sorted_within_batches_of_32_are_refused():
    text, motion, lengths = pairs(count=330, noise=1.0)
    order = np.concatenate([s + np.argsort(lengths[s : s + 32].numpy())[::-1] for s in range(0, 330, 32)])
    check_embedding_order(text, motion, lengths, batch_size=32)
    with pytest.raises(UserError, match="longest first"):
        check_embedding_order(text, motion[torch.as_tensor(order)], lengths, batch_size=32)


def test_a_set_that_is_in_order_of_length_already_is_left_alone():
    text, motion, lengths = pairs(noise=0.2)
    for order in (lengths.argsort(), lengths.argsort(descending=True)):
        check_embedding_order(text[order], motion[order], lengths[order])


def test_a_bad_model_and_a_random_order_are_not_blamed_on_the_sort():
    text, motion, lengths = pairs()
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        check_embedding_order(text, motion[torch.randperm(256, generator=generator)], lengths)
        check_embedding_order(text, torch.randn(256, 32, generator=generator), lengths)
    check_embedding_order(text[:5], motion[:5], lengths[:5])
    check_embedding_order(text, motion, torch.full((256,), 40))


def test_our_own_evaluator_keeps_the_order_of_its_batch():
    lengths = torch.tensor([20, 60, 40, 80, 30])
    motion = torch.randn(5, 80, 263, generator=torch.Generator().manual_seed(0))
    for model in (EvaluatorModel().eval(), RetrievalModel().eval()):
        with torch.inference_mode():
            together = model.encode_motion(motion, lengths)
            alone = torch.cat([model.encode_motion(motion[i : i + 1, : lengths[i]], lengths[i : i + 1]) for i in range(5)])
        assert torch.allclose(together, alone, atol=1e-5)
