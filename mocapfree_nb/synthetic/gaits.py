"""Scripts of the legs: footsteps planned along a path, gaits made of them, jumps and hops."""

from collections.abc import Callable

import numpy as np

from .kinematics import Clips, ease, pulse, to_world


def plan_path(clips: Clips, rates: tuple) -> Callable:
    """Integrate (ahead, aside, turning) into a function of time: heading (clips, n) and place (clips, n, 2).

    Rates are metres or radians a second: numbers, (clips, 1) arrays, or functions of time. The path
    reaches 2.5 s beyond both ends of the clip, for footprints that lie outside it.
    """
    fps, frames = clips.performer.fps, clips.t.shape[1]
    pad = int(2.5 * fps)
    times = np.broadcast_to(np.arange(-pad, frames + pad) / fps, (clips.size, frames + 2 * pad))
    ahead, aside, turning = (np.broadcast_to(f(times) if callable(f) else f, times.shape) for f in rates)
    yaw = np.cumsum(turning, 1) / fps
    yaw = yaw - yaw[:, pad : pad + 1]
    path = np.cumsum(to_world(yaw, aside, ahead), 1) / fps
    path = path - path[:, pad : pad + 1]
    rows = np.arange(clips.size)[:, None]

    def at(when: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.clip(when * fps + pad, 0, times.shape[1] - 1.001)
        low = place.astype(int)
        part = place - low
        heading = yaw[rows, low] * (1 - part) + yaw[rows, low + 1] * part
        part = part[..., None]
        return heading, path[rows, low] * (1 - part) + path[rows, low + 1] * part

    clips.position += path[:, pad:-pad]
    clips.yaw += yaw[:, pad:-pad]
    return at


def plan_steps(
    clips: Clips, ahead, aside, turning, step_time, duty=0.6, lift=0.07, knee=None, roll=0.55, width=None
):
    "Plan footsteps along a path; each foot is exactly still while it stands. Rates as in `plan_path`."
    at = plan_path(clips, (ahead, aside, turning))
    heading = clips.yaw.copy()
    cycle, phase = 2.0 * step_time, clips.uniform(0.0, 1.0)
    width = clips.width if width is None else width
    swing = []
    for side, sign in enumerate((1.0, -1.0)):
        beat = clips.t / cycle + phase + 0.5 * side
        count = np.floor(beat)
        part = beat - count  # 0..duty: stands, duty..1: swings
        middle = clips.t + (count + duty / 2 - beat) * cycle
        turns, prints = zip(*(at(when) for when in (middle, middle + cycle)), strict=True)
        prints = [p + to_world(h, sign * width, -0.03) for h, p in zip(turns, prints, strict=True)]
        going = np.clip((part - duty) / (1 - duty), 0.0, 1.0)
        slide = np.clip((going - 0.08) / 0.84, 0.0, 1.0)  # lift first, then swing, then set down
        move = slide**2 * (3.0 - 2.0 * slide)
        step = np.linalg.norm(prints[1] - prints[0], axis=-1) + 0.35 * np.abs(turns[1] - turns[0])
        share = np.tanh(step / 0.25)
        clips.foot[side] = prints[0] + move[..., None] * (prints[1] - prints[0])
        clips.foot_yaw[side] = turns[0] + move * (turns[1] - turns[0]) + sign * clips.toe_out
        bump = np.sin(np.pi * going) ** (1 if knee is None else 2)
        if knee is None:
            clips.lift[side] = lift * share * bump
        else:
            clips.lift[side] = lift * bump
            clips.foot[side] += bump[..., None] * to_world(heading, 0.0, knee)
        push = ease(part, duty - 0.2, duty) - ease(part, duty, 1.0 - 0.3 * (1 - duty))
        land = ease(part, 1.0 - 0.5 * (1 - duty), 1.0) * (part < 1)
        land = land + (1 - ease(part, 0.0, 0.08)) * (part < duty)
        clips.foot_pitch[side] = share * (roll * push - 0.35 * roll * land)
        swing.append(np.cos(2 * np.pi * (part - duty / 2 - 0.5)) * share)  # 1 while this foot swings
    clips.beat = beat
    clips.stride = np.cos(2 * np.pi * (clips.t / cycle + phase + 0.12)) * np.tanh(step / 0.4)
    for side, sign in enumerate((1.0, -1.0)):
        clips.position += 0.018 * swing[1 - side][..., None] * to_world(heading, sign, 0.0)
    clips.hip_roll += 0.03 * (swing[0] - swing[1])


def swing_arms(clips: Clips, size: np.ndarray, bend: np.ndarray) -> None:
    "Arms go with the opposite leg; shoulders turn against the hips."
    for side, sign in enumerate((1.0, -1.0)):
        clips.arm[side, ..., 4] -= sign * size * clips.stride
        clips.arm[side, ..., 2] += bend + 0.35 * size * np.maximum(-sign * clips.stride, 0.0)
    clips.hip_turn -= 0.09 * clips.stride
    clips.twist += 0.2 * clips.stride


def speed_ramp(clips: Clips, speed: np.ndarray) -> Callable:
    "A speed that is steady, or starts from rest, or comes to rest."
    kind = clips.rng.random((clips.size, 1))
    start, stop = clips.uniform(0.0, 0.15), clips.end - clips.uniform(0.55, 0.7)

    def at(t: np.ndarray) -> np.ndarray:
        go = np.where(kind < 0.25, ease(t, start, start + 0.5), 1.0)
        return speed * np.where(kind > 0.8, go * (1 - ease(t, stop, stop + 0.5)), go)

    return at


def walk(clips: Clips, direction: float = 1.0) -> None:
    speed = direction * (1.15 if direction > 0 else 0.8) * clips.tempo * clips.uniform(0.92, 1.08)
    curve = clips.uniform(-0.12, 0.12)
    step = clips.uniform(0.48, 0.55) * clips.tempo**-0.75
    plan_steps(
        clips,
        speed_ramp(clips, speed),
        0.0,
        curve,
        step,
        0.58,
        clips.uniform(0.08, 0.12),
        roll=0.4 + 0.25 * speed if direction > 0 else 0.15,
    )
    swing_arms(
        clips,
        np.minimum(clips.uniform(0.15, 0.45) * np.abs(speed), 0.55) * direction,
        clips.uniform(0.0, 0.2),
    )
    clips.pitch += 0.04 * speed


def run(clips: Clips) -> None:
    speed = 2.75 * np.sqrt(clips.tempo) * clips.uniform(0.95, 1.08)
    step = clips.uniform(0.33, 0.37) * clips.tempo**-0.2
    plan_steps(
        clips,
        speed,
        0.0,
        clips.uniform(-0.08, 0.08),
        step,
        0.36,
        clips.uniform(0.2, 0.3),
        roll=0.9,
        width=0.7 * clips.width,
    )
    clips.drop += 0.05
    clips.air += 0.025 * np.cos(4 * np.pi * (clips.beat - 0.43))  # highest between two stances
    swing_arms(clips, clips.uniform(0.55, 0.8), clips.uniform(1.1, 1.5))
    clips.hip_pitch += 0.12
    clips.pitch += 0.08


def sidestep(clips: Clips, side: int) -> None:
    speed = 0.55 * clips.tempo * clips.uniform(0.92, 1.1)
    step = clips.uniform(0.44, 0.5) * clips.tempo**-0.5
    width = 0.5 * (speed * step + 0.13)
    plan_steps(
        clips,
        0.0,
        speed_ramp(clips, speed if side == 0 else -speed),
        0.0,
        step,
        0.56,
        clips.uniform(0.08, 0.12),
        roll=0.12,
        width=width,
    )
    clips.drop += clips.uniform(0.01, 0.05)


def turn_round(clips: Clips, side: int) -> None:
    angle = np.radians(clips.uniform(75.0, 155.0))
    take = np.minimum(angle / np.radians(90.0) * 1.15 / clips.tempo, clips.end - 0.25)
    start = clips.uniform(0.05, 1.0) * (clips.end - take - 0.1).clip(0.05, 0.35)
    sign = 1.0 if side == 0 else -1.0

    def rate(t: np.ndarray) -> np.ndarray:
        u = np.clip((t - start) / take, 0.0, 1.0)
        return sign * angle / take * 30.0 * u**2 * (1 - u) ** 2

    plan_steps(
        clips,
        0.0,
        0.0,
        rate,
        clips.uniform(0.36, 0.44) * clips.tempo**-0.4,
        0.56,
        clips.uniform(0.07, 0.11),
        roll=0.2,
    )
    clips.look_left += 0.15 * rate(clips.t)
    clips.twist += 0.12 * rate(clips.t)
    clips.detail = ["around" if a > np.radians(125) else "" for a in angle[:, 0]]


def circle(clips: Clips, side: int) -> None:
    speed = 1.1 * clips.tempo * clips.uniform(0.95, 1.05)
    angle = np.radians(clips.uniform(110.0, 160.0))
    rate = angle / clips.end * (1.0 if side == 0 else -1.0)
    plan_steps(
        clips,
        speed,
        0.0,
        rate,
        clips.uniform(0.47, 0.53) * clips.tempo**-0.75,
        0.58,
        clips.uniform(0.08, 0.12),
    )
    swing_arms(clips, np.minimum(clips.uniform(0.15, 0.45) * speed, 0.5), clips.uniform(0.0, 0.2))
    clips.hip_roll -= 0.05 * rate
    clips.look_left += 0.15 * rate


def march(clips: Clips) -> None:
    step = clips.uniform(0.43, 0.48) * clips.tempo**-0.7
    plan_steps(
        clips,
        clips.uniform(-0.03, 0.05),
        0.0,
        0.0,
        step,
        0.52,
        clips.uniform(0.26, 0.36),
        knee=clips.uniform(0.2, 0.3),
        roll=0.3,
    )
    left, right = clips.lift / clips.lift.max((0, 2), keepdims=True).clip(0.01)
    clips.stride = left - right
    swing_arms(clips, clips.uniform(0.35, 0.65), clips.uniform(0.1, 0.9))


def jump(clips: Clips, forward: bool = False) -> None:
    crouch, flight = 0.42 / clips.tempo, 0.36 + 0.1 * clips.uniform(0.0, 1.0)
    start = clips.uniform(0.05, 0.25)
    off = start + crouch
    land = off + flight
    deep = clips.uniform(0.16, 0.26)
    go = np.clip((clips.t - off) / flight, 0.0, 1.0)
    high = 9.81 * flight**2 / 8.0 * clips.uniform(0.95, 1.25)
    clips.air += 4.0 * high * go * (1 - go)
    dip = pulse(clips.t, start, off - 0.14, off - 0.14, off + 0.03)
    sink = pulse(clips.t, land - 0.04, land + 0.14, land + 0.16, land + 0.55)
    clips.drop += deep * dip + 0.75 * deep * sink
    length = clips.uniform(0.45, 0.85) if forward else clips.uniform(-0.04, 0.04)
    move = length * ease(clips.t, off - 0.05, land + 0.03)
    travel = 0.5 * move + 0.5 * length * ease(clips.t, off - 0.12, land + 0.1)
    clips.position[..., 1] += travel - 0.08 * deep / 0.2 * (dip + sink)
    step = length * np.clip((go - 0.02) / 0.96, 0, 1)
    step = length * ease(go, 0.0, 1.0) if forward else step
    for side in range(2):
        clips.foot[side][..., 1] += step
        clips.lift[side] += (4.0 * high * go * (1 - go) * 0.92 + 0.1 * np.sin(np.pi * go) ** 2).clip(0)
        clips.foot_pitch[side] += 0.7 * pulse(clips.t, off - 0.1, off + 0.02, off + 0.1, land - 0.03)
        swing = clips.uniform(0.6, 1.0)
        clips.arm[side, ..., 4] += swing * (-0.8 * dip + 1.0 * np.sin(np.pi * go) ** 2) + 0.25 * sink
        clips.arm[side, ..., 2] += 0.4 * dip + 0.5 * np.sin(np.pi * go) ** 2
    lean = clips.uniform(0.25, 0.5)
    clips.hip_pitch += 0.6 * lean * (dip + sink)
    clips.pitch += 0.7 * lean * (dip + 0.8 * sink) - 0.1 * np.sin(np.pi * go)
    tall = high[:, 0] > 0.25
    clips.detail = [
        "high" if h and not forward else ("far" if forward and far else "")
        for h, far in zip(tall, np.broadcast_to(length, (clips.size, 1))[:, 0] > 0.68, strict=True)
    ]


def hop(clips: Clips, side: int) -> None:
    sign, other = (1.0, 1) if side == 0 else (-1.0, 0)
    ready = clips.uniform(0.3, 0.4)
    period = clips.uniform(0.44, 0.5) * clips.tempo**-0.35
    flight = clips.uniform(0.5, 0.58) * period
    beat = (clips.t - ready) / period
    count = np.floor((clips.end - 0.05 - ready) / period)
    on = (beat >= 0) & (beat < count)
    part = np.where(on, beat - np.floor(beat), 0.0) * period
    go = np.clip((part - (period - flight)) / flight, 0.0, 1.0) * on
    high = clips.uniform(0.1, 0.16)
    up = 4.0 * high * go * (1 - go)
    dip = np.sin(np.pi * np.clip(part / (period - flight), 0, 1)) ** 2 * on
    clips.air += up
    clips.drop += 0.07 * dip + 0.02
    each = clips.uniform(-0.02, 0.2)
    done = np.clip(np.floor(beat), 0, count)
    clips.foot[side][..., 1] += each * (done + ease(go, 0.0, 1.0) * on)
    clips.lift[side] += 0.95 * up
    clips.foot_pitch[side] += 0.6 * np.sin(np.pi * go)
    drift = each * np.clip(beat - 0.3, 0, count)
    clips.position[..., 1] += drift
    raised = ease(clips.t, clips.uniform(-0.25, -0.05), ready - 0.02)
    clips.position[..., 0] += sign * 0.75 * clips.width * ease(clips.t, -0.2, ready)
    back = clips.uniform(-0.28, 0.12)
    clips.foot[other][..., 1] += drift + back * raised
    clips.lift[other] += clips.uniform(0.24, 0.36) * raised + up
    clips.foot_pitch[other] += (0.5 - back) * raised
    clips.roll += sign * 0.08 * raised
    clips.pitch += 0.1 * raised
    for arm in range(2):
        clips.arm[arm, ..., 0] += clips.uniform(0.1, 0.45) * raised + 0.15 * dip
        clips.arm[arm, ..., 2] += clips.uniform(0.3, 0.9) * raised
    clips.detail = [{2: "twice", 3: "three times"}.get(int(k), "") for k in count[:, 0]]
