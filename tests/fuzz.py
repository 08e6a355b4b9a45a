"""Damaged and hostile files for every reader: refused in one line or read as finite numbers, and nothing else.

    python tests/fuzz.py --cases 10000 --seed 0

A case is drawn from the seed and its number alone, so any case can be repeated: `--first 1234 --cases 1`. Cases run in
a few long-lived processes; one that sleeps or works for more than 20 s is ended and counted as a hang. Prints a table and
exits with status 1 if there was a traceback, a hang, a NaN that nobody mentioned, more than 2 GiB of memory, or a
program in a file that ran.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue

PATIENCE, MEMORY = 20, 2 * 2**30  # seconds a case, bytes a process
OUTCOMES = ("explained", "accepted", "traceback", "hang", "NaN", "memory", "executed")
MARKER = "executed-by-a-file"
SECRET = "content of a file outside the folder"
LINKS = {"link to a pipe": "outside/pipe", "link to a device": "/dev/zero", "link out of the folder": "outside/secret"}
LINKS |= {"link to nothing": "outside/nothing", "link to itself": None}


class Bomb:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, (str(Path.cwd() / MARKER),)


# --- damage to bytes of any kind


def of_any_kind(draw: random.Random, sound: bytes) -> bytes:
    """A piece cut out, replaced, put in or said again; bits turned; any bytes; or a pickle that runs something."""
    kind = draw.choice(("cut", "piece", "piece", "bits", "zeros", "again", "bytes", "bomb", "empty", "encoding"))
    start, length = draw.randint(0, len(sound)), draw.choice((0, 1, 2, 4, 8, 40, 400))
    if kind == "piece":
        return sound[:start] + draw.randbytes(draw.randint(0, 40)) + sound[start + length :]
    if kind == "bits":
        content = bytearray(sound)
        for _ in range(draw.randint(1, 8)):
            if content:
                content[draw.randrange(min(len(content), draw.choice((100, 2000, len(content)))))] ^= 1 << draw.randrange(8)
        return bytes(content)
    return {
        "cut": sound[:start],
        "zeros": sound[:start] + bytes(length) + sound[start + length :],
        "again": sound[:start] + sound[start : start + length] * draw.choice((2, 1000)) + sound[start:],
        "bytes": draw.randbytes(draw.choice((1, 10, 100, 1000))),
        "bomb": pickle.dumps(Bomb(), draw.randint(0, 5)),
        "empty": b"",
        "encoding": sound.decode("latin-1")[:100_000].encode("utf-16"),
    }[kind]


# --- damage that keeps the form


NUMBERS = ("nan", "inf", "-inf", "1e400", "1e300", "-1", "0", "1e-6", "1e-320", "999999999999", "7", "1e6", "0x1F", "")


def of_text(draw: random.Random, sound: bytes) -> bytes:
    """Numbers, lines and marks exchanged for others that a reader may not expect."""
    lines = sound.decode("utf-8", "replace").split("\n")
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(lines))
        words = lines[at].split(" ")
        words[draw.randrange(len(words))] = draw.choice(
            (*NUMBERS, "{", "}", "JOINT", "End Site", "#", "##0#inf", "#a/NOUN#inf#inf", "#a/NOUN#0.0#1e308", ",,,,", '"', "\0")
            + ("../../../../etc/passwd", "x" * 200_000, "\x1b]0;title\x07\x1b[31m", "\u202e", "CHANNELS 999", "\r", "a,b\n" * 9)
        )
        lines[at] = " ".join(words)
        if draw.random() < 0.3:
            lines.insert(at, draw.choice(lines))
    content = "\n".join(lines).encode("utf-8", "replace")
    return content * draw.choice((1, 1, 1, 1, 1, 20_000_000 // max(len(content), 1)))


def of_json(draw: random.Random, sound: bytes) -> bytes:
    """A value of another type or size, a key more or less, nesting without end."""
    value = json.loads(sound)
    deep = "[" * 100_000 if draw.random() < 0.5 else '{"a":' * 100_000
    odd = [10**6, -1, 0, 7, 1e300, 10**30, 0.5, True, None, "", "x" * 100_000, [], {}, [1, [2]], ["cosine"], [263] * 50]
    raw = {"@nan": "NaN", "@inf": "1e999", "@long": "1" * 10_000, "@deep": deep}
    for _ in range(draw.randint(1, 2)):
        place = value
        while isinstance(place, dict | list) and place:
            key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if draw.random() < 0.5 or not isinstance(place[key], dict | list):
                if draw.random() < 0.15:
                    del place[key]
                elif isinstance(place, dict) and draw.random() < 0.1:
                    place["\x1b[31mkey\0" * draw.choice((1, 10_000))] = 1
                else:
                    place[key] = copy.deepcopy(draw.choice([*odd, *raw, *raw]))  # or a list would come to lie in itself
                break
            place = place[key]
    text = json.dumps(draw.choice((value, value, value, value, value, [value], None, "text")))
    for name, token in raw.items():
        text = text.replace(f'"{name}"', token)
    return text.encode()


def odd_array(draw: random.Random, array):
    """An array with other numbers, of another shape, or of another type."""
    import numpy as np

    array = np.array(array)
    kind = draw.choice(("number", "number", "type", "shape", "axes", "short", "all", "objects"))
    if kind == "number" and array.size and array.dtype.kind in "fiu":
        numbers = (np.nan, np.inf, -np.inf, 1e38, 1e300, -1, 0, 1e-6, 2**31)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            number = np.array(draw.choice(numbers)).astype(array.dtype)
        array.flat[draw.randrange(array.size) if draw.random() < 0.6 else slice(None)] = number
    elif kind == "type":
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            numbers = ("f2", "f8", ">f4", "i1", "u8", "c8", "?")
            array = array.astype(draw.choice(numbers if array.dtype.kind in "fiu" else ("S", "U")))
    elif kind == "shape":
        array = array.reshape(draw.choice([(-1,), (1, *array.shape), (*array.shape, 1), array.shape[::-1]]))
    elif kind == "axes":
        array = np.asfortranarray(array.T if draw.random() < 0.5 else array)
    elif kind == "short":
        array = array[: draw.choice((0, 1, 2))] if array.ndim else np.zeros((0, 3))
    elif kind == "all":
        array = np.full(array.shape, draw.choice((np.nan, 1e300, 0.0))) if array.dtype.kind in "fiu" else np.zeros(3)
    elif kind == "objects":
        array = np.array([Bomb()], dtype=object)
    return array


def of_npy(draw: random.Random, sound: bytes) -> bytes:
    """Another array, or a header that says something else than what follows."""
    import numpy as np

    array, file = np.load(io.BytesIO(sound)), io.BytesIO()
    if draw.random() < 0.6:
        np.save(file, odd_array(draw, array), allow_pickle=True)
        return file.getvalue()
    odd = [(10**12, 263), (2**62, 2**62), (-1, 263), (0, 10**18), (1,) * 64, (2**31, 22, 3), "x", (1.5,)]
    header = {"fortran_order": False, "shape": draw.choice(odd)}
    header["descr"] = draw.choice(("<f4", "<f4", "|V0", "|O", "<U999999999", [("a", "<f4", (9, 9))]))
    text = draw.choice((repr(header), "(" * 5_000, repr(header) + " " * 50_000, "__import__('os').mkdir('x')")).encode() + b"\n"
    version = draw.choice(((1, 0), (2, 0), (3, 0), (9, 9)))
    size = draw.choice((len(text), len(text), 2**15)).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text + sound[-1000:]


def of_npz(draw: random.Random, sound: bytes) -> bytes:
    """One array damaged; or members that are missing, twice there, packed oddly, or lie about their size."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sound)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen, kind = draw.choice(list(members)), draw.choice(("array", "array", "array", "method", "gone", "twice", "more"))
    if kind == "array":
        members[chosen] = of_npy(draw, members[chosen])
    if kind == "gone":
        del members[chosen]
    if kind == "more":
        members |= {draw.choice(("../../x.npy", "a\0b.npy", "x" * 60_000, "\x1b[31m/0/after.npy", "no array")): b"x"}
    if kind == "method":
        members[chosen] = members[chosen][:10_000]
    method = draw.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)) if kind == "method" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in members.items():
            archive.writestr(name, content, method if name == chosen else zipfile.ZIP_STORED)
        if kind == "twice":
            archive.writestr(chosen, of_npy(draw, members[chosen]))
        if kind == "more" and draw.random() < 0.3:  # 640 MiB of zeros in three
            with archive.open(chosen if draw.random() < 0.5 else "huge.npy", "w", force_zip64=True) as member:
                import numpy as np

                np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (5 * 2**25,)})
                for _ in range(40):
                    member.write(bytes(2**24))
    content = bytearray(file.getvalue())
    return _with_lying_sizes(draw, content) if draw.random() < 0.15 else bytes(content)


def _with_lying_sizes(draw: random.Random, content: bytearray) -> bytes:
    """A zip archive whose directory says 4 GB (or 0) of one member."""
    places = [at for at in range(len(content) - 46) if content[at : at + 4] == b"PK\x01\x02"]
    if places:
        at = draw.choice(places) + draw.choice((20, 24, 24, 42))  # packed size, size, place
        content[at : at + 4] = draw.choice((b"\xfe\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x7f"))
    return bytes(content)


def of_torch(draw: random.Random, sound: bytes) -> bytes:
    """Tensors that are sparse, expanded, on no device, of odd numbers; nesting without end; the old format; a program."""
    import torch

    state = torch.load(io.BytesIO(sound), weights_only=True)
    if not isinstance(state, dict):
        state = {"": state}
    place = state
    while (inner := [key for key, value in place.items() if isinstance(value, dict) and value]) and draw.random() < 0.5:
        place = place[draw.choice(inner)]
    key = draw.choice(list(place))
    value = place[key] if isinstance(place[key], torch.Tensor) else torch.zeros(3)
    endless: dict = {}
    endless["a"] = endless
    nested: object = []
    for _ in range(draw.choice((10, 500))):
        nested = [nested, nested]
    odd = {
        "NaN": lambda: torch.full_like(value, float("nan")) if value.is_floating_point() else float("nan"),
        "one infinity": lambda: value.double().index_fill(0, torch.tensor(0), float("inf")) if len(value.shape) else 1e400,
        "sparse": lambda: torch.sparse_coo_tensor(torch.tensor([[0], [9]]), torch.ones(1), (2**30, 2**30)),
        "sparse of the same shape": lambda: value.float().to_sparse() if value.ndim else value,
        "expanded": lambda: torch.zeros(1).expand(2**20, 2**20),
        "meta": lambda: torch.empty(2**20, 2**20, device="meta"),
        "quantised": lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8),
        "complex": lambda: value.to(torch.complex64),
        "half": lambda: value.half(),
        "whole numbers": lambda: value.long() if not value.is_complex() else value,
        "other shape": lambda: value[None],
        "empty": lambda: torch.zeros(0),
        "endless": lambda: endless,
        "nested": lambda: nested,
        "text": lambda: "x" * 100_000,
        "nothing": lambda: None,
        "bomb": Bomb,
    }
    for _ in range(draw.randint(1, 2)):
        place[key] = draw.choice(list(odd.values()))()
    if draw.random() < 0.15:
        del place[key]
    file = io.BytesIO()
    whole = draw.choice((state, state, state, state, state, list(state), None, torch.zeros(3)))
    with contextlib.suppress(Exception), warnings.catch_warnings():  # not every odd tensor can be saved
        warnings.simplefilter("ignore")
        torch.save(whole, file, _use_new_zipfile_serialization=draw.random() < 0.8)
    content = bytearray(file.getvalue() or sound)
    if draw.random() < 0.2:
        return _with_lying_sizes(draw, content)
    if content[:2] == b"PK" and draw.random() < 0.15:  # packed
        packed = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(bytes(content))) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        return packed.getvalue()
    return bytes(content)


def of_safetensors(draw: random.Random, sound: bytes) -> bytes:
    """Odd numbers in one tensor, tensors missing or added, or a header that lies."""
    import torch
    from safetensors.torch import load, save

    size = int.from_bytes(sound[:8], "little")
    if draw.random() < 0.4:
        header = of_json(draw, sound[8 : 8 + size])
        return len(header).to_bytes(8, "little") + header + sound[8 + size :]
    state = load(sound)
    key = draw.choice(list(state))
    types = (torch.float16, torch.float64, torch.int64, torch.bool, torch.uint8, torch.float8_e4m3fn, torch.complex64)
    odd = (
        lambda value: torch.full_like(value, float("nan")),
        lambda value: torch.full_like(value, float("inf")),
        lambda value: value.double() * 1e300,
        lambda value: value.to(draw.choice(types)),
        lambda value: value[None],
        lambda value: torch.zeros(0),
    )
    state[draw.choice((key, key, key, key, "more\x1b[31m"))] = draw.choice(odd)(state[key])
    if draw.random() < 0.2:
        del state[key]
    return save({name: value.clone() for name, value in state.items()})


def of_words(draw: random.Random, sound: bytes) -> bytes:
    """A pickle of other words: numbers, nests, endless ones, programs."""
    words = pickle.loads(sound)
    words = list(words.items()) if isinstance(words, dict) else words
    odd = draw.choice((Bomb(), 10**30, -1, None, 1.5, "x" * 100_000, ["a"], b"bytes", "\ud800", "\x1b[31m"))
    words[draw.randrange(len(words))] = odd
    return pickle.dumps(dict(enumerate(words)) if draw.random() < 0.3 else words, draw.randint(0, 5))


FORMS = {".npy": of_npy, ".npz": of_npz, ".json": of_json, ".safetensors": of_safetensors, ".pt": of_torch, ".pkl": of_words}


def put_something_else(draw: random.Random, path: Path) -> str:
    """Put what is no sound regular file where one is expected; says what."""
    path.unlink()
    kind = draw.choice(("pipe", "folder", "huge", "nothing", *LINKS))
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":  # 20 GB that take no place on the disk
        with path.open("wb") as file:
            file.write(draw.choice((b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"HIERARCHY\n", b"{")))
            file.truncate(20 * 10**9)
    elif kind in LINKS:
        target = LINKS[kind]
        path.symlink_to(path if target is None else Path.cwd() / target)
    return kind


# --- readers


class Reader:
    """A function that reads files, and which of them can be damaged (their paths inside the folder that it is given)."""

    def __init__(self, read: Callable, damaged: tuple[str, ...]):
        self.read, self.damaged = read, damaged


def make_readers() -> dict[str, Reader]:
    """Write sound files into the current folder, and say who reads them."""
    import numpy as np
    import torch
    from test_body import arrays_of_a_body
    from test_capture import amass, body_model, bvh
    from test_report import values as report_values

    from mocapfree_nb import bench, cli, files, reading, text
    from mocapfree_nb.corpus import load_corpus
    from mocapfree_nb.data import capture
    from mocapfree_nb.data.amass import read_amass
    from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer
    from mocapfree_nb.denoiser import MotionDenoiser
    from mocapfree_nb.evaluator import EvaluatorModel
    from mocapfree_nb.models.latent import LatentDenoiser
    from mocapfree_nb.models.mdm import MDM, MDM_NAMES
    from mocapfree_nb.models.unet import MotionUNet
    from mocapfree_nb.output import body, takes
    from mocapfree_nb.policy import DiffusionPolicy
    from mocapfree_nb.pretrain import PretrainConfig, pretrain
    from mocapfree_nb.procedural import generate_clips
    from mocapfree_nb.published import checkpoints, encoders
    from mocapfree_nb.retrieval import RetrievalModel

    readers = {}
    for name in ("humanml3d", "bvh", "amass", "bodies", "glove", "stats", "run", "other", "outside", "ddpo"):
        Path(name).mkdir()
    Path("outside/secret").write_text(SECRET)
    os.mkfifo("outside/pipe")

    def captioned(folder: str) -> None:
        rows = "".join(f"{name},a person walks {how},{name},train,0,0\n" for name in "abc" for how in ("fast", "slowly"))
        Path(folder, "captions.csv").write_text("name,caption,action,split,start,end\n" + rows)

    bench.write_folder(Path("humanml3d"), 4)
    Path("humanml3d/index.csv").write_text("name,action\n000000,walk\nM000000,walk+wave\n")
    damaged = ("new_joint_vecs/000001.npy", "texts/000001.txt", "train.txt", "test.txt", "index.csv", "Mean.npy", "Std.npy")
    readers["data set"] = Reader(lambda: load_corpus("humanml3d"), tuple(f"humanml3d/{name}" for name in damaged))
    shutil.copytree("humanml3d", "joints")
    shutil.rmtree("joints/new_joint_vecs")
    readers["data set of joints"] = Reader(lambda: load_corpus("joints"), ("joints/new_joints/000001.npy",))
    for name in "abc":
        Path(f"bvh/{name}.bvh").write_text(bvh(frames=90))
        amass(Path(f"amass/{name}.npz"), frames=90)
    captioned("bvh")
    captioned("amass")
    body_model(Path("bodies/neutral/model.npz"))
    readers["folder of BVH"] = Reader(lambda: load_corpus("bvh"), ("bvh/a.bvh", "bvh/captions.csv"))
    both = ("amass/a.npz", "amass/captions.csv")
    readers["folder of AMASS"] = Reader(lambda: load_corpus("amass", body_models="bodies"), both)
    readers["BVH"] = Reader(lambda: capture.read_bvh("bvh/b.bvh"), ("bvh/b.bvh",))
    readers["AMASS"] = Reader(lambda: read_amass("amass/b.npz", "bodies"), ("amass/b.npz", "bodies/neutral/model.npz"))

    torch.manual_seed(0)
    small = {"width": 16, "layers": 1, "feedforward": 16}
    networks = {
        "transformer": (MotionDenoiser, small),
        "latent": (LatentDenoiser, small | {"vae_layers": 1}),
        "unet": (MotionUNet, {"channels": (8,), "text_layers": 1}),
        "retrieval": (RetrievalModel, {"width": 16, "motion_layers": 1, "text_layers": 1, "feedforward": 16}),
        "evaluator": (EvaluatorModel, {"channels": 8, "hidden": 8, "embedding": 8}),
    }
    for name, (network, settings) in networks.items():
        network(**settings).save_pretrained(name)
        both = (f"{name}/config.json", f"{name}/model.safetensors")
        readers[name] = Reader(lambda name=name, network=network: weights_of(network.from_pretrained(name)), both)
        readers[f"{name}, any kind"] = Reader(lambda name=name: weights_of(checkpoints.read_checkpoint(name).model), both)
    ours = tuple(network for network, _ in networks.values())
    both = ("transformer/config.json", "transformer/model.safetensors")
    readers["any network"] = Reader(lambda: weights_of(checkpoints.load_network("transformer", ours)), both)

    published = MDM(width=64, layers=1, feedforward=64, num_timesteps=50, mask_frames=False)
    Path("mdm").mkdir()
    torch.save(as_published(published.state_dict(), MDM_NAMES), "mdm/model.pt")
    Path("mdm/args.json").write_text(json.dumps({"diffusion_steps": 50, "noise_schedule": "cosine", "mask_frames": False}))
    for name in ("mdm/Mean.npy", "stats/mean.npy"):
        np.save(name, np.zeros(263, np.float32))
    for name in ("mdm/Std.npy", "stats/std.npy"):
        np.save(name, np.ones(263, np.float32))
    Path("stats/pt").mkdir()
    torch.save(torch.zeros(263), "stats/pt/mean.pt")
    torch.save(torch.ones(263), "stats/pt/std.pt")
    readers["published model"] = Reader(
        lambda: weights_of(checkpoints.read_checkpoint("mdm").model),
        ("mdm/model.pt", "mdm/model.pt", "mdm/args.json", "mdm/Mean.npy", "mdm/Std.npy"),
    )
    readers["statistics"] = Reader(lambda: checkpoints.find_statistics("stats", 263), ("stats/mean.npy", "stats/std.npy"))
    readers["statistics of torch"] = Reader(lambda: checkpoints.find_statistics("stats/pt", 263), ("stats/pt/mean.pt",))
    words = ["sos", "eos", "unk", "a", "person", "walks"]
    np.save("glove/our_vab_data.npy", np.random.default_rng(0).normal(size=(6, 300)).astype(np.float32))
    Path("glove/our_vab_words.pkl").write_bytes(pickle.dumps(words))
    Path("glove/our_vab_idx.pkl").write_bytes(pickle.dumps({word: i for i, word in enumerate(words)}))
    glove = tuple(f"glove/{name}" for name in ("our_vab_data.npy", "our_vab_words.pkl", "our_vab_idx.pkl"))
    readers["word vectors"] = Reader(lambda: encoders.GuoWords.from_folder("glove")(["a person walks"]).tokens, glove)

    motion = np.asarray(generate_clips(1, seed=0).joints[0, :12], dtype=np.float64)
    np.savez("bodies/body.npz", **arrays_of_a_body())
    readers["body"] = Reader(lambda: body.dress(motion[:3], body="bodies/body.npz").surface(), ("bodies/body.npz",))
    np.save("other/joints.npy", motion)
    np.save("other/features.npy", np.load("humanml3d/new_joint_vecs/000001.npy"))
    takes.save_motions("run/motions.npz", {"target": [{"prompt": "a person waves", "before": motion, "after": motion}]})
    for name in ("joints.npy", "features.npy"):
        readers[name.removesuffix(".npy")] = Reader(lambda name=name: takes_of(takes, f"other/{name}"), (f"other/{name}",))
    readers["motions of a run"] = Reader(lambda: takes_of(takes, "run"), ("run/motions.npz",))
    readers["motion of BVH"] = Reader(lambda: takes_of(takes, "bvh/c.bvh"), ("bvh/c.bvh",))
    readers["page"] = Reader(lambda: command(cli, "view", "run", "--out", "page.html"), ("run/motions.npz",))
    readers["export"] = Reader(lambda: command(cli, "export", "other/joints.npy", "--out", "a.bvh"), ("other/joints.npy",))
    reading.save_state("other/state.pt", {"step": 1, "weights": {"a": torch.zeros(3), "b": [torch.ones(2)]}, "log": "[]"})
    readers["state"] = Reader(lambda: reading.load_state("other/state.pt"), ("other/state.pt",))
    files.write_json("other/settings.json", {"seed": 0, "rate": 0.1, "names": ["a"], "inner": {"a": {"b": [1, 2.5]}}})
    readers["JSON"] = Reader(lambda: reading.read_json("other/settings.json"), ("other/settings.json",))
    Path("run/report.json").write_text(json.dumps(report_values()))
    readers["report"] = Reader(lambda: command(cli, "compare", "run", "--out", "table.html"), ("run/report.json",))

    def adapted() -> list:
        policy = DiffusionPolicy(copy.deepcopy(denoiser), steps=2)
        trainer = DDPOTrainer(policy, mean_of_motion, ["a person waves"], [20], config, folder="ddpo")
        return [trainer.run(progress=False) and weights_of(policy.denoiser)]

    def pretrained() -> dict:
        settings = PretrainConfig(steps=2, batch_size=2)
        return weights_of(pretrain(copy.deepcopy(denoiser), clips, settings, None, "other/pretrain.pt", 1, progress=False))

    denoiser, clips, config = MotionDenoiser(**small), load_corpus("humanml3d"), DDPOConfig(iterations=1, distillation_weight=0)
    for go_on in (adapted, pretrained):
        go_on()
    readers["adaptation that goes on"] = Reader(adapted, ("ddpo/checkpoints/last.pt",))
    readers["pretraining that goes on"] = Reader(pretrained, ("other/pretrain.pt",))
    Path("other/prompts.txt").write_text("a person waves\na person walks\n")
    encoder = text.TextEncoder(cache=False)
    readers["captions"] = Reader(
        lambda: encoder(reading.read_text("other/prompts.txt").split("\n")[:2]).tokens, ("other/prompts.txt",)
    )
    return readers


def mean_of_motion(motion, lengths, prompts):
    """A reward."""
    return motion.mean((1, 2))


def weights_of(model) -> dict:
    return dict(model.state_dict())


def takes_of(takes, path: str) -> list:
    return [panel for take in takes.load_takes(path) for panel in take.panels.values()]


def as_published(state: dict, names: dict[str, str]) -> dict:
    """Weights of our MDM under their published names, attention packed."""
    import torch

    found, back = {}, {new: old for old, new in names.items() if "Decoder" not in old}
    for name, value in state.items():
        for new, old in back.items():
            name = old + name.removeprefix(new) if name.startswith(new) else name
        found[name.replace(".out.", ".out_proj.")] = value
    for path in [name.removesuffix(".query.weight") for name in found if name.endswith(".query.weight")]:
        for kind in ("weight", "bias"):
            packed = [found.pop(f"{path}.{part}.{kind}") for part in ("query", "key", "value")]
            found[f"{path}.in_proj_{kind}"] = torch.cat(packed)
    return {name: value for name, value in found.items() if not name.startswith("feature_")}


def command(cli, *arguments: str) -> str:
    """What a command prints; a mistake that it explains is raised as such."""
    from mocapfree_nb.files import UserError

    said, complaint, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["mocapfree", *arguments]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complaint):
            cli.main()
    except SystemExit as stop:
        if stop.code == 1:
            raise UserError(complaint.getvalue().strip()) from stop
    finally:
        sys.argv = before
    return said.getvalue()


# --- one case


def arrays_in(value: object) -> Iterator:
    """Every array and number in what a reader gave back."""
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, str | bytes) or value is None:
        return
    if hasattr(value, "clips"):
        assert not any(SECRET in caption for caption in value.captions)
        yield from (clip.features for clip in value)
        yield from (value.mean, value.std)
    elif isinstance(value, list | tuple) or type(value).__name__ == "dict_values":
        for part in value:
            yield from arrays_in(part)
    else:
        yield value


def run_case(readers: dict[str, Reader], seed: int, number: int) -> dict:
    """Damage one file, read it, mend it; what came of it."""
    import numpy as np

    from mocapfree_nb.files import UserError

    draw = random.Random(f"{seed} {number}")
    name = draw.choice(sorted(readers))
    reader = readers[name]
    path = Path(draw.choice(reader.damaged))
    before = path.read_bytes()
    kind = draw.choice(("bytes", "form", "form", "form", "form", "something else"))
    where, said, outcome = f"{name}: {path}: {kind}", "", "accepted"
    Path("now").write_text(where)  # in case there is no answer
    try:
        if kind == "something else":
            where += f": {put_something_else(draw, path)}"
        else:
            damage = of_any_kind if kind == "bytes" else FORMS.get(path.suffix, of_text)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                path.write_bytes(damage(draw, before))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = list(arrays_in(reader.read()))
        for array in found:
            if isinstance(array, float) and array in (float("inf"), float("-inf")):
                continue  # a score that nothing has beaten yet
            array = array.detach().double().numpy() if hasattr(array, "detach") else np.asarray(array)
            if array.dtype.kind in "fc" and not np.isfinite(array).all():
                outcome, said = "NaN", f"{array.dtype} {array.shape}"
    except UserError as error:
        outcome, said = "explained", str(error)
        if not said or not said.isprintable() or len(said) > 2000 or SECRET in said:
            outcome = "traceback"  # of no use to a reader, or shows what it should not
        if any(word in said for word in ("MemoryError", "not enough memory", "allocate memory")):
            outcome = "memory"
    except MemoryError:
        outcome, said = "memory", traceback.format_exc(limit=-3)
    except BaseException:
        outcome, said = "traceback", traceback.format_exc(limit=-4)
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(before)
        Path(LINKS["link to nothing"]).unlink(missing_ok=True)  # who writes through a link makes it
    if Path(MARKER).exists():
        outcome = "executed"
        Path(MARKER).rmdir()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > MEMORY:
        outcome = "memory"
    return {"number": number, "reader": name, "outcome": outcome, "where": where, "said": said, "peak": peak}


def serve(seed: int, names: list[str]) -> None:
    """Make the files, then do the cases whose numbers come in, one answer a line."""
    answers, sys.stdout = sys.stdout, sys.stderr
    tests = Path(__file__).resolve().parent
    sys.path.insert(0, str(tests))
    resource.setrlimit(resource.RLIMIT_DATA, (2 * MEMORY, 2 * MEMORY))  # for the machine's sake; counted is from half on
    import torch

    torch.set_num_threads(1)
    os.environ["MOCAPFREE_CACHE"] = str(Path.cwd() / "cache")
    readers = make_readers()
    readers = {name: readers[name] for name in names or readers}
    print(json.dumps(sorted(readers)), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run_case(readers, seed, int(line))), file=answers, flush=True)


# --- many cases


class Worker:
    """A process that does cases, in a folder of its own; made anew after a hang or a crash."""

    def __init__(self, seed: int, names: list[str]):
        self.arguments = [sys.executable, __file__, "--serve", "--seed", str(seed), "--readers", *names]
        self.start()

    def start(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="fuzz-")
        self.process = subprocess.Popen(
            self.arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self.folder, text=True, encoding="utf-8"
        )
        self.lines: Queue = Queue()
        threading.Thread(target=self._listen, args=(self.process.stdout, self.lines), daemon=True).start()
        if self.lines.get() is None:
            raise SystemExit("the files could not be made; see above")

    @staticmethod
    def _listen(stream, lines: Queue) -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    def run(self, number: int) -> dict:
        with contextlib.suppress(BrokenPipeError):
            print(number, file=self.process.stdin, flush=True)
        line, outcome = self._answer()
        if line is not None:
            result = json.loads(line)
            if result["outcome"] == "memory":  # the next case starts from little
                self.stop()
                self.start()
            return result
        now = Path(self.folder, "now")
        where = now.read_text() if now.exists() else "before any reading"
        self.stop()
        self.start()
        return {"number": number, "reader": where.split(":")[0], "outcome": outcome, "where": where, "said": "", "peak": 0}

    def _answer(self) -> tuple[str | None, str]:
        """The line that comes back; none where the process ended, or hangs: sleeps for 20 s, or works for more than that.

        On a busy machine 20 s of the clock alone say nothing.
        """
        begun = worked = self._work()
        while True:
            try:
                return self.lines.get(timeout=PATIENCE), "traceback"
            except Empty:
                before, worked = worked, self._work()
                if worked - before < 0.05 or worked - begun > PATIENCE:
                    return None, "hang"

    def _work(self) -> float:
        """Seconds of processor time that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--readers", nargs="*", default=[], help="only these (default: all)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.seed, asked.readers)
        return 0
    numbers, results = Queue(), []
    for number in range(asked.first, asked.first + asked.cases):
        numbers.put(number)

    def work() -> None:
        worker = Worker(asked.seed, asked.readers)
        try:
            while True:
                results.append(worker.run(numbers.get_nowait()))
        except Empty:
            pass
        finally:
            worker.stop()

    threads = [threading.Thread(target=work) for _ in range(asked.workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:  # what is done so far is reported
        numbers.queue.clear()
    return report(results, asked.cases, asked.seed)


def report(results: list[dict], cases: int, seed: int) -> int:
    """Print the faults and the table; the exit status."""
    faults = [result for result in results if result["outcome"] not in ("explained", "accepted")]
    for fault in sorted(faults, key=lambda fault: fault["number"]):
        print(f"case {fault['number']} {fault['outcome']}: {fault['where']}\n    {fault['said'].strip()}\n")
    print(f"{'':24}" + "".join(f"{outcome:>11}" for outcome in OUTCOMES))
    for name in (*sorted({result["reader"] for result in results}), "all"):
        count = Counter(result["outcome"] for result in results if name in (result["reader"], "all"))
        print(f"{name:24}" + "".join(f"{count[outcome]:>11}" for outcome in OUTCOMES))
    peak = max((result["peak"] for result in results), default=0) / 2**20
    print(f"{len(results)} cases, seed {seed}, at most {peak:.0f} MiB of memory")
    return int(bool(faults) or len(results) != cases)


if __name__ == "__main__":
    sys.exit(main())
