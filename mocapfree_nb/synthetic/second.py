"""The second corpus: another person with a body, a manner and actions of their own, written at 12.5 frames a second."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np

from mocapfree_nb.data.convert import resample
from mocapfree_nb.files import UserError

from . import gaits, poses
from .actions import ARMS, COMPOSED, WHOLE_BODY
from .kinematics import BONE_LENGTHS, FIRST, Clips, ease, move_arm, posture, pulse, solve
from .terse_captions import write_terse_caption

_SCALES = {  # of the first body's bones, by the joints they lead to
    1.07: (4, 5, 7, 8),  # thighs and shins
    0.92: (18, 19, 20, 21),  # arms
    0.8: (13, 14, 16, 17),  # shoulders
    0.94: (3, 6, 9),  # trunk
}


def _body() -> np.ndarray:
    bones = BONE_LENGTHS.copy()
    for scale, joints in _SCALES.items():
        bones[list(joints)] *= scale
    return bones


SECOND = replace(
    FIRST, bones=_body(), stand=1.012, fps=12.5, tempo=0.88, arms_out=0.2, elbows=0.35, stoop=0.1, gaze=0.14, knees=0.015,
    toes=0.12, sway=1.3,
)


def _jog_in_place(clips: Clips) -> None:
    step = clips.uniform(0.34, 0.4) * clips.tempo**-0.4
    lift, knee = clips.uniform(0.16, 0.24), clips.uniform(-0.08, 0.04)
    gaits.plan_steps(clips, clips.uniform(-0.03, 0.04), 0.0, 0.0, step, 0.42, lift, knee=knee, roll=0.6)
    left, right = clips.lift / clips.lift.max((0, 2), keepdims=True).clip(0.01)
    clips.stride = left - right
    gaits.swing_arms(clips, clips.uniform(0.3, 0.5), clips.uniform(1.0, 1.4))
    clips.drop += 0.03


def _push(clips: Clips) -> None:
    ready, out = 0.4 / clips.tempo, 0.5 / clips.tempo
    start = clips.uniform(0.0, 0.25)
    top = start + ready + out
    near = pulse(clips.t, start, start + ready, start + ready, top)
    far = pulse(clips.t, start + ready, top, top + 0.3, top + 0.8)
    for side in range(2):
        move_arm(clips, side, near, [40, 10, 115, 10, -15], 3.0)
        move_arm(clips, side, far, [85, -2, 8, 10, 0], 3.0)
    clips.hip_pitch += 0.1 * far
    clips.pitch += 0.16 * far


def _box(clips: Clips) -> None:
    rate = 1.1 * clips.tempo * clips.uniform(0.92, 1.08)
    start = clips.uniform(0.0, 0.15)
    ready = start + 0.35
    guard = ease(clips.t, start, ready)
    beat = np.sin(2 * np.pi * rate * (clips.t - ready)) * ease(clips.t, ready - 0.1, ready + 0.1)
    for side, sign in enumerate((1.0, -1.0)):
        move_arm(clips, side, guard, [24, 30, 118, 12, -20], 3.0)
        move_arm(clips, side, np.clip(1.25 * sign * beat, 0.0, 1.0), [86, -6, 6, 10, 0], 3.0)
    clips.twist -= 0.25 * beat


def _stretch(clips: Clips) -> None:
    clips.paired = True  # the arms are another script's
    poses.squat(clips)
    poses.raise_arms(clips, (0, 1))


def _balance(clips: Clips, side: int) -> None:
    poses.lift_knee(clips, side)
    poses.spread_arms(clips)


def _overhead_clap(clips: Clips) -> None:
    rate = 1.4 * clips.tempo * clips.uniform(0.92, 1.08)
    start = clips.uniform(0.0, 0.15)
    ready = start + 0.55 / clips.tempo**0.5
    weight = ease(clips.t, start, ready)
    shut = (0.5 + 0.5 * np.cos(2 * np.pi * rate * (clips.t - ready - 0.1))) * ease(clips.t, ready - 0.2, ready + 0.1)
    for side in range(2):
        move_arm(clips, side, weight, [150 - 4 * shut, 80 - 2 * shut, 22 + 32 * shut, 4, 0], 0.0)


NEW = {  # label: (script, meaning)
    "jog-in-place": (_jog_in_place, "runs without leaving the spot"),
    "push": (_push, "pushes something away with both hands"),
    "box": (_box, "punches with both fists in turn"),
    "stretch": (_stretch, "bends the knees and reaches up with both arms"),
    "balance-left": (lambda clips: _balance(clips, 0), "stands on the right leg with the arms out"),
    "balance-right": (lambda clips: _balance(clips, 1), "stands on the left leg with the arms out"),
    "overhead-clap": (_overhead_clap, "swings the arms up and claps them towards each other above the head"),
}
MISSING = ("march", "hop-left", "hop-right", "sit", "twist", "throw-left", "throw-right", "touch-head-left", "touch-head-right")
MISSING = (*MISSING, "spread-arms")
_SCRIPTS = {name: script for name, (script, _) in (WHOLE_BODY | ARMS | NEW).items() if name not in MISSING}
ACTIONS_B = MappingProxyType({name: text for name, (_, text) in (WHOLE_BODY | ARMS | NEW).items() if name not in MISSING})
COMPOSED_B = tuple(  # bent over in a squat, this person's punches and pointing arms are not level
    (base, arms)
    for base, arms in COMPOSED
    if not {base, arms} & set(MISSING) and not (base == "squat" and arms.startswith(("punch", "point")))
)


def _deal(num_clips: int, composed: float, rng: np.random.Generator) -> list[tuple[str, ...]]:
    "Labels of each clip: as equal as possible among single labels, and among composed ones."
    pairs = int(round(num_clips * composed))
    plan: list[tuple[str, ...]] = []
    for kinds, count in (([(name,) for name in ACTIONS_B], num_clips - pairs), (list(COMPOSED_B), pairs)):
        for first in range(0, count, len(kinds)):
            plan += [kinds[i] for i in rng.permutation(len(kinds))[: count - first]]
    return [plan[i] for i in rng.permutation(len(plan))]


def _perform(labels: tuple[str, ...], rng: np.random.Generator, seconds: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    "Joints (T, 22, 3) at 20 frames a second of clips with these labels, and how fast captions may say they are."
    speed = rng.choice([-1, 0, 1], size=len(seconds), p=[0.3, 0.4, 0.3])
    rows = np.floor(seconds * SECOND.fps + 1e-6).astype(int) + 1
    clips = Clips(rng, rows, int(rows.max()), speed, paired=len(labels) == 2, performer=SECOND)
    posture(clips)
    _SCRIPTS[labels[0]](clips)
    if len(labels) == 2:
        clips.tempo = SECOND.tempo * rng.uniform(0.85, 1.2, clips.tempo.shape)
        _SCRIPTS[labels[1]](clips)
    joints = solve(clips)
    return [resample(one[:count], SECOND.fps, 20.0) for one, count in zip(joints, rows, strict=True)], speed


def generate_second_clips(
    num_clips: int, seed: int = 0, max_frames: int = 49, min_frames: int = 37, composed: float = 0.3
) -> tuple[list[np.ndarray], list[tuple[str, ...]], list[list[str]]]:
    """Joints (T, 22, 3) in metres at 20 frames a second, labels and three captions each of the second corpus.

    T is at most `max_frames` and at least two frames less than `min_frames`, for 12.5 frames a second seldom end where 20
    do. Every clip starts at the origin, facing +Z, on the floor y = 0. The same arguments give the same clips.
    Raises `UserError` for impossible lengths.
    """
    if num_clips < 1 or not 20 <= min_frames <= max_frames:
        raise UserError(
            f"cannot write {num_clips} clips of {min_frames} to {max_frames} frames: at least 1, of at least 20 frames"
        )
    rng = np.random.default_rng([seed, 101])
    plan = _deal(num_clips, composed, rng)
    seconds = (rng.integers(min_frames, max_frames + 1, num_clips) - 1) / 20.0
    joints: list[np.ndarray] = [np.zeros(0)] * num_clips
    captions: list[list[str]] = [[]] * num_clips
    order = list(ACTIONS_B)
    for labels in sorted(set(plan)):
        rows = [row for row, own in enumerate(plan) if own == labels]
        own = np.random.default_rng([seed, 102, *(order.index(name) for name in labels)])
        made, speed = _perform(labels, own, seconds[rows])
        for row, one, fast in zip(rows, made, speed, strict=True):
            joints[row] = one.astype(np.float32)
            captions[row] = [write_terse_caption(own, labels, int(fast)) for _ in range(3)]
    return joints, plan, captions
