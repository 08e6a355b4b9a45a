"""The labels: which script each runs, what each means in words, which go together."""

from collections.abc import Callable

from mocapfree_nb.files import UserError

from . import gaits, poses


def _both_sides(name: str, script: Callable, text: str) -> dict:
    "A label for each side; `script(clips, side)` with side 0 on the left."
    return {
        f"{name}-{word}": ((lambda clips, s=s: script(clips, s)), text.format(word))
        for s, word in enumerate(("left", "right"))
    }

# label: (script, meaning); scripts of the legs and the trunk, then those that touch little but the arms
WHOLE_BODY = {
    "stand": (poses.stand_still, "stands still"),
    "walk-forward": (gaits.walk, "walks forward"),
    "walk-backward": (lambda clips: gaits.walk(clips, -1.0), "walks backward"),
    "run": (gaits.run, "runs forward"),
    **_both_sides("sidestep", gaits.sidestep, "steps sideways to the {}"),
    **_both_sides("turn", gaits.turn_round, "turns on the spot to the {}"),
    **_both_sides("circle", gaits.circle, "walks along a curve to the {}"),
    "march": (gaits.march, "marches on the spot with high knees"),
    "jump": (gaits.jump, "jumps up with both feet"),
    "jump-forward": (lambda clips: gaits.jump(clips, True), "jumps forward with both feet"),
    **_both_sides("hop", gaits.hop, "hops on the {} foot"),
    "squat": (poses.squat, "bends the knees, goes down and comes up again"),
    "bow": (poses.bow, "bends the trunk forward with straight legs"),
    **_both_sides("lean", poses.lean, "bends the trunk to the {}"),
    "kneel": (poses.kneel, "goes down on one knee"),
    "sit": (poses.sit, "sits down as if on a chair"),
    **_both_sides("kick", poses.kick, "kicks forward with the {} leg"),
    **_both_sides("lift-knee", poses.lift_knee, "lifts the {} knee to the hip"),
    "pick-up": (poses.pick_up, "bends down to the floor with a hand and comes up again"),
    "twist": (poses.twist, "turns the shoulders left and right over still feet"),
}

ARMS = {
    **_both_sides("raise-arm", lambda clips, s: poses.raise_arms(clips, (s,)), "raises the {} arm above the head"),
    "raise-both-arms": (lambda clips: poses.raise_arms(clips, (0, 1)), "raises both arms above the head"),
    **_both_sides("wave", poses.wave, "waves with the {} hand"),
    **_both_sides("punch", poses.punch, "punches forward with the {} fist"),
    **_both_sides("throw", poses.throw, "throws something with the {} hand"),
    **_both_sides("touch-head", poses.touch_head, "puts the {} hand to the head"),
    **_both_sides("point", poses.point, "stretches the {} arm straight forward"),
    "clap": (poses.clap, "claps the hands in front of the chest"),
    "spread-arms": (poses.spread_arms, "holds both arms out to the sides"),
}

ACTIONS: dict[str, str] = {name: text for name, (_, text) in (WHOLE_BODY | ARMS).items()}

# what the legs and the arms do in composed clips
_BASES = (
    "walk-forward",
    "walk-backward",
    "turn-left",
    "turn-right",
    "march",
    "squat",
    "circle-left",
    "circle-right",
)

_OVERLAYS = (
    "raise-arm-left",
    "raise-arm-right",
    "raise-both-arms",
    "wave-left",
    "wave-right",
    "spread-arms",
    "clap",
    "punch-left",
    "punch-right",
    "point-left",
    "point-right",
)

COMPOSED: tuple[tuple[str, str], ...] = tuple((base, arms) for base in _BASES for arms in _OVERLAYS)


def parse_labels(action: str) -> tuple[str, ...]:
    "'a' or 'a+b' as known labels; `UserError` for others."
    actions = tuple(action.split("+"))
    for name in actions:
        if name not in ACTIONS:
            raise UserError(f"no action {name!r}; known are {', '.join(ACTIONS)}, and two joined by '+'")
    if len(actions) > 2:
        raise UserError(f"{action!r} joins {len(actions)} actions; at most two can be joined by '+'")
    return actions


def parse_performable(action: str) -> tuple[str, ...]:
    "Like `parse_labels`, and of two labels the first must be one of the whole body, the second one of the arms."
    labels = parse_labels(action)
    if len(labels) == 2 and not (labels[0] in WHOLE_BODY and labels[1] in ARMS):
        raise UserError(
            f"cannot do {'+'.join(labels)!r}: join one of {', '.join(WHOLE_BODY)} with one of {', '.join(ARMS)}, in this order"
        )
    return labels
