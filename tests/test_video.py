"""Pictures with left on the left, every frame at the right speed, and no half of a video left behind."""


import resource

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from test_ik import MOTIONS

from mocapfree_nb.files import UserError
from mocapfree_nb.output import video
from mocapfree_nb.output.video import draw_frames, save_gif, save_mp4
from mocapfree_nb.skeleton import HUMANML3D, forward_kinematics
from mocapfree_nb.viewer import COLOURS


def colour_at(picture: Image.Image, colour: str) -> np.ndarray:
    "Columns of the pixels of one colour above the line of text."
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((np.asarray(picture)[:360] == wanted).all(-1))


@pytest.mark.parametrize("azimuth,side", [(0, 1), (180, -1)])
def test_left_is_left_and_feet_stand_on_the_floor(azimuth, side):
    rotations = torch.eye(3).expand(3, 22, 3, 3)
    joints = forward_kinematics(rotations, torch.zeros(3, 3), HUMANML3D)[0].numpy()
    joints[..., 1] -= joints[..., 1].min()
    picture = list(draw_frames(joints, azimuth=azimuth, elevation=0))[1]
    left, right = (colour_at(picture, COLOURS[name]) for name in ("left", "right"))
    assert side * (left[:, 1].mean() - right[:, 1].mean()) > 20
    floor = 0.86 * 384
    assert abs(left[:, 0].max() - floor) < 6 and abs(right[:, 0].max() - floor) < 6


def test_a_gif_and_a_video_hold_every_frame_at_the_right_speed(tmp_path):
    clips = {"short": MOTIONS[0][:20], "long": MOTIONS[1][:25]}
    assert save_gif(tmp_path / "a.gif", clips, fps=12.5).startswith("25 frames, 768 x ")
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.info["duration"], gif.size[0]) == (25, 80, 768)
    with_every = save_gif(tmp_path / "fast.gif", MOTIONS[0][:20], fps=100)
    assert with_every.startswith("10 frames")
    save_mp4(tmp_path / "a.mp4", clips, fps=12.5)
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4"))
    assert frames == 25 and seconds == pytest.approx(2.0, abs=0.1)
    assert sum(video._gif_times(300, 29.97)) == pytest.approx(300_000 / 29.97, abs=10)


def test_a_full_disk_leaves_no_video_and_is_named(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "a.mp4").write_bytes(b"what was there")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # as a disk that is full after 4 kB: ffmpeg inherits it
    try:
        with pytest.raises(UserError, match="is the disk full"):
            save_mp4(tmp_path / "a.mp4", MOTIONS[0][:8])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"what was there"


def test_an_ffmpeg_that_hangs_is_ended(tmp_path, monkeypatch):
    stuck = tmp_path / "stuck"
    stuck.write_text("#!/bin/sh\nexec sleep 30\n")
    stuck.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(stuck))
    monkeypatch.setattr(video, "PATIENCE", -0.5)
    with pytest.raises(UserError, match="status -9"):
        save_mp4(tmp_path / "a.mp4", MOTIONS[0][:2])
    assert not list(tmp_path.glob("*.mp4"))
