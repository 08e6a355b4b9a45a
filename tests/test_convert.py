"""Between skeletons: what is kept exactly, and how much the guesses cost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mocapfree_nb.data.convert import convert_skeleton, resample
from mocapfree_nb.files import UserError
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML

DATA = Path(__file__).parents[2] / "shared" / "data"
MADE = generate_clips(30, seed=1)
CLIPS = [np.asarray(MADE.joints[i, : MADE.lengths[i]]) for i in range(30)]
SAME_RATE = replace(KIT_ML, fps=20.0)


def there_and_back(clip, other):
    """Centimetres (T, 22): each joint relative to the pelvis; column 0 the pelvis itself."""
    back = convert_skeleton(convert_skeleton(clip, HUMANML3D, other), other, HUMANML3D)
    rows = min(len(back), len(clip))
    error = np.linalg.norm((back - back[:, :1])[:rows] - (clip - clip[:, :1])[:rows], axis=-1)
    error[:, 0] = np.linalg.norm(back[:rows, 0] - clip[:rows, 0], axis=-1)
    return 100 * error


def test_there_and_back_on_the_synthetic_human():
    alone = np.concatenate([there_and_back(clip, SAME_RATE) for clip in CLIPS]).mean(0)
    both = np.concatenate([there_and_back(clip, KIT_ML) for clip in CLIPS])
    error = dict(zip(HUMANML3D.joint_names, alone, strict=True))
    exact = ("pelvis", "left_hip", "right_knee", "left_ankle", "right_foot", "spine1", "neck", "head")
    assert max(error[name] for name in exact) < 0.05
    assert error["left_collar"] < 2 and error["right_wrist"] < 1.6 and error["spine2"] < 1
    assert both[:, 1:].mean() < 0.7


@pytest.mark.parametrize(("part", "step", "most"), [("bandai_h3d", 40, 0.9), ("humanml3d_sample", 1, 0.8)])
def test_there_and_back_on_real_motion(part, step, most):
    paths = sorted((DATA / part / "new_joints").glob("*.npy"))[::step]
    if not paths:
        pytest.skip("real motion is not part of the project")
    error = np.concatenate([there_and_back(np.load(path), KIT_ML) for path in paths])
    print(f"{part}: {len(paths)} clips, mean {error[:, 1:].mean():.2f} cm, 95% under {np.percentile(error[:, 1:], 95):.2f} cm")
    assert error[:, 1:].mean() < most


def test_directions_are_kept_and_lengths_are_the_target_s():
    kit = convert_skeleton(CLIPS[0], HUMANML3D, SAME_RATE)
    lengths = np.linalg.norm(kit[:, 1:] - kit[:, KIT_ML.parents[1:]], axis=-1)
    assert np.allclose(lengths, np.linalg.norm(KIT_ML.offsets, axis=1)[1:], rtol=1e-5)
    for bone in (("left_hip", "left_knee"), ("right_elbow", "right_wrist"), ("neck", "head")):
        a, b = (HUMANML3D.joint_names.index(name) for name in bone)
        c, d = (KIT_ML.joint_names.index(name) for name in bone)
        one, other = CLIPS[0][:, b] - CLIPS[0][:, a], kit[:, d] - kit[:, c]
        cosine = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
        assert cosine.min() > 0.99999, bone


def test_left_stays_left_and_the_path_is_scaled_by_the_leg():
    kit = convert_skeleton(CLIPS[3], HUMANML3D, SAME_RATE)
    shift = lambda joints, skeleton: joints[:, skeleton.joint_names.index("left_hip")] - joints[:, 0]  # noqa: E731
    assert ((shift(kit, KIT_ML) * shift(CLIPS[3], HUMANML3D)).sum(-1) > 0).all()
    leg = np.linalg.norm(KIT_ML.offsets[[17, 18]], axis=1).sum()
    own = np.linalg.norm(HUMANML3D.offsets[[5, 8]], axis=1).sum()
    assert np.allclose(kit[:, 0], CLIPS[3][:, 0] * leg / own, rtol=1e-4)


def test_frames_come_at_the_rate_of_the_target():
    kit = convert_skeleton(CLIPS[0], HUMANML3D, KIT_ML)
    assert len(kit) == int((len(CLIPS[0]) - 1) * 12.5 / 20) + 1
    assert len(convert_skeleton(kit, KIT_ML, HUMANML3D)) == int((len(kit) - 1) * 20 / 12.5 + 1e-6) + 1


@pytest.mark.parametrize("fps", [10, 24, 30, 50, 60, 119.88, 120])
def test_resampling_a_known_curve(fps):
    time = np.arange(0, 4, 1 / fps)
    fine = resample(np.stack([np.sin(2 * np.pi * time), time, time**2], 1), fps, 20)
    wanted = np.arange(len(fine)) / 20
    assert abs(wanted[-1] - time[-1]) < 0.0501 and wanted[-1] <= time[-1] + 1e-6
    assert np.allclose(fine, np.stack([np.sin(2 * np.pi * wanted), wanted, wanted**2], 1), atol=5e-3)
    assert np.array_equal(resample(fine, 20, 20), fine)


def test_mistakes():
    with pytest.raises(UserError, match="KIT-ML needs"):
        convert_skeleton(CLIPS[0], KIT_ML, HUMANML3D)
    for fps in (0, -1, np.nan, np.inf):
        with pytest.raises(UserError, match="above zero"):
            resample(CLIPS[0], fps, 20)
