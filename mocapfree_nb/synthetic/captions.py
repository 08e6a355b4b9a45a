"""Sentences that say what a clip does: phrases, small grammar, patterns."""

from collections.abc import Callable

import numpy as np


def _table(text: str) -> dict[str, list[str]]:
    "Rows 'name: one; two; ...', where an indented line goes on with the row above."
    rows = text.strip().replace("\n    ", " ").splitlines()
    return {name: rest.strip().split("; ") for name, rest in (row.split(":", 1) for row in rows)}


_PHRASES = _table("""
stand: stand still; stand in place; stay where {they} {are}; wait without moving; remain standing; stand
    there doing nothing; keep still; stand calmly with {their} arms hanging
walk-forward: walk forward; walk straight ahead; pace forward; step forward; walk in a straight line; go
    forward on foot; take some steps forward; walk ahead; walk; walk along; stroll ahead
walk-backward: walk backward; walk backwards; step back; back up; move backward on foot; take some steps
    back; back away; walk in reverse
run: run forward; jog ahead; run; run straight ahead; jog forward; run in a straight line; run onward;
    run along
sidestep: step sideways to the {side}; sidestep to the {side}; move {side} with side steps; shuffle to
    the {side}; take side steps to {their} {side}; step to the {side} without turning; shift to the
    {side} step by step; walk sideways to the {side}
turn: turn to the {side}; turn {side}; turn on the spot to the {side}; rotate to {their} {side}; pivot
    {side}; turn {their} body to the {side}; spin to the {side} in place; face to the {side} by turning
circle: walk in a circle to the {side}; walk along a curve to the {side}; curve to the {side} while
    walking; walk around to the {side}; circle {side} on foot; walk in an arc to the {side}; walk round
    in a {side} circle; follow a curve to the {side}
march: march on the spot; march in place; step in place with high knees; march without going anywhere;
    walk in place lifting {their} knees; march like a soldier; stamp in place with raised knees
jump: jump up; jump in place; jump into the air; leap up with both feet; jump off the ground; jump
    straight up; spring up from the floor; do a jump
jump-forward: jump forward; leap forward; jump ahead with both feet; make a long jump; spring forward;
    bound ahead; jump to the front; take a leap forward
hop: hop on the {side} foot; hop on {their} {side} leg; jump on {their} {side} foot only; bounce on the
    {side} leg; hop with the {other} foot off the ground; hop using just the {side} foot
squat: squat; squat down and stand up; do a squat; bend {their} knees and come up again; crouch and rise
    again; go into a squat; lower {their} hips and get up again; dip into a crouch
bow: bow; bow forward; take a bow; bend forward at the waist; bow from the hips; bend {their} upper body
    forward; make a bow; bow with straight legs
lean: lean to the {side}; bend {their} upper body to the {side}; lean {side}; tilt to the {side}; bend
    sideways to the {side}; lean over to {their} {side}; tip {their} trunk to the {side}
""")


_PHRASES |= _table("""
kneel: kneel down; kneel; go down on one knee; drop to one knee; lower {themself} to a knee; take a
    knee; kneel on the floor; get down on one knee
sit: sit down; sit down on a chair; take a seat; sit; lower {themself} onto a seat; sit back on a chair;
    settle down on a stool; sit down where {they} {are}
kick: kick with the {side} leg; kick forward with {their} {side} foot; kick out {their} {side} leg; give
    a kick with the {side} foot; swing {their} {side} leg forward in a kick; do a {side} kick; kick a
    ball with the {side} foot; kick {their} {side} foot out in front
lift-knee: lift {their} {side} knee; raise the {side} knee; bring {their} {side} knee up; lift the
    {side} leg with a bent knee; pull {their} {side} knee up to the hip; balance with the {side} knee
    raised; draw up the {side} knee
pick-up: pick something up; pick an object up from the floor; bend down and pick something up; reach
    down to the floor and come up; lift something off the ground; grab a thing from the floor; stoop to
    pick up an object; take something from the ground
twist: twist {their} upper body; twist at the waist; turn {their} shoulders left and right; twist from
    side to side; rotate {their} trunk to and fro; swivel {their} torso back and forth; do torso twists
raise-arm: raise {their} {side} arm; lift the {side} hand overhead; put {their} {side} hand up; raise
    the {side} arm above {their} head; lift {their} {side} arm up high; stretch the {side} arm up; reach
    up with the {side} hand; hold the {side} arm in the air
raise-both-arms: raise both arms; lift both hands overhead; put both hands up; raise both arms above
    {their} head; lift both arms up high; stretch both arms up; reach up with both hands; hold both arms
    in the air; throw both hands up into the air; raise {their} arms overhead
wave: wave with the {side} hand; wave {their} {side} hand; wave hello with the {side} hand; wave {their}
    {side} arm; greet with a wave of the {side} hand; wave goodbye with {their} {side} hand; give a wave
    with the {side} hand; signal with a waving {side} hand
punch: punch with the {side} fist; punch forward with {their} {side} hand; throw a {side} punch; box
    with the {side} hand; hit the air with {their} {side} fist; jab with the {side} arm; strike forward
    with the {side} fist
throw: throw a ball with the {side} hand; throw something with {their} {side} arm; toss an object with
    the {side} hand; hurl a stone with {their} {side} hand; pitch with the {side} arm; fling something
    {side}-handed; make an overarm throw with the {side} hand
touch-head: touch {their} head with the {side} hand; put the {side} hand on {their} head; rest the
    {side} hand on {their} head; bring {their} {side} hand to {their} head; hold {their} head with the
    {side} hand; lay the {side} hand on {their} head
point: point forward with the {side} hand; point straight ahead with {their} {side} arm; stretch the
    {side} arm out in front; hold {their} {side} arm straight forward; reach forward with the {side}
    hand; extend the {side} arm to the front; point ahead with the {side} finger
clap: clap; clap {their} hands; clap the hands together; applaud; clap in front of the chest; give
    applause; beat {their} hands together
spread-arms: spread {their} arms; hold both arms out to the sides; stretch {their} arms out sideways;
    extend both arms to the sides; open {their} arms wide; put both arms out to the side at shoulder
    height; make a T with {their} arms; lift {their} arms sideways to the shoulders
""")


DETAILS: dict[str, dict[str, list[str]]] = {}
for _key, _words in _table("""
turn, around: almost all the way around; by more than a quarter; until nearly facing back
jump, high: high; really high
jump-forward, far: far; a long way
hop, twice: twice; two times
hop, three times: three times; a few times
squat, deep: deeply; very low
bow, deep: deeply; low
lean, far: far; a lot
kneel, on the left knee: on the left knee; with the left knee on the floor
kneel, on the right knee: on the right knee; with the right knee on the floor
kick, high: high; at hip height
lift-knee, high: high; very high
pick-up, with the left hand: with the left hand
pick-up, with the right hand: with the right hand
pick-up, with both hands: with both hands
raise-arm, to the front: to the front; through the front
raise-arm, sideways: sideways; through the side
raise-both-arms, to the front: to the front; through the front
raise-both-arms, sideways: sideways; through the sides
punch, once: once; a single time
punch, twice: twice; two times
punch, three times: three times
""").items():
    _stem, _detail = _key.split(", ")
    DETAILS.setdefault(_stem, {})[_detail] = _words


_SLOW = "slowly; gently; at a slow pace; unhurriedly; in a slow manner; without haste; very slowly".split("; ")
_FAST = "quickly; fast; rapidly; swiftly; at a fast pace; in a hurry; very fast".split("; ")
_PEOPLE = [
    tuple(name.split(", "))
    for name in (
        "a person, their; someone, their; a man, his; the man, his; a woman, her; the figure, its; the "
        "person, their; a human, their; he, his; she, her; a figure, its; somebody, their; the woman, "
        "her; a guy, his; an old man, his; an old woman, her; a young man, his; a young woman, her; a boy, "
        "his; a girl, her; a child, their"
    ).split("; ")
]
_WORDS = {
    "their": {"they": "they", "are": "are", "themself": "themselves"},
    "his": {"they": "he", "are": "is", "themself": "himself"},
    "her": {"they": "she", "are": "is", "themself": "herself"},
    "its": {"they": "it", "are": "is", "themself": "itself"},
}
_DOUBLED = {  # gerunds that double a letter, by their verb
    word.removesuffix("ing")[:-1]: word
    for word in (
        "running hopping squatting sitting jogging getting putting spinning grabbing clapping hitting "
        "jabbing tipping stepping dipping dropping signalling"
    ).split()
}


def third_person(verb: str) -> str:
    if verb == "do" or verb == "go" or verb.endswith(("s", "sh", "ch", "x", "z")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def gerund(verb: str) -> str:
    if verb in _DOUBLED:
        return _DOUBLED[verb]
    return (verb[:-1] if verb.endswith("e") and not verb.endswith("ee") else verb) + "ing"


_BASE_VERBS = {"come", "pick", "stand", "rise", "get", "stay", "reach", "bend"}


def conjugate(phrase: str, form: Callable[[str], str]) -> str:
    "Put the first verb, and a verb joined by 'and', into another form: 'squats down and stands up'."
    first, *rest = phrase.split(" ")
    rest = [form(w) if i and rest[i - 1] == "and" and w in _BASE_VERBS else w for i, w in enumerate(rest)]
    return " ".join([form(first), *rest])


def split_side(action: str) -> tuple[str, str]:
    "'wave-left' -> ('wave', 'left'); labels without a side keep an empty one."
    stem, _, side = action.rpartition("-")
    return (stem, side) if side in ("left", "right") else (action, "")


def write_caption(rng: np.random.Generator, actions: tuple[str, ...], speed: int, detail: str) -> str:
    "One sentence for one label, or for a base label and an arm label."

    def pick(options: list):
        return options[int(rng.integers(len(options)))]

    subject, own = pick(_PEOPLE)
    plain, running = [], []
    for action in actions:
        stem, side = split_side(action)
        other = {"left": "right", "right": "left"}.get(side, "")
        phrase = pick(_PHRASES[stem]).format(side=side, other=other, their=own, **_WORDS[own])
        plain.append(conjugate(phrase, third_person))
        running.append(conjugate(phrase, gerund))
    stem = split_side(actions[0])[0]
    extra = pick(DETAILS[stem][detail]) if detail in DETAILS.get(stem, {}) and rng.random() < 0.5 else ""
    manner = pick(_SLOW if speed < 0 else _FAST) if speed and rng.random() < 0.75 and stem != "stand" else ""
    if len(actions) == 1:
        tail = "".join(f" {w}" for w in (extra, manner) if w)
        kind = rng.integers(5)
        if kind == 0 and manner:
            return f"{manner} {subject} {plain[0]}" + (f" {extra}" if extra else "")
        if kind == 1:
            return f"{subject} is {running[0]}{tail}"
        if kind == 2 and manner.endswith("ly"):
            return f"{subject} {manner} {plain[0]}" + (f" {extra}" if extra else "")
        return f"{subject} {plain[0]}{tail}"
    slow = f" {manner}" if manner else ""
    kind = rng.integers(6)
    if kind == 0:
        return f"{subject} {plain[0]}{slow} while {running[1]}"
    if kind == 1:
        return f"while {running[0]}{slow}, {subject} {plain[1]}"
    if kind == 2:
        return f"{subject} {plain[0]}{slow} and {plain[1]}"
    if kind == 3:
        return f"{subject} is {running[0]}{slow} and {running[1]}"
    if kind == 4:
        return f"{subject} {plain[1]} and {plain[0]} at the same time{slow}"
    return f"{subject} {plain[1]} while {running[0]}{slow}"
