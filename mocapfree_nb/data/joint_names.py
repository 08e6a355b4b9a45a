"""What rigs call their joints: the parts of a body among the names of Mixamo, Biped, Poser, VRM, SMPL and others."""

import re
from collections.abc import Iterable, Mapping

from ..files import UserError, printable

_PARTS = {
    "pelvis": "hips hip pelvis spinebase root",
    "neck": "neck lowerneck necklower necktwist",
    "head": "head upperneck",
    "hip": "upleg hip thigh upperleg femur thighbend",
    "knee": "leg knee shin lowerleg calf tibia lowleg",
    "ankle": "ankle foot",
    "foot": "toe toes toebase toesbase ball",
    "collar": "shoulder collar clavicle inshoulder",
    "shoulder": "arm uparm upperarm uarm shldr shldrbend humerus shoulder",
    "elbow": "forearm elbow lowerarm lowarm farm forearmbend radius",
    "wrist": "wrist hand",
}
_MIDDLE = {word for part in ("pelvis", "neck", "head") for word in _PARTS[part].split()}
_SIDED = "|".join({word for part, words in _PARTS.items() if part not in ("pelvis", "neck", "head") for word in words.split()})
_SIDE_FIRST = re.compile(f"(left|right|l|r)({_SIDED})")
_SIDE_LAST = re.compile(f"({_SIDED})(left|right|l|r)")


def _split_name(name: str) -> tuple[str, str, int]:
    """Side ("left", "right" or ""), part, and how many words did not count; part is "" where none is known.

    "mixamorig:LeftUpLeg" is left, upleg, 1.
    """
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]
    for start in range(len(words)):
        letters = [word for word in words[start:] if not word.isdigit()]
        for junk in (0, 1) if letters and letters[-1] in ("joint", "jnt", "bone") else (0,):
            rest = "".join(letters[: len(letters) - junk])
            ignored = len(words) - len(letters) + junk
            if match := _SIDE_FIRST.fullmatch(rest):
                return {"l": "left", "r": "right"}[match[1][0]], match[2], ignored
            if match := _SIDE_LAST.fullmatch(rest):
                return {"l": "left", "r": "right"}[match[2][0]], match[1], ignored
            if rest in _MIDDLE:
                return "", rest, ignored
    return "", "", 0


def above(joint: int, parents: list[int]) -> list[int]:
    """The joints from this one to the root, both included."""
    path = [joint]
    while (joint := parents[joint]) >= 0:
        path.append(joint)
    return path


def _by_word(names: list[str], parents: list[int] | None) -> dict[str, dict[str, int]]:
    """For each side and the middle (""), the joint of each part's word; of like names the one with fewest words."""
    found: dict[str, dict[str, tuple[int, int]]] = {"left": {}, "right": {}, "": {}}
    for joint, (side, word, ignored) in enumerate(map(_split_name, names)):
        known = found[side].get(word)
        deeper = bool(known and side and parents and known[1] in above(joint, parents))
        if word and (known is None or ignored < known[0] or (deeper and ignored == known[0])):
            found[side][word] = ignored, joint
    return {side: {word: joint for word, (_, joint) in words.items()} for side, words in found.items()}


def _limbs(own: Mapping[str, int], parents: list[int] | None) -> dict[str, int]:
    """Parts of one side from its joints by word, each limb from its end towards the body."""
    found: dict[str, int] = {}

    def look(part: str, below: str = "", but: Iterable[int] = ()) -> None:
        words = _PARTS[part].split()
        choice = [own[word] for word in words if word in own and own[word] not in but]
        if parents and below in found:
            path = above(found[below], parents)[1:]
            choice = sorted((joint for joint in choice if joint in path), key=path.index) or choice
        if choice:
            found[part] = choice[0]

    look("wrist")
    look("elbow", "wrist")
    look("shoulder", "elbow")
    look("collar", "shoulder", but=[found.get("shoulder", -1)])
    look("ankle")
    look("knee", "ankle")
    look("hip", "knee")
    look("foot")
    if "ankle" in own and "foot" in own:
        found.setdefault("foot", own["foot"])
    return found


def find_joints(names: list[str], parents: list[int] | None = None) -> dict[str, int]:
    """Where the joints of HumanML3D are among a rig's joint names: name -> index, the spine left out.

    `parents` (-1 for the root) tells a joint from a helper of a like name. Neck, head, collars and toes may be missing
    from the answer; raises `UserError` where one that cannot be done without is.
    """
    own = _by_word(names, parents)
    found = {f"{side}_{part}": joint for side in ("left", "right") for part, joint in _limbs(own[side], parents).items()}
    limbs = ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
    if missing := [name for side in ("left", "right") for part in limbs if (name := f"{side}_{part}") not in found]:
        known = printable(", ".join(filter(None, names)), 800)
        raise UserError(f"no joint found for {', '.join(missing)}; the file's joints are {known}")
    for part in ("neck", "head"):
        if hit := [own[""][word] for word in _PARTS[part].split() if word in own[""]]:
            found[part] = hit[0]
    choice = [own[""][word] for word in _PARTS["pelvis"].split() if word in own[""]] or [0]
    if parents:
        above_all = [above(found[name], parents)[1:] for name in ("left_hip", "right_hip", "left_shoulder")]
        common = [joint for joint in above_all[0] if all(joint in path for path in above_all)]
        choice = [joint for joint in choice if joint in common] or common or choice
    return found | {"pelvis": choice[0]}
