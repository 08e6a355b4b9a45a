"""A motion as BVH: a tree of bones that keep their length, and Euler angles in centimetres, T-pose at rest."""

import warnings
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ..files import write_atomically
from ..skeleton import HUMANML3D, Skeleton
from .ik import centimetres_per_unit, children_of
from .rig import fit_export, name_joints, rest_height, with_t_pose

def _bvh_nodes(rig: Skeleton, centimetres: float, names: tuple[str, ...]) -> tuple[list, list[int]]:
    "The joint tree as pybvh nodes, branch by branch as the file has it, and which joint each line of channels moves."
    from pybvh.bvhnode import BvhEndSite, BvhJoint, BvhRoot

    children, nodes, order = children_of(rig), [], []

    def add(joint: int, parent) -> None:
        name, offset = names[joint], rig.offsets[joint] * centimetres
        bone = rig.offsets[(children[joint] or [joint])[0]]
        order_of_axes = "ZXY" if abs(bone[0]) > 0.7 * np.linalg.norm(bone) else "ZYX"
        if parent is None:
            node = BvhRoot(name, [0.0, rest_height(rig) * centimetres, 0.0], ["X", "Y", "Z"], ["Z", "X", "Y"])
        else:
            node = BvhJoint(name, offset, list(order_of_axes), [], parent)
            parent.children = [*parent.children, node]
        nodes.append(node)
        order.append(joint)
        for child in children[joint]:
            add(child, node)
        if not children[joint]:                                         # half a bone more: toes, hands, crown
            node.children = [BvhEndSite("End Site", offset / 2, node)]
            nodes.extend(node.children)

    add(0, None)
    return nodes, order


def save_bvh(
    path: str | Path, joints, skeleton: Skeleton = HUMANML3D, fps: float | None = None,
    joint_names: str = "humanml3d", t_pose: bool = False,
) -> str:
    """Write a motion (T, J, 3) as BVH in centimetres, rest a T-pose on the floor; returns a line that says what was written.

    Bones are those of `export_body`, joints are called as `name_joints` says; `t_pose` puts the rest pose before the first
    frame. Raises `ValueError` as `fit_pose` does, `UserError` for other names or where `path` cannot be written.
    """
    import pybvh

    names = name_joints(skeleton, joint_names)
    pose, off = fit_export(joints, skeleton)
    pose = with_t_pose(pose) if t_pose else pose
    nodes, order = _bvh_nodes(pose.rig, centimetres_per_unit(skeleton), names)
    channels = [node.rot_channels for node in nodes if not node.is_end_site()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Gimbal lock")        # any of the many answers is right there
        angles = [
            Rotation.from_matrix(pose.rotations[:, joint].numpy()).as_euler("".join(axes))
            for joint, axes in zip(order, channels, strict=True)
        ]
    motion = pybvh.Bvh(
        nodes, pose.root.numpy() * centimetres_per_unit(skeleton), np.unwrap(np.stack(angles, axis=1), axis=0),
        frame_time=1 / (fps or skeleton.fps), world_up="+y",
    )
    with write_atomically(path) as temporary:
        motion.write(temporary)
    kept = f"{len(pose.root)} frames, {len(order)} joints; bones keep their length, no joint is off by more than "
    return kept + (f"{100 * off.metres:.1f} cm ({off.joint}, frame {off.frame})" if off.metres >= 5e-4 else "0.5 mm")
