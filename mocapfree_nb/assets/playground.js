// The page: what is asked, the two models that answer, and what is seen of it. What comes from data stays text.

const page = JSON.parse(document.getElementById("playground-data").textContent);
const byId = (id) => document.getElementById(id);
const sentences = page.captions.map(([sentence]) => sentence);

// ---- models and sentences

const unpackNetwork = async ({ arrays: list, data, ...about }) => ({ ...about, net: await arrays(list, data) });

const loaded = (async () => {
  const models = await Promise.all(page.models.map(unpackNetwork)), scorer = await unpackNetwork(page.scorer);
  const tokens = halves(await inflate(page.text.data)), vectors = halves(await inflate(page.text.vectors));
  const { width } = page, size = vectors.length / sentences.length;
  let at = 0;
  const texts = new Map(page.text.counts.map((count, i) => {
    const own = tokens.subarray(at * width, (at + count) * width), pooled = new Float64Array(width);
    own.forEach((value, k) => { pooled[k % width] += value; });
    const length = Math.hypot(...pooled);
    at += count;
    const text = { tokens: own, count, pooled: pooled.map((value) => value / length) };
    return [sentences[i], { ...text, label: page.captions[i][1], vector: vectors.subarray(i * size, (i + 1) * size) }];
  }));
  return { models, scorer, texts };
})();

const DEFAULTS = { sentence: sentences[0], second: null, mix: 0, seed: 0, steps: 10, guidance: 2.5, solver: "ddim", eta: 1,
  frames: 48, noise: null };
let turn = 0;

// One motion of every model: [{name, states, predicted, raw, joints}], or null where a newer call came between. `noise`
// takes the place of the seed's: an array of frames * features numbers for the start, and one a step but the last.
async function run(options = {}) {
  const own = (turn += 1), given = { ...DEFAULTS, ...options }, { models, texts } = await loaded, found = [];
  const asked = given.mix ? [[given.sentence, 1 - given.mix], [given.second, given.mix]] : [[given.sentence, 1]];
  for (const [sentence] of asked) if (!texts.has(sentence)) throw new Error(`no such sentence here: ${sentence}`);
  const shares = asked.map(([sentence, share]) => [texts.get(sentence), share]);
  for (const model of models) {
    const noise = given.noise || drawNoise(given.seed, given.steps, given.frames * model.config.features);
    const sampled = await sampleSteps(model, shares, given.frames, noise, given, () => own !== turn);
    if (!sampled) return null;
    const raw = denormalise(model, sampled.states[given.steps]);
    found.push({ name: model.name, model, ...sampled, raw, joints: featuresToJoints(raw, given.frames, model.config.features) });
  }
  return found;
}

// ---- from motion to a scene of the player

function sceneOf(found, given, { scorer, texts }) {
  const { frames } = given, joints = page.scene.parents.length, size = frames * joints * 3;
  const times = planSampling(found[0].model.config.alphas, given.steps, given.solver, given.eta).map(({ t }) => `t = ${t}`);
  const steps = given.series === "states" ? [...times, "motion"] : times;
  let height = 0, reach = 0.5;
  const lines = [], scores = [];
  const panels = found.map(({ name, model, seed, joints: final, ...series }) => {
    const all = new Float32Array(steps.length * size), scored = [];
    const { features } = model.config, [x0, z0] = [final[0], final[2]];
    series[given.series].forEach((state, step) => {
      const raw = denormalise(model, state), motion = featuresToJoints(raw, frames, features);
      for (let i = 0; i < size; i++) all[step * size + i] = motion[i] - (i % 3 === 0 ? x0 : i % 3 === 2 ? z0 : 0);
      scored.push(retrievalScore(embedMotion(scorer, raw, frames), texts.get(given.sentence).vector));
    });
    for (let frame = 0, at = 0; frame < frames; frame++) {
      for (let j = 0; j < joints; j++, at += 3) {
        height = Math.max(height, final[at + 1]);
        reach = Math.max(reach, Math.hypot(final[at] - final[frame * joints * 3], final[at + 2] - final[frame * joints * 3 + 2]));
      }
    }
    const body = new Body(final, frames), hands = [0, 1].map((side) => body.overHead(side));
    lines.push({ name, values: hands[0].map((y, t) => Math.max(y, hands[1][t])) });
    scores.push({ name, values: scored });
    return { name, caption: given.tries > 1 ? `seed ${seed}` : "", frames, joints: all, contacts: resting(all, frames, joints, steps.length) };
  });
  const charts = [
    { lines: scores, along: "step", title: "score", first: 0 },
    { lines, along: "frame", title: "wrist, m", first: 0 },
  ];
  return { ...page.scene, panels, steps, charts, height: height + 0.2, reach };
}

// Which feet rest, a hexadecimal digit a frame, as `viewer.resting_feet` says it.
function resting(all, frames, joints, steps) {
  const size = joints * 3, { feet, fps } = page.scene;
  return Array.from({ length: steps }, (_, step) => Array.from({ length: frames }, (_, frame) => {
    const here = (step * frames + frame) * size, next = frame + 1 < frames ? here + size : here;
    return feet.reduce((bits, joint, i) => {
      const [a, b] = [here + 3 * joint, next + 3 * joint];
      const speed = fps * Math.hypot(all[b] - all[a], all[b + 1] - all[a + 1], all[b + 2] - all[a + 2]);
      return bits | (speed < 0.4 && Math.abs(all[a + 1]) < 0.12 ? 1 << i : 0);
    }, 0).toString(16);
  }).join(""));
}

// ---- numbers

const whole = (value, unit) => `${Math.round(value)}${unit}`.replace("-", "\u2212");
const centimetres = (metres) => whole(100 * metres, " cm");

function measures({ raw, joints }, given, { scorer, texts }) {
  const body = new Body(joints, given.frames), [ahead, left] = body.went(), motion = embedMotion(scorer, raw, given.frames);
  const rows = [];
  for (const sentence of given.mix ? [given.sentence, given.second] : [given.sentence]) {
    const { label, vector } = texts.get(sentence), passed = checkMotion(body, label);
    rows.push([given.mix ? `Retrieval score: ${sentence}` : "Retrieval score", retrievalScore(motion, vector).toFixed(3)]);
    if (passed !== null) rows.push([`Geometric check: ${label}`, passed ? "passes" : "fails"]);
  }
  rows.push(["Left wrist above the head, at most", centimetres(most(body.overHead(0)))]);
  rows.push(["Right wrist above the head, at most", centimetres(most(body.overHead(1)))]);
  rows.push(["Lowest pelvis", centimetres(least(body.heights(0)))]);
  rows.push(["Left ankle, at most", centimetres(most(body.heights(7)))]);
  rows.push(["Right ankle, at most", centimetres(most(body.heights(8)))]);
  rows.push(["Trunk bends forward, at most", whole(most(body.stoop()), "°")]);
  rows.push(["Way to the front", centimetres(ahead)], ["Way to the left", centimetres(left)]);
  return rows;
}

// `edited` are the same motions with their edits: what changed is shown as "before → now".
function showNumbers(found, edited, given, parts) {
  const columns = found.map((one, i) => {
    const before = measures(one, given, parts), now = one === edited[i] ? before : measures(edited[i], given, parts);
    return before.map(([name, value], k) => [name, value === now[k][1] ? [value] : [`${value} \u2192`, now[k][1]]]);
  });
  const table = byId("numbers"), head = make("tr", {}, make("th", { scope: "col" }, "measure"));
  for (const { name } of found) head.append(make("th", { scope: "col" }, name));
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...columns[0].map(([name], i) => make("tr", {}, make("th", { scope: "row" }, name),
    ...columns.map((rows) => make("td", {}, ...rows[i][1].flatMap((words) => [make("span", {}, words), " "]))))));
}

// ---- edits: the motion is spoilt bit by bit, and score and check answer

const EDITS = ["lower", "bend", "shrink"];
let shown = null; // what the player shows: { found, given, parts }

function editsNow() { return Object.fromEntries(EDITS.map((id) => [id, +byId(id).value])); }

function showEdited() {
  if (!shown) return;
  const { found, given, parts } = shown, { frames } = given, wanted = editsNow(), spoilt = EDITS.some((id) => wanted[id]);
  const edited = found.map((one) => {
    const { features } = one.model.config, raw = spoilt ? editMotion(one.raw, frames, features, wanted, page.body) : one.raw;
    return spoilt ? { ...one, raw, joints: featuresToJoints(raw, frames, features) } : one;
  });
  edited.forEach(({ raw, joints }, i) => {
    const panel = player.panels[i], at = player.lastStep * joints.length, start = found[i].joints, body = new Body(joints, frames);
    for (let k = 0; k < joints.length; k++) panel.joints[at + k] = joints[k] - (k % 3 === 0 ? start[0] : k % 3 === 2 ? start[2] : 0);
    panel.contacts[player.lastStep] = resting(panel.joints.subarray(at), frames, page.scene.parents.length, 1)[0];
    const [score, wrist] = player.charts, hands = [0, 1].map((side) => body.overHead(side));
    score.lines[i].values[player.lastStep] = retrievalScore(embedMotion(parts.scorer, raw, frames), parts.texts.get(given.sentence).vector);
    wrist.lines[i].values = hands[0].map((y, t) => Math.max(y, hands[1][t]));
  });
  shown.edited = edited;
  player.draw();
  showNumbers(found, edited, given, parts);
}

// In words, for each model: what the edits do to score and check.
function verdict() {
  if (!shown) return;
  const { found, edited, given, parts } = shown, { label, vector } = parts.texts.get(given.sentence);
  const judge = ({ raw, joints }) => [retrievalScore(embedMotion(parts.scorer, raw, given.frames), vector),
    checkMotion(new Body(joints, given.frames), label)];
  byId("verdict").textContent = EDITS.every((id) => !+byId(id).value) ? "" : found.map((one, i) => {
    const [before, passed] = judge(one), [now, passes] = judge(edited[i]), said = passes ? "passes" : "fails";
    const check = passes === null ? "" : passed === passes ? `, the check still ${said}` : `, the check now ${said}`;
    const fooled = passed && !passes && before - now < 0.05 ? ": the reward is fooled" : "";
    return `${one.name}: score ${before.toFixed(3)} \u2192 ${now.toFixed(3)}${check}${fooled}.`;
  }).join(" ");
}

// ---- what is asked

const chosen = () => document.querySelector("#sentences input:checked").value;

function settings() {
  const number = (id) => +byId(id).value, second = byId("second").value;
  return { sentence: chosen(), second: second || null, mix: second ? number("mix") : 0, seed: number("seed"),
    tries: number("tries"), steps: number("steps"), guidance: number("guidance"), solver: byId("solver").value, eta: number("eta"),
    frames: number("frames"), series: byId("series").value };
}

function showSettings() {
  const { fps } = page.scene, percent = (value) => `${Math.round(100 * value)}%`, seconds = (value) => `${(value / fps).toFixed(2)} s`;
  for (const [id, words] of [["mix", percent], ["steps", String], ["guidance", String], ["eta", String], ["frames", seconds], ["lower", percent],
    ["bend", centimetres], ["shrink", (value) => whole(-100 * value, "%")]]) {
    const said = words(+byId(id).value);
    byId(id).nextElementSibling.textContent = said;
    byId(id).setAttribute("aria-valuetext", said);
  }
  byId("share").hidden = !byId("second").value;
  byId("fresh").hidden = byId("solver").value !== "ddim";
}

function filterSentences() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean), action = byId("action").value;
  let shown = 0;
  for (const row of byId("sentences").children) {
    const sentence = `${row.textContent} ${row.dataset.label}`.toLowerCase();
    row.hidden = !((!action || row.dataset.label === action) && words.every((word) => sentence.includes(word)));
    shown += !row.hidden;
  }
  byId("count").textContent = `${shown} of ${sentences.length}`;
  byId("none").hidden = shown > 0;
}

function fillForm() {
  const first = Math.max(0, page.captions.findIndex(([, label]) => label === "" || label === "raise-both-arms"));
  const labels = [...new Set(page.captions.map(([, label]) => label))].filter(Boolean);
  const named = (label) => (page.lacking.includes(label) ? `${label} (the left model lacks it)` : label);
  byId("action").append(make("option", { value: "" }, "all actions"), ...labels.map((value) => make("option", { value }, named(value))));
  const own = (label) => page.captions.filter((row) => row[1] === label).map(([value]) => make("option", { value }, value));
  byId("second").append(make("option", { value: "" }, "nothing"), ...own(""),
    ...labels.map((label) => make("optgroup", { label }, ...own(label))));
  page.captions.forEach(([value, label], i) => {
    const radio = make("input", { type: "radio", name: "sentence", value });
    radio.checked = radio.defaultChecked = i === first;
    byId("sentences").append(make("label", { "data-label": label }, radio, make("span", {}, value)));
  });
  const [shortest, longest] = page.models[0].config.frames;
  for (const [name, value] of [["min", shortest], ["max", longest], ["value", longest]]) byId("frames").setAttribute(name, value);
  const [left, right] = page.models.map(({ name }) => name);
  byId("who").textContent = `Left: “${left}”${page.lacking.length ? `, trained without ${page.lacking.join(", ")}` : ""}. Right: “${right}”.`;
}

// ---- the player and the work

class PlaygroundPlayer extends Player {
  optionBar() {
    const bar = super.optionBar();
    bar.querySelector(".mocapfree-key").prepend("body:");
    return bar;
  }
}

const player = new PlaygroundPlayer(byId("player")), still = matchMedia("(prefers-reduced-motion: reduce)").matches;

// Of motions from as many seeds as asked for, each model's with the highest retrieval score; null as `run` gives it.
async function bestByScore(given, { scorer, texts }) {
  let best = null;
  for (let i = 0; i < given.tries; i++) {
    if (i % 4 === 0) byId("status").textContent = given.tries > 1 ? `Denoising … ${i} of ${given.tries}` : "Denoising …";
    const seed = given.seed + i, found = await run({ ...given, seed });
    if (!found) return null;
    for (const one of found) {
      one.seed = seed;
      one.score = retrievalScore(embedMotion(scorer, one.raw, given.frames), texts.get(given.sentence).vector);
    }
    best = best ? best.map((old, k) => (found[k].score > old.score ? found[k] : old)) : found;
  }
  return best;
}

async function generate() {
  if (!byId("seed").reportValidity()) return;
  const given = settings(), began = performance.now();
  try {
    const parts = await loaded, found = await bestByScore(given, parts);
    if (!found) return; // something else was asked meanwhile
    const seconds = (performance.now() - began) / 1000, first = !player.scene;
    player.step = given.series === "states" ? given.steps : given.steps - 1;
    if (first && still) player.frame = Math.round(0.6 * given.frames); // where nothing moves, not the pose of the start
    await player.load(sceneOf(found, given, parts));
    shown = { found, given, parts };
    showEdited();
    verdict();
    if (first) playground.firstMotion = performance.now() / 1000;
    const since = first ? ` First motion ${playground.firstMotion.toFixed(1)} s after the page was opened.` : "";
    const mixed = given.mix ? ` mixed with “${given.second}” (${Math.round(100 * given.mix)}%)` : "";
    byId("status").textContent =
      `“${given.sentence}”${mixed}, seed ${given.seed}: ${found.length * given.tries} motions in ${seconds.toFixed(1)} s.${since}`;
  } catch (error) {
    byId("status").textContent = `This did not work: ${error.message}. A current browser is needed.`;
  }
}

// For other scripts, and for tests.
const playground = {
  sentences, firstMotion: null, // seconds from the page's start until the first motion was seen
  async run(options) {
    const found = await run(options), { scorer, texts } = await loaded, { sentence, frames } = { ...DEFAULTS, ...options };
    return found?.map(({ model, ...one }) => ({ ...one,
      score: retrievalScore(embedMotion(scorer, one.raw, frames), texts.get(sentence).vector) }));
  },
  edit: (raw, frames, wanted) => editMotion(Float64Array.from(raw), frames, raw.length / frames, wanted, page.body),
  async score(raw, frames, sentence) {
    const { scorer, texts } = await loaded;
    return retrievalScore(embedMotion(scorer, Float64Array.from(raw), frames), texts.get(sentence).vector);
  },
  check: (joints, label) => checkMotion(new Body(Float64Array.from(joints), joints.length / 66), label),
};
window.playground = playground;

fillForm();
showSettings();
filterSentences();
for (const id of ["ask", "settings"]) {
  byId(id).addEventListener("change", ({ target }) => { // of a slider: when it is let go
    if (target.id !== "search" && target.id !== "action") generate();
  });
}
byId("go").addEventListener("click", generate);
byId("reset").addEventListener("click", () => {
  for (const input of byId("settings").querySelectorAll("input, select")) {
    if (input.tagName === "SELECT") input.selectedIndex = 0;
    else input.value = input.defaultValue;
  }
  showSettings();
  generate();
});
byId("again").addEventListener("click", () => {
  byId("seed").value = Math.floor(Math.random() * 1e6);
  generate();
});
byId("settings").addEventListener("input", showSettings);
let waiting = false;
byId("fool").addEventListener("input", () => {
  showSettings();
  player.step = player.lastStep; // the edits are those of the motion, not of what it came from
  if (!waiting) requestAnimationFrame(() => { waiting = false; showEdited(); player.update(); });
  waiting = true;
});
byId("fool").addEventListener("change", () => { showEdited(); verdict(); });
byId("undo").addEventListener("click", () => {
  for (const id of EDITS) byId(id).value = 0;
  showSettings();
  showEdited();
  verdict();
});
for (const id of ["search", "action"]) byId(id).addEventListener("input", filterSentences);
byId("search").addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); takeFirst(); } });

// Enter in the search box takes the first sentence that is left.
function takeFirst() {
  const row = [...byId("sentences").children].find((label) => !label.hidden);
  if (!row) return;
  row.querySelector("input").checked = true;
  generate();
}

const row = byId("sentences").querySelector("input:checked").parentElement;
byId("sentences").scrollTop = row.offsetTop - byId("sentences").offsetTop;
playground.ready = generate(); // a promise of the first motion
