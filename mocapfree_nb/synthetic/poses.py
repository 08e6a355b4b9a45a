"""Scripts of the standing body and of the arms: timed visits to poses."""

import numpy as np

from .kinematics import Clips, ease, move_arm, pulse, rest_arm


def down_and_up(clips: Clips, down: float, hold: float, up: float) -> np.ndarray:
    "A slow-in slow-out visit: 0, 1 for a while, 0."
    down, hold, up = down / clips.tempo, hold / clips.tempo * clips.uniform(0.6, 1.6), up / clips.tempo
    total = down + hold + up
    start = clips.uniform(0.0, 1.0) * (clips.end - 0.1 - total).clip(0.02, 0.4)
    squeeze = np.minimum(1.0, (clips.end - 0.08 - start) / total)
    a, b = start + down * squeeze, start + (down + hold) * squeeze
    return pulse(clips.t, start, a, b, start + total * squeeze)


def squat(clips: Clips) -> None:
    weight = down_and_up(clips, 0.6, 0.15, 0.6)
    deep = clips.uniform(0.34, 0.46)
    clips.drop += deep * weight
    clips.position[..., 1] -= clips.uniform(0.1, 0.16) * weight
    upright = 0.45 if clips.paired else 1.0
    clips.hip_pitch += upright * clips.uniform(0.3, 0.45) * weight
    clips.pitch += upright * clips.uniform(0.15, 0.35) * weight
    clips.look_down -= 0.3 * weight
    for side, sign in enumerate((1.0, -1.0)):
        clips.foot[side][..., 0] += sign * clips.uniform(0.03, 0.06)
        clips.foot_yaw[side] += sign * 0.15
    reach = clips.uniform(0.2, 1.0) * (not clips.paired)
    for side in range(2):
        move_arm(clips, side, weight * reach, [85, 12, 15, 20, 0])
    clips.detail = ["deep" if d > 0.41 else "" for d in deep[:, 0]]


def bow(clips: Clips) -> None:
    weight = down_and_up(clips, 0.55, 0.35, 0.55)
    angle = np.radians(clips.uniform(55.0, 82.0))
    share = clips.uniform(0.5, 0.65)
    clips.hip_pitch += share * angle * weight
    clips.pitch += (1 - share) * angle * weight
    clips.look_down += 0.2 * weight
    clips.position[..., 1] -= 0.13 * weight
    hang = clips.uniform(0.0, 0.45)
    for side in range(2):
        clips.arm[side, ..., 4] += hang * angle * weight
    clips.detail = ["deep" if a > np.radians(72) else "" for a in angle[:, 0]]


def lean(clips: Clips, side: int) -> None:
    sign = 1.0 if side == 0 else -1.0
    weight = down_and_up(clips, 0.5, 0.5, 0.5)
    angle = np.radians(clips.uniform(30.0, 46.0))
    clips.roll -= sign * 0.8 * angle * weight
    clips.hip_roll -= sign * 0.2 * angle * weight
    clips.position[..., 0] -= sign * 0.05 * weight
    clips.arm[side, ..., 0] += 0.55 * angle * weight
    clips.arm[1 - side, ..., 0] -= 0.1 * angle * weight
    clips.detail = ["far" if a > np.radians(40) else "" for a in angle[:, 0]]


def kneel(clips: Clips) -> None:
    front = clips.rng.integers(0, 2, (clips.size, 1))
    take = np.minimum(1.15 / clips.tempo, clips.end - 0.3)
    start = clips.uniform(0.0, 0.15)
    stop = start + take
    step = ease(clips.t, start, start + 0.6 * take)
    sink = ease(clips.t, start + 0.25 * take, stop)
    stride = clips.uniform(0.68, 0.78)
    going = np.clip((clips.t - start) / (0.6 * take), 0.0, 1.0)
    for side in range(2):
        ahead = (front == side) * 1.0
        clips.foot[side][..., 1] += ahead * stride * step
        clips.lift[side] += ahead * 0.1 * np.sin(np.pi * going) ** 2
        clips.foot_pitch[side] += (1 - ahead) * 0.75 * ease(clips.t, start + 0.2 * take, stop)
        move_arm(
            clips, side, sink * clips.uniform(0.6, 1.0), [18 + 22 * ahead, 25, 50 - 10 * ahead, 35, 0], 3.0
        )
    clips.position[..., 1] += (0.62 * stride) * ease(clips.t, start + 0.05, stop)
    clips.drop += (0.455 - clips.drop) * sink
    clips.pitch += clips.uniform(0.0, 0.15) * sink
    clips.hip_pitch += 0.3 * pulse(clips.t, start, start + 0.5 * take, start + 0.5 * take, stop)
    clips.detail = ["on the right knee" if f == 0 else "on the left knee" for f in front[:, 0]]


def sit(clips: Clips) -> None:
    take = np.minimum(1.05 / clips.tempo, clips.end - 0.35)
    start = clips.uniform(0.0, 0.25)
    stop = start + take
    sink = ease(clips.t, start, stop)
    clips.position[..., 1] -= clips.uniform(0.34, 0.4) * sink
    clips.drop += (clips.uniform(0.42, 0.47) - clips.drop) * sink
    bend = pulse(clips.t, start, start + 0.55 * take, start + 0.6 * take, stop + 0.25)
    clips.hip_pitch += 0.5 * bend - clips.uniform(0.0, 0.12) * sink
    clips.pitch += 0.3 * bend
    rest = clips.uniform(0.7, 1.0)
    for side in range(2):
        move_arm(clips, side, sink * rest, [28, 25, 55, 20, 0])


def twist(clips: Clips) -> None:
    period = 1.25 / clips.tempo * clips.uniform(0.9, 1.1)
    sign = np.where(clips.chance(0.5), 1.0, -1.0)
    envelope = pulse(clips.t, 0.05, 0.4, clips.end - 0.3, clips.end)
    wave = sign * np.sin(2 * np.pi * (clips.t - 0.1) / period) * envelope
    angle = np.radians(clips.uniform(42.0, 58.0))
    clips.twist += 0.85 * angle * wave
    clips.hip_turn += 0.15 * angle * wave
    clips.look_left -= 0.2 * angle * wave
    held = clips.uniform(0.1, 1.0) * (clips.rng.random((clips.size, 1)) < 0.6)
    for side in range(2):
        move_arm(clips, side, held * ease(clips.t, 0.0, 0.4), [55, 40, 95, 45, 0])


def pick_up(clips: Clips) -> None:
    weight = down_and_up(clips, 0.65, 0.12, 0.65)
    deep = clips.uniform(0.3, 0.42)
    angle = np.radians(clips.uniform(78.0, 90.0)) + 0.35 * (0.36 - deep)
    clips.drop += deep * weight
    clips.position[..., 1] -= clips.uniform(0.15, 0.2) * weight
    clips.hip_pitch += 0.62 * angle * weight
    clips.pitch += 0.38 * angle * weight
    clips.look_down -= 0.15 * weight
    which = clips.rng.integers(0, 3, (clips.size, 1))  # left hand, right hand, both
    top = clips.t[0][weight.argmax(1)][:, None]
    after = ease(clips.t, top + 0.1, top + 0.6)
    for side, sign in enumerate((1.0, -1.0)):
        clips.foot[side][..., 0] += sign * 0.04
        used = ((which == side) | (which == 2)) * 1.0
        move_arm(clips, side, weight * used, [np.degrees(angle), 4, 5, 10, 0], 3.0)
        move_arm(clips, side, after * used * (1 - weight), [25, 20, 75, 30, 0])
        move_arm(clips, side, weight * (1 - used), [35, 30, 25, 30, 0])
    names = ["with the left hand", "with the right hand", "with both hands"]
    clips.detail = [names[k] for k in which[:, 0]]


def kick(clips: Clips, side: int) -> None:
    sign = 1.0 if side == 0 else -1.0
    back, out, home = 0.34 / clips.tempo, 0.36 / clips.tempo**0.5, 0.52 / clips.tempo
    start = clips.uniform(0.02, 0.25)
    high = np.radians(clips.uniform(58.0, 88.0))
    wind = pulse(clips.t, start, start + back, start + back, start + back + 0.5 * out)
    hit = pulse(
        clips.t, start + back - 0.05, start + back + out, start + back + out + 0.05, start + back + out + home
    )
    angle = high * hit - 0.35 * wind
    radius = 0.8
    clips.foot[side][..., 1] += radius * np.sin(angle) * 0.99
    bent = 0.1 * wind + 0.12 * np.sin(np.pi * np.clip(hit, 0, 1)) ** 2
    clips.lift[side] += radius * (1 - np.cos(angle)) * 0.99 + bent * np.minimum(1.0, 4 * np.abs(angle))
    clips.lift[side] += 0.07 * pulse(
        clips.t, start, start + 0.12, start + back + out + home - 0.15, start + back + out + home
    )
    clips.foot_pitch[side] += 0.8 * wind - 0.75 * np.maximum(angle, 0.0)
    lean = clips.uniform(0.1, 0.22)
    on = ease(clips.t, start - 0.1, start + back) - ease(
        clips.t, start + back + out + 0.2, start + back + out + home + 0.1
    )
    clips.position[..., 0] -= sign * 0.7 * clips.width * on
    clips.hip_pitch -= lean * hit
    clips.pitch += 0.2 * wind + 0.5 * lean * hit
    clips.hip_turn -= sign * 0.15 * hit - sign * 0.1 * wind
    for arm in range(2):
        clips.arm[arm, ..., 0] += clips.uniform(0.15, 0.55) * on
        clips.arm[arm, ..., 2] += clips.uniform(0.1, 0.6) * on
        clips.arm[arm, ..., 4] += (0.4 if arm != side else -0.35) * hit
    clips.detail = ["high" if h > np.radians(76) else "" for h in high[:, 0]]


def lift_knee(clips: Clips, side: int) -> None:
    sign = 1.0 if side == 0 else -1.0
    weight = down_and_up(clips, 0.5, 0.45, 0.5)
    high = clips.uniform(0.36, 0.52)
    clips.foot[side][..., 1] += clips.uniform(0.24, 0.34) * weight
    clips.lift[side] += high * weight
    clips.foot_pitch[side] += clips.uniform(0.0, 0.5) * weight
    clips.position[..., 0] -= sign * 0.75 * clips.width * ease(weight, 0.0, 0.7)
    clips.hip_pitch -= 0.06 * weight
    clips.roll += sign * 0.05 * weight
    for arm in range(2):
        clips.arm[arm, ..., 0] += clips.uniform(0.0, 0.35) * weight
        clips.arm[arm, ..., 2] += clips.uniform(0.0, 0.5) * weight
    clips.detail = ["high" if h > 0.45 else "" for h in high[:, 0]]


def stand_still(clips: Clips) -> None:
    clips.position[..., 0] += clips.wobble(0.008)
    clips.look_left += clips.wobble(0.12)


def raise_arms(clips: Clips, sides: tuple[int, ...]) -> None:
    rise = 0.75 / clips.tempo
    start = clips.uniform(0.03, 0.3)
    top = start + rise
    fall = top + clips.uniform(0.45, 0.7)
    lowers = clips.chance(0.5) & (fall + 0.35 < clips.end)
    front = clips.chance(0.5)
    plane = np.where(front, 12.0, 84.0)
    high = clips.uniform(164.0, 178.0)
    down = ease(clips.t, fall, fall + np.minimum(0.6, clips.end - fall + 0.1)) * lowers
    for side in sides:
        before = clips.arm[side].copy()
        lag = clips.uniform(-0.03, 0.03) * (len(sides) > 1)
        move_arm(clips, side, ease(clips.t, start + lag, top + lag), [high, plane, 8, 20, 0])
        rest_arm(clips, side, down, before)
    clips.look_down -= clips.uniform(0.0, 0.25) * ease(clips.t, start, top)
    if len(sides) == 1:
        clips.roll += (0.06 if sides[0] == 0 else -0.06) * ease(clips.t, start, top) * (1 - down)
    clips.detail = ["to the front" if f else "sideways" for f in front[:, 0]]


def wave(clips: Clips, side: int) -> None:
    rise = 0.42 / clips.tempo**0.5
    start = clips.uniform(0.0, 0.2)
    rate = 1.9 * clips.tempo * clips.uniform(0.9, 1.1)
    weight = ease(clips.t, start, start + rise)
    beat = np.sin(2 * np.pi * rate * (clips.t - start - rise)) * ease(
        clips.t, start + 0.6 * rise, start + rise + 0.1
    )
    size = clips.uniform(20.0, 34.0)
    move_arm(clips, side, weight, [clips.uniform(78, 112), clips.uniform(62, 85), 88 + size * beat, 0, 0])
    clips.roll += (0.03 if side == 0 else -0.03) * weight


def punch(clips: Clips, side: int) -> None:
    ready, out, back = 0.3 / clips.tempo**0.5, 0.22 / clips.tempo**0.6, 0.26 / clips.tempo**0.6
    start = clips.uniform(0.0, 0.15)
    wait = clips.uniform(0.02, 0.12)
    cycle = out + back + wait
    first = start + ready
    count = np.clip(np.floor((clips.end - first - 0.02) / cycle), 1, 3)
    count = np.where(clips.chance(0.35), 1.0, count)
    guard = ease(clips.t, start, first)
    part = np.mod(clips.t - first, cycle)
    on = (clips.t >= first) & (clips.t < first + count * cycle)
    hit = pulse(part, 0.0, out, out, out + back) * on
    move_arm(clips, side, guard, [22, 30, 118, 12, -20], 3.0)
    move_arm(clips, side, hit, [86, -6, 6, 10, 0], 3.0)
    move_arm(clips, 1 - side, guard * clips.uniform(0.0, 1.0), [28, 20, 122, 25, 0])
    turn = (-1.0 if side == 0 else 1.0) * clips.uniform(0.15, 0.35)
    clips.twist += turn * (hit - 0.35 * guard)
    clips.pitch += 0.08 * hit
    clips.detail = [{1: "once", 2: "twice", 3: "three times"}[int(k)] for k in count[:, 0]]


def throw(clips: Clips, side: int) -> None:
    wind, hold, out = 0.55 / clips.tempo, 0.06, 0.38 / clips.tempo**0.4
    start = clips.uniform(0.0, 0.2)
    cocked, release = start + wind, start + wind + hold + out
    before = clips.arm[side].copy()
    turn = -1.0 if side == 0 else 1.0
    move_arm(clips, side, ease(clips.t, start, cocked), [102, 112, 92, 0, 0])
    move_arm(clips, side, ease(clips.t, cocked + hold, release), [74, -8, 8, 10, 0])
    move_arm(clips, side, ease(clips.t, release - 0.08, release + 0.3), [34, -28, 15, 10, 0])
    rest_arm(clips, side, 0.8 * ease(clips.t, release + 0.3, release + 0.9), before)
    back, forth = ease(clips.t, start, cocked), ease(clips.t, cocked, release)
    clips.twist += turn * (-0.5 * back + 0.95 * forth - 0.4 * ease(clips.t, release + 0.1, release + 0.8))
    clips.pitch += -0.1 * back + 0.3 * forth - 0.15 * ease(clips.t, release + 0.1, release + 0.8)
    move_arm(clips, 1 - side, 0.6 * pulse(clips.t, start, cocked, cocked, release), [60, 20, 25, 20, 0])


def hold_weights(clips: Clips, rise: float) -> tuple[np.ndarray, np.ndarray]:
    "Weight of a pose that is reached and held; in some clips it is left again."
    rise = rise / clips.tempo
    start = clips.uniform(0.03, 0.3)
    fall = start + rise + clips.uniform(0.5, 0.8)
    lowers = clips.chance(0.4) & (fall + 0.3 < clips.end)
    return ease(clips.t, start, start + rise), ease(clips.t, fall, fall + 0.5) * lowers


def spread_arms(clips: Clips) -> None:
    weight, down = hold_weights(clips, 0.65)
    high = clips.uniform(80.0, 92.0)
    for side in range(2):
        before = clips.arm[side].copy()
        move_arm(clips, side, weight, [high, 88, 7, 45, 0], 3.0)
        rest_arm(clips, side, down, before)


def point(clips: Clips, side: int) -> None:
    weight, down = hold_weights(clips, 0.55)
    before = clips.arm[side].copy()
    move_arm(clips, side, weight, [clips.uniform(82.0, 97.0), 4, 5, 20, 0], 3.0)
    rest_arm(clips, side, down, before)


_TOUCH = [133.0, 60.0, 126.0, 33.0, 0.0]  # the wrist beside the top of the head
_CLAP_SHUT = [41.0, 2.0, 72.0, 48.0, 0.0]  # wrists 6 cm apart
_CLAP_OPEN = [35.0, 32.0, 76.0, 14.0, 0.0]  # wrists 72 cm apart


def touch_head(clips: Clips, side: int) -> None:
    weight, down = hold_weights(clips, 0.65)
    before = clips.arm[side].copy()
    move_arm(clips, side, weight, _TOUCH, 2.5)
    rest_arm(clips, side, down, before)
    clips.look_down += 0.08 * weight


def clap(clips: Clips) -> None:
    rate = 1.9 * clips.tempo * clips.uniform(0.92, 1.08)
    start = clips.uniform(0.0, 0.15)
    ready = start + 0.38 / clips.tempo**0.5
    weight = ease(clips.t, start, ready)
    shut = 0.5 + 0.5 * np.cos(2 * np.pi * rate * (clips.t - ready - 0.1))
    shut = shut * ease(clips.t, ready - 0.2, ready + 0.1)
    wide = clips.uniform(0.75, 1.15)
    high = clips.uniform(0.0, 14.0)
    for side in range(2):
        pose = [c + (1 - shut) * wide * (o - c) for c, o in zip(_CLAP_SHUT, _CLAP_OPEN, strict=True)]
        pose[0] = pose[0] + high
        move_arm(clips, side, weight, pose, 0.0)
