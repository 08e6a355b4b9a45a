"""Sentences of the second corpus, in the manner of KIT-ML: short, a capital and a full stop, counts, nouns for what is done."""

import numpy as np

from .captions import conjugate, gerund, split_side, third_person


def _table(text: str) -> dict[str, tuple[list[str], list[str]]]:
    "Rows 'name: verb; verb | noun; noun', where an indented line goes on with the row above."
    rows = text.strip().replace("\n    ", " ").splitlines()
    parts = {name: rest.split("|") for name, rest in (row.split(":", 1) for row in rows)}
    return {name: tuple([one.strip() for one in part.split(";")] for part in both) for name, both in parts.items()}


# what a verb and what "performs" or "makes" goes on with
_PHRASES = _table("""
stand: stand upright; stand at one place; do not move; rest on both feet | a pause; a short rest
walk-forward: walk forwards; go forwards; make some steps forwards; walk on; go straight | a walk straight on; several
    steps ahead
walk-backward: walk backwards; go backwards; make some steps backwards; retreat | several steps to the back; a walk
    in reverse direction
run: run forwards; jog; sprint; run some metres | a run; a jog straight on
sidestep: sidestep to the {side}; go sideways to the {side}; make side steps to the {side}; move over to the {side} |
    steps to the {side} side; a sidestep to the {side}
turn: turn on the spot to the {side}; turn {clock}; rotate {clock}; turn around to the {side} | a turn to the {side};
    a {clock} turn
circle: walk a {side} curve; go in a circle {clock}; walk a bend to the {side}; walk a quarter circle {clock} | a {side}
    curve; a walk in a circle {clock}
jump: jump; jump on the spot; jump upwards; hop with both legs | a jump; a jump on the spot
jump-forward: jump forwards; jump to the front; leap some distance | a jump to the front; a far jump
squat: crouch down; go into the knees; squat down and stand up; bend both knees | a squat; a knee bend
bow: bow; bow down; bend the upper body to the front; take a bow | a bow; a polite bow
lean: lean over to the {side}; bend the upper body to the {side} side; tilt to the {side} | a bend to the {side} side; a
    lean to the {side}
kneel: kneel down; go down on one knee; lower one knee to the floor | a kneeling motion; a genuflection
kick: kick with the {side} foot; kick something with the {side} leg; kick a ball with the {side} foot | a kick with the
    {side} foot; a {side} footed kick
lift-knee: lift the {side} leg; raise the {side} knee; stand on the {other} leg with the {side} knee lifted | a lift of
    the {side} leg; a high {side} knee
pick-up: pick something up from the ground; grab an object from the floor; bend over and pick up a thing | a pick up
    from the ground; a grasp to the floor
raise-arm: raise the {side} arm; lift the {side} hand over the head; hold the {side} arm up | a lift of the {side} arm; a
    sign with the {side} arm held up
raise-both-arms: raise both arms; lift both hands over the head; hold both arms up | a lift of both arms; a cheer with
    both arms up
wave: wave with the {side} hand; wave with the {side} arm; greet with the {side} hand | a wave with the {side} hand; a
    {side} handed greeting
punch: punch with the {side} fist; box with the {side} arm; hit something with the {side} hand | a {side} punch; a
    blow with the {side} fist
point: point to the front with the {side} arm; stretch the {side} arm forwards; show something with the {side} hand | a
    pointing gesture with the {side} arm; a stretch of the {side} arm to the front
clap: clap; clap both hands; applaud | an applause; a few claps
jog-in-place: jog on the spot; run on one place; run without moving on | a jog on the spot; a run on one place
push: push something away with both hands; push forwards with both arms; shove an object to the front | a push with both
    hands; a shove to the front
box: box with both fists; punch left and right; fight with the fists | some punches left and right; a combination of punches
stretch: squat down and reach up with both arms; bend both knees with the arms up; stretch both arms up out of a
    crouch | a squat with both arms up; an exercise with arms and knees
balance: balance on the {other} leg; stand on the {other} leg with the arms out; balance on one leg with the {side} knee
    up | a balance on the {other} leg; a one legged stand on the {other} foot
overhead-clap: clap over the head; clap both hands above the head; applaud with the arms up | some claps over the head; an
    overhead applause
""")

_PEOPLE = "A person; A human; Someone; A person; The person; The human; A subject; A man; One person".split("; ")
_SLOW = "slowly; with slow speed; at a low speed; rather slow; carefully".split("; ")
_FAST = "quickly; with high speed; at a high speed; rather fast; hastily".split("; ")
_CLOCK = {"left": "counter clockwise", "right": "clockwise", "": ""}
_PAST = {
    **{"go": "went", "run": "ran", "make": "made", "stand": "stood", "bend": "bent", "take": "took", "hold": "held"},
    **{"kneel": "knelt", "leap": "leapt", "hit": "hit", "do": "did", "show": "showed", "fight": "fought", "shove": "shoved"},
}
_DOUBLED = {"jog", "clap", "grab", "squat", "hop", "hit"}
_GOING = _DOUBLED | {"run"}


def past(verb: str) -> str:
    if verb in _PAST:
        return _PAST[verb]
    if verb in _DOUBLED:
        return f"{verb}{verb[-1]}ed"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + ("d" if verb.endswith("e") else "ed")


def _running(verb: str) -> str:
    return f"{verb}{verb[-1]}ing" if verb in _GOING else gerund(verb)


def _verb_ing(phrase: str) -> str:
    return "not moving" if phrase == "do not move" else conjugate(phrase, _running)


def write_terse_caption(rng: np.random.Generator, actions: tuple[str, ...], speed: int) -> str:
    "One sentence for one label, or for a base label and an arm label; `speed` -1 slow, 0, 1 fast."

    def pick(options: list):
        return options[int(rng.integers(len(options)))]

    subject, verbs, nouns = pick(_PEOPLE), [], []
    for action in actions:
        stem, side = split_side(action)
        other = {"left": "right", "right": "left"}.get(side, "")
        for found, options in zip((verbs, nouns), _PHRASES[stem], strict=True):
            found.append(pick(options).format(side=side, other=other, clock=_CLOCK[side]))
    manner = pick(_SLOW if speed < 0 else _FAST) if speed and rng.random() < 0.6 and actions[0] != "stand" else ""
    tail, kind = f" {manner}" if manner else "", int(rng.integers(6))
    if len(actions) == 1:
        return [
            f"{subject} {conjugate(verbs[0], third_person)}{tail}.",
            f"{subject} {conjugate(verbs[0], past)}{tail}.",
            f"{subject} is {_verb_ing(verbs[0])}{tail}.",
            f"{subject} performs {nouns[0]}{tail}.",
            f"{subject.split()[-1]} {_verb_ing(verbs[0])}{tail}",
            f"{subject} does {nouns[0]}{tail}.",
        ][kind]
    one, two, other = (conjugate(verbs[0], third_person), conjugate(verbs[1], third_person), _verb_ing(verbs[1]))
    ways = [
        f"{subject} {one}{tail} and {two}.",
        f"{subject} {one}{tail} and {two} meanwhile.",
        f"{subject} {one} while {other}{tail}.",
        f"{subject} performs {nouns[0]} and {nouns[1]}{tail}.",
        f"{subject} {conjugate(verbs[0], past)} and {conjugate(verbs[1], past)}{tail}.",
        f"{subject.split()[-1]} {_verb_ing(verbs[0])} and {other}{tail}",
    ]
    return ways[kind]
