"""An animated body as binary glTF: a JSON text that describes arrays, then the arrays."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import roma
import torch

from ..skeleton import sum_bones
from ..viewer import units_per_metre
from .rig import rest_height

if TYPE_CHECKING:
    from .body import Character

def _steady(quaternions: np.ndarray) -> np.ndarray:
    "Unit quaternions (T, J, 4) with signs such that neighbours in time lie on one side."
    agree = np.sign((quaternions[1:] * quaternions[:-1]).sum(-1, keepdims=True))
    signs = np.cumprod(np.where(agree == 0, 1, agree), axis=0)
    return np.concatenate([quaternions[:1], quaternions[1:] * signs])


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    "Unit normals (V, 3), faces weighed by their area."
    a, b, c = vertices[faces].transpose(1, 0, 2)
    normals = np.zeros_like(vertices)
    np.add.at(normals, faces, np.cross(b - a, c - a)[:, None])
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.where(length > 1e-12, normals / np.maximum(length, 1e-12), [0.0, 1.0, 0.0])


class _Arrays:
    "The arrays of a glTF file: `add` packs one and returns its number."

    types = {"f4": 5126, "u4": 5125, "u1": 5121}
    shapes = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (16,): "MAT4"}

    def __init__(self):
        self.data, self.views, self.accessors = bytearray(), [], []

    def add(self, array: np.ndarray, kind: str = "f4", normalized: bool = False) -> int:
        array = np.ascontiguousarray(array, dtype=f"<{kind}")
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes})
        self.data += array.tobytes() + bytes(-array.nbytes % 4)
        about = {"bufferView": len(self.views) - 1, "componentType": self.types[kind], "count": len(array),
                 "type": self.shapes[array.shape[1:]], "normalized": normalized}
        if kind == "f4" and array.shape[1:] in ((), (3,)):
            low, high = np.atleast_1d(array.min(0)), np.atleast_1d(array.max(0))
            about |= {"min": low.tolist(), "max": high.tolist()}
        self.accessors.append(about)
        return len(self.accessors) - 1


def gltf_parts(figure: "Character", fps: float, names: Sequence[str], about: Mapping | None = None) -> tuple[dict, bytes]:
    """The JSON and the arrays of an animated glTF whose rest pose stands on the floor.

    `names` are those of the joints. What `about` says (prompt, seed, model) stands in `asset.extras` with the frame rate, and
    the prompt names the animation.
    """
    rig, unit, arrays = figure.pose.rig, units_per_metre(figure.pose.rig), _Arrays()
    offsets = rig.offsets / unit
    floor = np.array([0.0, rest_height(rig) / unit, 0.0])
    at_rest = sum_bones(torch.as_tensor(offsets), rig).numpy() + floor
    vertices = figure.vertices.numpy() / unit + floor
    strongest = np.argsort(-figure.weights.numpy(), axis=1)[:, :4]      # glTF has room for four
    weights = np.take_along_axis(figure.weights.numpy(), strongest, axis=1)
    inverse = np.tile(np.eye(4), (rig.num_joints, 1, 1))
    inverse[:, 3, :3] = -at_rest                                        # glTF stores columns
    hues = np.concatenate([figure.colours(), np.ones((len(vertices), 1))], axis=1)
    attributes = {
        "POSITION": arrays.add(vertices), "NORMAL": arrays.add(_normals(vertices, figure.faces)),
        "COLOR_0": arrays.add(255 * hues, "u1", True), "JOINTS_0": arrays.add(strongest, "u1"),
        "WEIGHTS_0": arrays.add(weights / weights.sum(axis=1, keepdims=True)),
    }
    primitive = {"attributes": attributes, "indices": arrays.add(figure.faces.ravel(), "u4"), "material": 0}
    nodes: list[dict] = [
        {"name": name, "translation": offset.tolist()} for name, offset in zip(names, offsets, strict=True)
    ]
    nodes[0]["translation"] = floor.tolist()
    for parent, child in rig.bones:
        nodes[parent].setdefault("children", []).append(child)
    joints = list(range(rig.num_joints))
    nodes.append({"name": "body", "mesh": 0, "skin": 0})
    turns = _steady(roma.rotmat_to_unitquat(figure.pose.rotations).numpy())
    clock = arrays.add(np.arange(figure.frames) / fps)
    outputs = [(0, "translation", figure.pose.root.numpy() / unit)]
    outputs += [(joint, "rotation", turns[:, joint]) for joint in joints]
    scene = {
        "asset": {"version": "2.0", "generator": "mocapfree_nb", "extras": dict(about or {}) | {"fps": fps}}, "scene": 0,
        "scenes": [{"nodes": [0, len(nodes) - 1]}], "nodes": nodes,
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.8}}],
        "skins": [{"joints": joints, "skeleton": 0, "inverseBindMatrices": arrays.add(inverse.reshape(-1, 16))}],
        "animations": [{
            "name": str((about or {}).get("prompt") or "motion"),
            "samplers": [{"input": clock, "output": arrays.add(values)} for *_, values in outputs],
            "channels": [
                {"sampler": number, "target": {"node": node, "path": path}}
                for number, (node, path, _) in enumerate(outputs)
            ],
        }],
    }
    scene |= {"accessors": arrays.accessors, "bufferViews": arrays.views, "buffers": [{"byteLength": len(arrays.data)}]}
    return scene, bytes(arrays.data)
