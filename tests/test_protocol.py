"""The published evaluation: its rules, its numbers against loops written by hand, and the command on a small stand-in."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from typer.testing import CliRunner

from mocapfree_nb.cli import app
from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.models.latent import LatentDenoiser
from mocapfree_nb.models.mdm import MDM
from mocapfree_nb.models.unet import MotionUNet
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.published import protocol, retrieval_protocol
from mocapfree_nb.published.encoders import TMR, GuoEvaluator, GuoWords
from mocapfree_nb.published.protocol import Evaluation, Generator, TextMotionEvaluator, published_sampler
from mocapfree_nb.published.samples import PROTOCOLS, draw_pass, samples_of
from mocapfree_nb.sources import Caption, Recording
from mocapfree_nb.text import TextEmbedding

HUMANML3D, KIT = PROTOCOLS["humanml3d"], PROTOCOLS["kit"]
REFERENCE = Path(__file__).parent / "reference"


def recording(frames, *captions, name="clip", features=263):
    values = np.random.default_rng(frames).normal(size=(frames, features)).astype(np.float32)
    return Recording(name, values, captions or (Caption("walks"),))


# --- which samples


@pytest.mark.parametrize(
    ("rules", "frames", "captions", "expected"),
    [
        (HUMANML3D, 39, [("a", 0, 0)], []),
        (HUMANML3D, 40, [("a", 0, 0)], [(0, 40)]),
        (HUMANML3D, 199, [("a", 0, 0)], [(0, 199)]),
        (HUMANML3D, 200, [("a", 0, 0), ("b", 1, 4)], []),  # too long: its parts are left out with it
        (HUMANML3D, 100, [("a", 1, 2.99), ("b", 0, 0)], [(0, 100)]),  # int(2.99 * 20) = 59: 39 frames are too few
        (HUMANML3D, 100, [("a", 1, 3.5), ("b", 0, 0), ("c", 0, 0)], [(20, 50), (0, 100)]),
        (HUMANML3D, 100, [("a", 3, 9)], [(60, 40)]),  # a part that ends after the clip ends with it
        (KIT, 23, [("a", 0, 0)], []),
        (KIT, 24, [("a", 0, 0)], [(0, 24)]),
        (KIT, 100, [("a", 1, 3)], [(20, 40)]),  # 20 frames a second, though KIT-ML has 12.5
    ],
)
def test_samples_follow_the_original_rules(rules, frames, captions, expected):
    found = samples_of(recording(frames, *(Caption(t, "", start, end) for t, start, end in captions)), rules)
    assert [(sample.first, sample.length) for sample in found] == expected


def test_a_part_keeps_its_own_caption_and_the_whole_keeps_the_others():
    clip = recording(120, Caption("whole"), Caption("part", "", 1.0, 4.0), Caption("whole too"))
    part, whole = samples_of(clip, HUMANML3D)
    assert [c.text for c in part.captions] == ["part"] and [c.text for c in whole.captions] == ["whole", "whole too"]
    assert np.array_equal(part.motion(4, 8), clip.features[24:32])


# --- what is drawn


def test_a_pass_draws_lengths_places_and_captions_as_published():
    clips = [recording(60 + i % 40, Caption("a"), Caption("b"), name=str(i)) for i in range(3200)]
    samples = [sample for clip in clips for sample in samples_of(clip, HUMANML3D)]
    drawn = draw_pass(samples, HUMANML3D, np.random.default_rng(0))
    whole = np.array([sample.length for sample in drawn.samples])
    assert len(drawn) == 3200 and len({sample.recording.name for sample in drawn.samples}) == 3200
    shorter = drawn.lengths == (whole // 4 - 1) * 4
    assert np.all(shorter | (drawn.lengths == whole // 4 * 4))
    assert shorter.mean() == pytest.approx(1 / 3, abs=0.03)
    assert np.all(drawn.first >= 0) and np.all(drawn.first + drawn.lengths <= whole)
    assert set(drawn.first[whole - drawn.lengths == 7]) == set(range(8))  # both ends included
    assert np.mean([caption.text == "a" for caption in drawn.captions]) == pytest.approx(0.5, abs=0.03)
    motion, lengths = drawn.motions([5, 6])
    for row, i in enumerate([5, 6]):
        assert lengths[row] == drawn.lengths[i] and not motion[row, lengths[row] :].any()
        expected = drawn.samples[i].recording.features[drawn.first[i] :][: lengths[row]]
        assert np.array_equal(motion[row, : lengths[row]].numpy(), expected)


def test_incomplete_batches_are_dropped_and_the_limit_holds():
    samples = samples_of(recording(60), HUMANML3D) * 100
    assert len(draw_pass(samples, HUMANML3D, np.random.default_rng(0))) == 96
    assert len(draw_pass(samples, HUMANML3D, np.random.default_rng(0), limit=70)) == 64


# --- the numbers


def small_guo(features=263):
    torch.manual_seed(0)
    size = {"movement_hidden": 16, "movement": 16, "motion_hidden": 24, "text_hidden": 16, "embedding": 12}
    model = GuoEvaluator(num_features=features, **size)
    model.set_statistics(torch.randn(features), torch.rand(features) + 0.5)
    return model.eval()


def small_words(captions):
    words = sorted({word for caption in captions for word in caption.lower().split()} | {"sos", "eos", "unk"})
    return GuoWords(words, np.random.default_rng(0).normal(size=(len(words), 300)))


@torch.no_grad()
def by_loops(model, words, drawn, again):
    "The original procedure, one batch at a time, sorted by length as it does, in plain numpy."

    def embed(rows, source):
        order = np.argsort([-source.lengths[i] for i in rows], kind="stable")
        rows = [rows[i] for i in order]
        motions = torch.zeros(len(rows), 196, model.num_features)
        for row, i in enumerate(rows):
            first, length = source.first[i], source.lengths[i]
            raw = torch.from_numpy(source.samples[i].recording.features[source.samples[i].first + first :][:length])
            motions[row, :length] = (raw - model.feature_mean) / model.feature_std
        lengths = torch.tensor([source.lengths[i] // 4 for i in rows])
        movements = model.movement_encoder(motions[..., :-4])
        packed = torch.nn.utils.rnn.pack_padded_sequence(model.motion_encoder.input(movements), lengths, batch_first=True)
        _, last = model.motion_encoder.gru(packed, model.motion_encoder.start.repeat(1, len(rows), 1))
        return rows, model.motion_encoder.head(torch.cat([last[0], last[1]], -1)).double().numpy()

    hits, distances, motion = np.zeros(3), 0.0, []
    for start in range(0, len(drawn), 32):
        rows, of_motion = embed(list(range(start, start + 32)), drawn)
        of_text = np.concatenate([model.encode_text(words([drawn.captions[i].text])).double().numpy() for i in rows])
        distance = np.sqrt(((of_text[:, None] - of_motion[None]) ** 2).sum(-1))
        distances += distance.trace()
        place = np.argsort(distance, axis=1)
        for k in range(3):
            hits[k] += sum(row in place[row, : k + 1] for row in range(32))
        motion.append(of_motion)
    motion = np.concatenate(motion)
    real = np.concatenate([embed(list(range(i, i + 32)), again)[1] for i in range(0, len(again), 32)])
    cov_real, cov_motion = np.cov(real, rowvar=False), np.cov(motion, rowvar=False)
    root = scipy.linalg.sqrtm(cov_real @ cov_motion).real
    fid = ((real.mean(0) - motion.mean(0)) ** 2).sum() + np.trace(cov_real + cov_motion - 2 * root)
    return hits / len(drawn), fid, distances / len(drawn)


def test_a_replication_equals_the_original_procedure_written_as_loops():
    captions = [f"a man number{i % 7} walks to place{i % 11}" for i in range(100)]
    clips = [recording(60 + i, Caption(captions[i]), name=str(i)) for i in range(100)]
    samples = [sample for clip in clips for sample in samples_of(clip, HUMANML3D)]
    model, words = small_guo(), small_words(captions)
    evaluation = Evaluation(HUMANML3D, samples, TextMotionEvaluator(model, words), limit=64, seed=5)
    found = evaluation(3)["real motion"]
    random = np.random.default_rng([5, 3])
    drawn = draw_pass(samples, HUMANML3D, random, 64)
    precision, fid, distance = by_loops(model, words, drawn, draw_pass(samples, HUMANML3D, random))
    assert found["r_precision"] == pytest.approx(precision.tolist(), abs=1e-12)
    assert found["fid"][0] == pytest.approx(fid, rel=1e-4, abs=1e-6)
    assert found["matching_distance"][0] == pytest.approx(distance, rel=1e-5)


def test_an_evaluator_that_sorts_by_length_is_refused():
    captions = [f"caption {i}" for i in range(96)]
    samples = [s for i in range(96) for s in samples_of(recording(60 + i, Caption(captions[i])), HUMANML3D)]
    table = dict(zip(captions, torch.randn(96, 8, generator=torch.Generator().manual_seed(0)), strict=True))

    class Sorting:
        "A evaluator whose motions lie where their captions do, but come back longest first, as the original code gives them."

        def text(self, asked):
            return torch.stack([table[caption] for caption in asked])

        def real(self, drawn):
            longest_first = torch.as_tensor(drawn.lengths).argsort(descending=True)
            return self.text([caption.text for caption in drawn.captions])[longest_first]

    with pytest.raises(UserError, match="sorted by length"):
        Evaluation(HUMANML3D, samples, Sorting())(0)


def test_measure_equals_the_published_metrics():
    arrays = np.load(REFERENCE / "metrics.npz", allow_pickle=False)
    text, fake = torch.tensor(arrays["text"]), torch.tensor(arrays["fake"])
    found = protocol.measure(text, fake, text, np.random.default_rng(0))
    assert found["r_precision"] == arrays["r_precision_fake"].tolist()
    assert found["matching_distance"][0] == pytest.approx(float(arrays["matching_score_fake"]), rel=1e-6)


def test_twenty_replications_get_the_published_mean_and_interval():
    arrays = np.load(REFERENCE / "metrics.npz", allow_pickle=False)
    found = protocol.summarise([{"fid": [float(value)]} for value in arrays["replication_values"]])
    assert found["fid"]["mean"][0] == pytest.approx(float(arrays["replication_mean"]), rel=1e-12)
    assert found["fid"]["interval"][0] == pytest.approx(float(arrays["replication_ci95"]), rel=1e-12)


class Copying:
    "A generator that remembers what it was asked, and answers with motion that depends on it."

    def __init__(self, spread):
        self.asked, self.spread = [], spread

    def __call__(self, captions, lengths, seed):
        self.asked.append((list(captions), lengths.clone(), seed))
        draw = torch.Generator().manual_seed(seed)
        motion = torch.randn(len(captions), int(lengths.max()), 263, generator=draw) * self.spread
        return motion * (torch.arange(motion.shape[1]) < lengths[:, None])[..., None]


def test_the_model_is_asked_for_the_drawn_captions_and_lengths():
    captions = [f"caption {i}" for i in range(64)]
    samples = [s for i in range(64) for s in samples_of(recording(60 + i, Caption(captions[i])), HUMANML3D)]
    maker, evaluator = Copying(1.0), TextMotionEvaluator(small_guo(), small_words(captions))
    evaluation = Evaluation(HUMANML3D, samples, evaluator, maker, captions=5, repeats=30)
    rows = evaluation(0)
    drawn = draw_pass(samples, HUMANML3D, np.random.default_rng([0, 0]))
    asked, lengths, _ = maker.asked[0]
    assert asked == [caption.text for caption in drawn.captions] and lengths.tolist() == drawn.lengths.tolist()
    many, many_lengths, _ = maker.asked[1]
    assert len(many) == 150 and len(set(many)) == 5
    assert all(len(set(many[i : i + 30])) == 1 and len(set(many_lengths[i : i + 30].tolist())) == 1 for i in range(0, 150, 30))
    assert set(rows) == {"real motion", "model"} and len(rows["model"]["multimodality"]) == 1
    assert rows["model"]["multimodality"][0] > 0
    one_way = Evaluation(HUMANML3D, samples, evaluator, Copying(0.0), captions=5, repeats=30)(0)
    assert one_way["model"]["multimodality"][0] == pytest.approx(0, abs=1e-5)
    assert one_way["real motion"] == rows["real motion"]  # real motion does not depend on the model
    assert "multimodality" not in Evaluation(HUMANML3D, samples, evaluator, Copying(1.0), captions=0)(0)["model"]


# --- models under test


def test_a_generator_gives_each_caption_its_motion_whatever_stands_beside_it():
    size = {"width": 16, "layers": 1, "feedforward": 16, "num_timesteps": 4}

    def read(captions):
        one = torch.ones(len(captions), 1, 512)
        return TextEmbedding(one, torch.ones(len(captions), 1, dtype=torch.bool), one[:, 0])

    for mask_frames in (False, True):
        make = Generator(DiffusionPolicy(MDM(**size, mask_frames=mask_frames), read, steps=4))
        motion, alone = make(["a", "b"], torch.tensor([44, 60]), 0), make(["a"], torch.tensor([44]), 0)
        assert motion.shape == (2, 60, 263) and motion[1].any(-1).all() and not motion[0, 44:].any()
        assert (motion[:1, :44] - alone).abs().max() < 1e-5


def test_published_models_are_sampled_as_published():
    mdm = MDM(width=16, layers=1, feedforward=16, num_timesteps=1000)
    assert published_sampler(mdm) == {"steps": 1000, "guidance_scale": 2.5}
    mld = LatentDenoiser(words=False, width=16, layers=3, feedforward=16, text_width=768, prediction="noise", num_timesteps=1000)
    assert published_sampler(mld) == {"steps": 50, "guidance_scale": 7.5, "eta": 0.0, "spacing": "leading"}
    unet = MotionUNet(channels=(8,), text_width=512, num_timesteps=1000)
    assert published_sampler(unet)["solver"] == "sde-dpmsolver++2m"
    assert published_sampler(MotionDenoiser(width=16, layers=1))["steps"] == 10


def test_a_chosen_solver_comes_without_the_eta_of_the_authors(world, tmp_path, monkeypatch):
    size = dict(width=16, layers=3, feedforward=16, text_width=768, prediction="noise", num_timesteps=1000)
    LatentDenoiser(words=False, **size).save_pretrained(tmp_path / "mld")
    monkeypatch.setattr(protocol, "text_encoder_for", lambda *_: None)
    monkeypatch.setattr(protocol, "DiffusionPolicy", lambda denoiser, encoder, **settings: settings)
    monkeypatch.setattr(protocol, "Generator", lambda settings: settings)
    cases = [({}, 0.0), ({"steps": 5}, 0.0), ({"eta": 0.5}, 0.5), ({"solver": "ddim", "eta": 0.5}, 0.5)]
    cases += [({"solver": "ddim"}, None), ({"solver": "sde-dpmsolver++2m"}, None)]  # None: the solver's own
    for sampling, eta in cases:
        settings = protocol.load_generator(tmp_path / "mld", HUMANML3D, world / "data", sampling=sampling)
        assert settings.get("eta") == eta and settings.get("solver") == sampling.get("solver")


# --- retrieval


def test_the_four_retrieval_protocols_are_what_they_say():
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(140, 16, generator=draw)
    motion = text + torch.randn(140, 16, generator=draw)
    sentence = torch.nn.functional.normalize(torch.randn(140, 8, generator=draw), dim=-1)
    sentence[10] = sentence[3]  # the same meaning
    found = retrieval_protocol.retrieval_protocols(text, motion, sentence)
    unit = torch.nn.functional.normalize
    similarity = (unit(text, dim=-1) @ unit(motion, dim=-1).T).double().numpy()

    def top(matrix, k):
        return 100 * np.mean([(row > row[i]).sum() < k for i, row in enumerate(matrix)])

    assert found["all"]["t2m/R03"] == pytest.approx(top(similarity, 3))
    assert found["all"]["m2t/R05"] == pytest.approx(top(similarity.T, 5))
    assert found["threshold"]["t2m/R01"] >= found["all"]["t2m/R01"]
    order = np.arange(140)
    np.random.seed(0)
    np.random.shuffle(order)
    parts = [order[32 * i : 32 * (i + 1)] for i in range(4)]
    assert found["batches"]["t2m/R01"] == pytest.approx(np.mean([top(similarity[np.ix_(p, p)], 1) for p in parts]))
    own = retrieval_protocol.retrieval_protocols(text, motion, sentence, torch.tensor([5, 9, 77]))
    assert own["dissimilar"]["t2m/R02"] == pytest.approx(top(similarity[np.ix_([5, 9, 77], [5, 9, 77])], 2))


def test_a_caption_of_the_same_meaning_counts_only_with_a_threshold():
    text = torch.eye(40)
    motion = torch.eye(40)[[1, 0, *range(2, 40)]]  # the first two are exchanged
    sentence = torch.eye(40)
    sentence[1] = sentence[0]
    found = retrieval_protocol.retrieval_protocols(text, motion, sentence)
    assert found["threshold"]["t2m/R01"] == 100 and found["all"]["t2m/R01"] == pytest.approx(100 * 38 / 40)


def test_the_dissimilar_subset_is_far_apart():
    sentence = torch.nn.functional.normalize(torch.randn(400, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    rows = retrieval_protocol.dissimilar_subset(sentence, 20)
    assert len(set(rows.tolist())) == 20
    closest = lambda chosen: (sentence[chosen] @ sentence[chosen].T - 2 * torch.eye(20)).max()
    assert closest(rows) < min(closest(torch.randperm(400, generator=torch.Generator().manual_seed(i))[:20]) for i in range(20))


# --- the command, on a small stand-in for everything


def write_data(folder, features=263, count=70):
    "A folder as HumanML3D and KIT-ML ship, with tagged captions, from procedural clips."
    corpus = load_corpus("procedural", num_clips=count * 3)
    clips = [clip for clip in corpus if len(clip) >= 44][:count]
    for part in ("new_joint_vecs", "texts"):
        (folder / part).mkdir(parents=True)
    captions = []
    for i, clip in enumerate(clips):
        np.save(folder / "new_joint_vecs" / f"{i:06d}.npy", clip.features[:, :features])
        lines = []
        for caption in clip.captions:
            tokens = " ".join(f"{word.strip('.,')}/NOUN" for word in caption.lower().split())
            lines.append(f"{caption}#{tokens}#0.0#0.0")
            captions.append(caption)
        (folder / "texts" / f"{i:06d}.txt").write_text("\n".join(lines) + "\n")
    names = [f"{i:06d}" for i in range(len(clips))]
    (folder / "test.txt").write_text("\n".join(names) + "\n")
    (folder / "train.txt").write_text(names[0] + "\n")
    np.save(folder / "Mean.npy", corpus.mean[:features])
    np.save(folder / "Std.npy", corpus.std[:features])
    return captions


def write_evaluator(folder, data, features=263, own=True):
    "A Guo evaluator with random weights, its own normalisation, and word vectors."
    model = small_guo(features)
    mean, std = np.load(data / "Mean.npy"), np.load(data / "Std.npy")
    if own:
        std = std.copy()
        std[:4] /= 25
        std[-4:] /= 25
    model.set_statistics(torch.tensor(mean), torch.tensor(std))
    model.save_pretrained(folder)
    return folder


def write_glove(folder, captions):
    folder.mkdir(parents=True)
    words = sorted({word.strip(".,") for caption in captions for word in caption.lower().split()} | {"sos", "eos", "unk"})
    np.save(folder / "our_vab_data.npy", np.random.default_rng(0).normal(size=(len(words), 300)).astype(np.float32))
    (folder / "our_vab_words.pkl").write_bytes(pickle.dumps(words))
    (folder / "our_vab_idx.pkl").write_bytes(pickle.dumps({word: i for i, word in enumerate(words)}))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    captions = write_data(root / "data")
    write_glove(root / "glove", captions)
    write_evaluator(root / "evaluator", root / "data")
    torch.manual_seed(1)
    MotionDenoiser(width=16, layers=1, heads=2, feedforward=16).save_pretrained(root / "model")
    return root


def call(*arguments):
    return CliRunner().invoke(app, ["evaluate", "--device", "cpu", *map(str, arguments)], catch_exceptions=True)


def test_the_command_prints_the_table_and_goes_on_where_it_stopped(world, tmp_path):
    base = ["--protocol", "humanml3d", "--data", world / "data", "--evaluator", world / "evaluator", "--model", world / "model"]
    base += ["--denoising-steps", "2", "--samples", "64", "--no-multimodality", "--out", tmp_path / "r.json"]
    done = call(*base, "--replications", "2")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    head = next(i for i, line in enumerate(lines) if line.split()[:2] == ["R@1", "R@2"])
    names = [line.strip().split("  ")[0] for line in lines[head + 1 :]]
    here = ["here: real motion", "95% interval", "here: model", "95% interval"]
    assert names[:6] == [*here, "real motion (Guo et al. 2022)", "MDM (corrected)"]
    assert "0.418" in lines[head + 6] and lines[-1] == "humanml3d: 64 samples, 2 replications"
    assert all(cell.startswith("±") or cell == "-" for cell in lines[head + 2].split()[2:])
    assert max(map(len, lines[head:])) <= 98  # what a page of 1,300 pixels has room for beside its file browser
    first = json.loads((tmp_path / "r.json").read_text())
    assert first["rows"]["real motion"]["fid"]["mean"][0] < first["rows"]["model"]["fid"]["mean"][0]
    more = call(*base, "--replications", "3")
    assert more.exit_code == 0, more.output
    second = json.loads((tmp_path / "r.json").read_text())
    assert second["each"][:2] == first["each"] and len(second["each"]) == 3
    other = call(*base, "--replications", "3", "--seed", "7")
    assert isinstance(other.exception, UserError) and "holds another evaluation" in str(other.exception)


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ([], {}),
        (["--solver", "ddim"], {"solver": "ddim"}),
        (["--eta", "0.5"], {"solver": "ddim", "eta": 0.5}),
        (["--solver", "ddpm", "--denoising-steps", "5"], {"solver": "ddpm", "steps": 5}),
    ],
)
def test_the_command_overrules_the_authors_only_where_it_is_told_to(options, sampling, monkeypatch):
    monkeypatch.setattr(protocol, "run", lambda *where, **_: json.dumps(where[-1]))
    done = call("--protocol", "humanml3d", "--data", "data", "--evaluator", "evaluator", *options)
    assert json.loads(done.stdout) == sampling


def test_the_command_evaluates_kit_in_its_251_features(tmp_path):
    captions = write_data(tmp_path / "data", features=251)
    write_glove(tmp_path / "glove", captions)
    write_evaluator(tmp_path / "evaluator", tmp_path / "data", features=251)
    done = call("--protocol", "kit", "--data", tmp_path / "data", "--evaluator", tmp_path / "evaluator", "--replications", "1")
    assert done.exit_code == 0, done.output
    assert "0.424" in done.output and "here: model" not in done.output


def test_the_command_measures_retrieval(world, tmp_path):
    from mocapfree_nb.files import WEIGHTS

    arguments = ["--protocol", "retrieval", "--data", world / "data", "--retrieval", WEIGHTS / "retrieval"]
    done = call(*arguments, "--out", tmp_path / "r")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "r").read_text())
    assert list(found) == ["all", "threshold", "dissimilar", "batches"]
    assert found["batches"]["t2m/R01"] > 3 * 100 / 32  # the shipped network knows these clips: far better than guessing
    (world / "data" / "nsim_test.txt").write_text("000001\n000002\n")
    call(*arguments, "--out", tmp_path / "r")
    assert json.loads((tmp_path / "r").read_text())["dissimilar"]["t2m/R02"] == 100  # among two
    (world / "data" / "nsim_test.txt").unlink()


def test_mistakes_are_one_line(world, tmp_path):
    good = {"--protocol": "humanml3d", "--data": world / "data", "--evaluator": world / "evaluator", "--model": world / "model"}
    good |= {"--replications": "1", "--denoising-steps": "2"}
    TMR(width=16, layers=1, feedforward=16).save_pretrained(tmp_path / "tmr")
    MotionDenoiser(num_features=251, width=16, layers=1, heads=2, feedforward=16).save_pretrained(tmp_path / "kit")
    wrong = write_evaluator(tmp_path / "wrong", world / "data", own=False)
    (tmp_path / "few").mkdir()
    write_data(tmp_path / "few" / "data", count=20)
    cases = [
        ({"--data": None}, "needs --data"),
        ({"--evaluator": None}, "needs --evaluator"),
        ({"--evaluator": tmp_path / "tmr"}, "is a TMR, not an evaluator"),
        ({"--evaluator": wrong}, "came with the mean and deviation of the data set"),
        ({"--model": world / "evaluator"}, "is a GuoEvaluator, which generates no motion"),
        ({"--model": tmp_path / "kit"}, "makes motion of 251 features"),
        ({"--protocol": "kit"}, "protocol kit is for 251"),
        ({"--glove": tmp_path}, "no word vectors"),
        ({"--data": tmp_path / "few" / "data"}, "gives 20 samples; the protocol needs 32"),
        ({"--data": tmp_path / "nowhere"}, "no corpus at"),
    ]
    for change, message in cases:
        arguments = [str(part) for pair in (good | change).items() if pair[1] is not None for part in pair]
        done = call(*arguments)
        assert isinstance(done.exception, UserError) and message in str(done.exception), (change, done.output, done.exception)
        assert "\n" not in str(done.exception)


def test_our_own_evaluator_works_too(world):
    from mocapfree_nb.files import WEIGHTS

    done = call("--protocol", "humanml3d", "--data", world / "data", "--evaluator", WEIGHTS / "evaluator", "--replications", "1")
    assert done.exit_code == 0, done.output
    row = next(line for line in done.stdout.splitlines() if line.startswith("here: real motion")).split()
    assert float(row[3]) > 3 / 32  # R-precision@1: it knows these clips
