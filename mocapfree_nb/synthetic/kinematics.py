"""From the script of a group of clips to joints: feet on the floor, knees solved, arms posed by angles."""

from dataclasses import dataclass, field

import numpy as np

from mocapfree_nb.skeleton import HUMANML3D


FPS = 20.0
BONE_LENGTHS = np.linalg.norm(np.asarray(HUMANML3D.offsets, dtype=np.float64), axis=1)
_STAND = 0.962  # pelvis height of an upright body, metres
_ANKLE = 0.055  # ankle height over a flat toe, metres


@dataclass(frozen=True, eq=False)
class Performer:
    """Who moves: a body, and a manner of moving. The defaults are the person of the first corpus.

    `bones` (22,) metres by the joint they lead to; `stand` pelvis height upright, metres; `fps` of the motion as written;
    `tempo` a factor; `arms_out`, `elbows`, `stoop`, `gaze`, `knees` and `toes` are added to everybody's posture: radians,
    and metres for `knees` (how much lower the pelvis is held); `sway` is a factor of the small movements.
    """

    bones: np.ndarray = field(default_factory=lambda: BONE_LENGTHS)
    stand: float = _STAND
    fps: float = FPS
    tempo: float = 1.0
    arms_out: float = 0.0
    elbows: float = 0.0
    stoop: float = 0.0
    gaze: float = 0.0
    knees: float = 0.0
    toes: float = 0.0
    sway: float = 1.0


FIRST = Performer()


def ease(t: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    "Minimum-jerk rise from 0 at `start` to 1 at `stop`."
    u = np.clip((t - start) / np.maximum(stop - start, 1e-6), 0.0, 1.0)
    return u**3 * (10.0 - 15.0 * u + 6.0 * u * u)


def pulse(t: np.ndarray, a, b, c, d) -> np.ndarray:
    "Rise over a..b, hold, fall over c..d."
    return ease(t, a, b) - ease(t, c, d)


_REST_ARM = np.radians([6.0, 68.0, 16.0, 85.0, 0.0])  # elevation, plane, elbow, elbow plane, swing


class Clips:
    """What a group of clips should do, frame by frame; `solve` turns it into joints.

    Angles are radians and arrays are (clips, frames). Index 0 is left, 1 is right.
    """

    def __init__(
        self, rng, lengths: np.ndarray, frames: int, speed: np.ndarray, paired: bool = False, performer: Performer = FIRST
    ):
        self.performer = performer
        self.rng, self.lengths, self.size = rng, lengths, len(lengths)
        shape = (self.size, frames)
        self.t = np.broadcast_to(np.arange(frames) / performer.fps, shape)
        self.end = ((lengths - 1) / performer.fps)[:, None]
        self.speed = speed  # -1 slow, 0, 1 fast: captions speak of it
        low = np.choose(speed + 1, [0.68, 0.92, 1.3])
        high = np.choose(speed + 1, [0.78, 1.1, 1.5])
        self.tempo = performer.tempo * rng.uniform(low, high)[:, None]
        self.detail = [""] * self.size  # a word for the captions
        self.paired = paired  # will another label move the arms?
        self.position, self.yaw = np.zeros((*shape, 2)), np.zeros(shape)
        self.drop, self.air = np.zeros(shape), np.zeros(shape)
        self.hip_pitch, self.hip_roll, self.hip_turn = np.zeros((3, *shape))
        self.pitch, self.roll, self.twist = np.zeros((3, *shape))
        self.look_down, self.look_left = np.zeros((2, *shape))
        self.foot, self.lift = np.zeros((2, *shape, 2)), np.zeros((2, *shape))
        self.foot_pitch, self.foot_yaw = np.zeros((2, 2, *shape))
        self.arm = np.tile(_REST_ARM, (2, *shape, 1))

    def uniform(self, low: float, high: float) -> np.ndarray:
        "One random number a clip, (clips, 1)."
        return self.rng.uniform(low, high, (self.size, 1))

    def chance(self, share: float) -> np.ndarray:
        "A coin a clip, (clips, 1) of bool."
        return self.rng.random((self.size, 1)) < share

    def wobble(self, size: float) -> np.ndarray:
        "Smooth noise of about `size`, (clips, frames): three slow sine waves."
        frequency = self.rng.uniform(0.15, 1.1, (3, self.size, 1))
        phase = self.rng.uniform(0.0, 2 * np.pi, (3, self.size, 1))
        height = self.rng.uniform(0.2, 1.0, (3, self.size, 1)) * size * self.performer.sway
        return (height * np.sin(2 * np.pi * frequency * self.t + phase)).sum(0)


def rotation_matrix(axis: int, angle: np.ndarray) -> np.ndarray:
    "Rotation matrices (..., 3, 3) about x (0), y (1) or z (2); angles in radians."
    cos, sin = np.cos(angle), np.sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*np.shape(angle), 3, 3))
    matrix[..., axis, axis] = 1.0
    matrix[..., i, i] = matrix[..., j, j] = cos
    matrix[..., i, j], matrix[..., j, i] = -sin, sin
    return matrix


def to_world(yaw: np.ndarray, side: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    "World (x, z) of a vector `side` to the left and `ahead` to the front of a body with heading `yaw`."
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.stack([cos * side + sin * ahead, -sin * side + cos * ahead], axis=-1)


def posture(clips: Clips) -> None:
    "Feet side by side, arms hanging, this person's own posture, small sway."
    clips.width, clips.toe_out = clips.uniform(0.075, 0.125), clips.uniform(0.05, 0.3) + clips.performer.toes
    for side, sign in enumerate((1.0, -1.0)):
        clips.foot[side] = to_world(0.0 * clips.t, sign * clips.width + 0 * clips.t, -0.03 + 0 * clips.t)
        clips.foot_yaw[side] = sign * clips.toe_out
        clips.arm[side, ..., 0] += clips.uniform(-0.04, 0.12) + clips.wobble(0.02)
        clips.arm[side, ..., 2] += clips.uniform(-0.12, 0.3) + clips.wobble(0.04)
        clips.arm[side, ..., 4] += clips.uniform(-0.1, 0.1) + clips.wobble(0.02)
    clips.drop += clips.uniform(0.0, 0.02)
    clips.pitch += clips.uniform(-0.03, 0.16) + clips.wobble(0.015)
    clips.roll += clips.wobble(0.012)
    clips.twist += clips.wobble(0.02)
    clips.hip_turn += clips.wobble(0.02)
    clips.look_down += clips.uniform(-0.05, 0.2) + clips.wobble(0.04)
    clips.look_left += clips.wobble(0.06)
    clips.position[..., 0] += clips.wobble(0.006)
    clips.position[..., 1] += clips.wobble(0.006)
    who = clips.performer
    clips.arm[..., 0] += who.arms_out
    clips.arm[..., 2] += who.elbows
    clips.drop += who.knees
    clips.pitch += who.stoop
    clips.look_down += who.gaze


def place_feet(clips: Clips) -> tuple[np.ndarray, np.ndarray]:
    "Ankles and toes (2, clips, frames, 3). A raised heel turns about the toe, a raised toe about the ankle."
    ankles, toes = [], []
    for side in range(2):
        length = clips.performer.bones[10 + side]
        flat = np.arcsin(_ANKLE / length)
        pitch, yaw, ground = clips.foot_pitch[side], clips.foot_yaw[side], clips.foot[side]
        angle = flat + pitch
        bone = to_world(yaw, 0.0 * yaw, length * np.cos(angle))
        bone = np.stack([bone[..., 0], -length * np.sin(angle), bone[..., 1]], -1)
        start = to_world(yaw, 0.0 * yaw, length * (np.cos(flat) - np.cos(angle)) * (pitch > 0))
        height = np.where(pitch > 0, length * np.sin(angle), _ANKLE) + clips.lift[side]
        ankle = np.stack([ground[..., 0] + start[..., 0], height, ground[..., 1] + start[..., 1]], -1)
        ankles.append(ankle)
        toes.append(ankle + bone)
    return np.stack(ankles), np.stack(toes)


def bone_along(rotation: np.ndarray, direction: list[float], length: float) -> np.ndarray:
    "A bone of this length along `direction` of a rotated frame."
    direction = np.asarray(direction) / np.linalg.norm(direction)
    return rotation @ (direction * length)


def solve_knee(hip: np.ndarray, ankle: np.ndarray, yaw: np.ndarray, thigh: float, shin: float) -> np.ndarray:
    "Knee (..., 3) of a two-bone leg: it bends forward, in the plane square to the leg's own left-right axis."
    reach = ankle - hip
    distance = np.linalg.norm(reach, axis=-1, keepdims=True)
    reach = reach / distance
    along = (thigh**2 - shin**2 + distance**2) / (2.0 * distance)
    across = np.stack([np.cos(yaw), 0.0 * yaw, -np.sin(yaw)], -1)
    forward = np.cross(reach, across)
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    return hip + along * reach + np.sqrt(np.maximum(thigh**2 - along**2, 0.0)) * forward


def pose_arm(clips: Clips, side: int, chest: np.ndarray, spine: np.ndarray) -> list[np.ndarray]:
    "Collar, shoulder, elbow and wrist of one arm from its five angles."
    sign, bones = 1.0 if side == 0 else -1.0, clips.performer.bones
    raised, plane, bend, bend_plane, swing = np.moveaxis(clips.arm[side], -1, 0)
    shrug = 0.22 * np.clip(raised - np.radians(50.0), 0.0, None)
    girdle = chest @ rotation_matrix(2, sign * shrug)
    collar = spine + bone_along(chest, [sign * 0.58, 0.81, -0.07], bones[13 + side])
    shoulder = collar + bone_along(girdle, [sign * 0.92, 0.22, -0.12], bones[16 + side])
    sin_r, cos_r, sin_p, cos_p = np.sin(raised), np.cos(raised), np.sin(plane), np.cos(plane)
    upper = np.stack([sign * sin_r * sin_p, -cos_r, sin_r * cos_p], -1)
    up = np.stack([sign * cos_r * sin_p, sin_r, cos_r * cos_p], -1)
    inward = np.stack([-sign * cos_p, 0.0 * plane, sin_p], -1)
    hinge = np.cos(bend_plane)[..., None] * up + np.sin(bend_plane)[..., None] * inward
    fore = np.cos(bend)[..., None] * upper + np.sin(bend)[..., None] * hinge
    frame = chest @ rotation_matrix(0, -swing)
    elbow = shoulder + (frame @ upper[..., None])[..., 0] * bones[18 + side]
    return [collar, shoulder, elbow, elbow + (frame @ fore[..., None])[..., 0] * bones[20 + side]]


def move_arm(clips: Clips, side: int, weight: np.ndarray, degrees: list, spread: float = 4.0) -> None:
    "Blend one arm towards a pose (elevation, plane, elbow, elbow plane, swing)."
    pose = np.stack([np.broadcast_to(d, clips.t.shape) for d in degrees], -1)
    jitter = clips.rng.normal(0.0, spread, (clips.size, 1, 5)).clip(-2 * spread, 2 * spread)
    pose = np.radians(pose + jitter * [1, 1, 1, 1, 0])
    pose[..., 2] = np.maximum(pose[..., 2], np.radians(3.0))
    clips.arm[side] += weight[..., None] * (pose - clips.arm[side])


def rest_arm(clips: Clips, side: int, weight: np.ndarray, before: np.ndarray) -> None:
    "Blend one arm back to where it would have been."
    clips.arm[side] += weight[..., None] * (before - clips.arm[side])


def pelvis_height(clips: Clips, hips: list[np.ndarray], ankles: np.ndarray) -> np.ndarray:
    "As high as planned, or as high as the legs reach: a soft minimum of the three."
    bones, heights = clips.performer.bones, [clips.performer.stand - clips.drop + clips.air]
    for side in range(2):
        reach = 0.998 * (bones[4 + side] + bones[7 + side])
        apart = ankles[side][..., ::2] - clips.position - hips[side][..., ::2]
        up = np.sqrt(np.maximum(reach**2 - (apart**2).sum(-1), 0.01))
        heights.append(ankles[side][..., 1] - hips[side][..., 1] + up)
    lowest = np.min(heights, axis=0)
    return lowest - 0.006 * np.log(sum(np.exp((lowest - h) / 0.006) for h in heights))


def solve(clips: Clips) -> np.ndarray:
    "Joints (clips, frames, 22, 3) of planned feet, pelvis, spine and arms. Bone lengths are exact."
    joints, bones = np.zeros((*clips.t.shape, 22, 3)), clips.performer.bones
    ankles, toes = place_feet(clips)
    heading = clips.yaw + clips.hip_turn
    pelvis = rotation_matrix(1, heading) @ rotation_matrix(0, clips.hip_pitch) @ rotation_matrix(2, clips.hip_roll)
    hips = [bone_along(pelvis, [sign * 0.58, -0.8, -0.1], bones[1 + side]) for side, sign in enumerate((1, -1))]
    height = pelvis_height(clips, hips, ankles)
    root = np.stack([clips.position[..., 0], height, clips.position[..., 1]], -1)
    joints[..., 0, :] = root
    for side in range(2):
        hip = root + hips[side]
        yaw = 0.5 * (heading + clips.foot_yaw[side])
        knee = solve_knee(hip, ankles[side], yaw, bones[4 + side], bones[7 + side])
        for joint, place in zip((1, 4, 7, 10), (hip, knee, ankles[side], toes[side]), strict=True):
            joints[..., joint + side, :] = place
    third = rotation_matrix(1, clips.twist / 3) @ rotation_matrix(0, clips.pitch / 3) @ rotation_matrix(2, clips.roll / 3)
    place, frame = root, pelvis
    for joint, lean in ((3, -0.06), (6, -0.02), (9, 0.05)):
        place = place + bone_along(frame, [0.0, 1.0, lean], bones[joint])
        frame = frame @ third
        joints[..., joint, :] = place
    joints[..., 12, :] = place + bone_along(frame, [0.0, 1.0, -0.08], bones[12])
    head = frame @ rotation_matrix(1, clips.look_left) @ rotation_matrix(0, clips.look_down)
    joints[..., 15, :] = joints[..., 12, :] + bone_along(head, [0.0, 0.87, 0.5], bones[15])
    for side in range(2):
        for joint, where in zip((13, 16, 18, 20), pose_arm(clips, side, frame, place), strict=True):
            joints[..., joint + side, :] = where
    return joints
