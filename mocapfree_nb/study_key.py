"""The key of a user study: whether its rows fit together, and whether its pairs link all systems."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from scipy.cluster.hierarchy import DisjointSet

from mocapfree_nb.files import UserError

__all__ = ["apart", "check_key"]

KINDS = ("compare", "static", "noised", "mismatched", "turned")
REMEDY = "take a copy of the NAME-key.json that was written beside the page"


def apart(pairs: Iterable[Sequence[str]], systems: Sequence[str]) -> str | None:
    """The first of `systems` that no chain of `pairs` links to systems[0]; None where they hang together."""
    parts = DisjointSet(systems)
    for a, b in pairs:
        parts.merge(a, b)
    return next((system for system in systems if not parts.connected(system, systems[0])), None)


def check_key(key: Mapping) -> None:
    """Raise `UserError` for what is not the key of a study, was damaged, or compares systems that nothing links."""
    kinds = {"study": str, "pairs": list, "motions": dict, "systems": list}
    if not all(isinstance(key.get(name), kind) for name, kind in kinds.items()):
        raise UserError("this is not the key of a study: give the NAME-key.json that was written beside the page")
    if not all(isinstance(system, str) for system in [*key["systems"], *key["motions"].values()]):
        raise UserError(f"the key of the study names systems that are no words: {REMEDY}")
    rows = [row if isinstance(row, dict) else {} for row in key["pairs"]]
    ids, compared = Counter(row["id"] for row in rows if isinstance(row.get("id"), str)), []
    for number, row in enumerate(rows, start=1):
        kind, two, again = row.get("kind"), row.get("motions"), row.get("turned")
        sound = isinstance(row.get("id"), str) and ids[row["id"]] == 1 and kind in KINDS
        sound = sound and (isinstance(again, str) and again in ids if kind == "turned" else again is None)
        sound = sound and isinstance(two, list) and len(two) == 2 and all(isinstance(name, str) for name in two)
        systems = [key["motions"].get(name) for name in set(two)] if sound else []
        sound = sound and len(systems) == 2 and None not in systems
        if not sound or kind == "compare" and (len(set(systems)) < 2 or not set(systems) <= set(key["systems"])):
            raise UserError(f"row {number} of the key's pairs fits neither its motions nor its systems: {REMEDY}")
        compared += [systems] if kind == "compare" else []
    if other := apart(compared, key["systems"]):
        both = f"{key['systems'][0]} and {other}"
        raise UserError(f"no pair of this study links {both}, so nobody compared them: make a page with more --pairs")
