// One rater's way through a study: consent, pairs in an order of their own, answers kept here until they are saved.
// The page knows motions by opaque names only; nothing is sent anywhere, and what comes from data stays text.

const study = JSON.parse(document.getElementById("study").textContent);
const CHOICES = ["left", "same", "right"];
const byId = (id) => document.getElementById(id);

// A player of two motions with few controls: a study asks for a judgement, not for an examination.
class PairPlayer extends Player {
  constructor(root) {
    super(root);
    this.show.contacts = false; // a guess of where feet rest, drawn over them, would be an opinion
  }

  optionBar() {
    const bar = super.optionBar();
    for (const button of [...bar.querySelectorAll("button")]) if (button.textContent !== "Reset view") button.remove();
    bar.querySelector(".mocapfree-key").prepend("body:");
    return bar;
  }
}

function randomFrom(seed) { // mulberry32: small, good enough to shuffle with, and the same in every browser
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(items, random) {
  const made = [...items];
  for (let i = made.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [made[i], made[j]] = [made[j], made[i]];
  }
  return made;
}

// The pairs in one rater's order, each with its left motion. A pair that comes twice is seen first in the first half,
// again in the last quarter, and then the other way round.
function plan(pairs, rater) {
  const random = randomFrom(parseInt(rater.slice(0, 8), 16));
  const again = pairs.filter((pair) => pair.turned), twice = new Set(again.map((pair) => pair.turned));
  const order = shuffled(pairs.filter((pair) => !pair.turned && !twice.has(pair.id)), random);
  for (const pair of pairs.filter((pair) => twice.has(pair.id))) {
    order.splice(Math.floor(random() * (order.length / 2 + 1)), 0, pair);
  }
  for (const pair of again) order.splice(order.length - Math.floor(random() * (order.length / 4 + 1)), 0, pair);
  const swapped = new Map(pairs.filter((pair) => !pair.turned).map((pair) => [pair.id, random() < 0.5]));
  return order.map((pair) => {
    const [first, second] = pair.motions, swap = pair.turned ? !swapped.get(pair.turned) : swapped.get(pair.id);
    return { ...pair, left: swap ? second : first, right: swap ? first : second };
  });
}

// ---- what is kept in this browser; where it may keep nothing, the open page does

const PLACE = `mocapfree-study-${study.id}`;
let memory = null;

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE));
    return /^[0-9a-f]{16}$/.test(found.rater) && found.answers && found.at >= 0 ? found : memory;
  } catch { return memory; }
}

function store(state) {
  memory = state;
  try { state ? localStorage.setItem(PLACE, JSON.stringify(state)) : localStorage.removeItem(PLACE); } catch { /* see above */ }
}

function newState() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return { rater: [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(""), at: 0, answers: {} };
}

let state = stored(), order = state ? plan(study.pairs, state.rater) : [], player = null, since = 0;

const answerOf = (pair) => (state.answers[pair.id] ??= { seconds: 0 });
const complete = (pair) => study.questions.every(({ name }) => CHOICES.includes((state.answers[pair.id] || {})[name]));

function show(name) {
  for (const part of ["consent", "pair", "done"]) byId(part).hidden = part !== name;
  window.scrollTo(0, 0);
}

// ---- one pair

function count() { // time counts while the pair can be seen
  const now = performance.now();
  if (since) answerOf(order[state.at]).seconds += (now - since) / 1000;
  since = document.hidden || byId("pair").hidden ? 0 : now;
}

function sceneOf(pair) {
  const panel = (name, motion) => ({ ...study.motions[motion], name });
  return { ...study.scene, panels: [panel("A", pair.left), panel("B", pair.right)] };
}

function showPair(at) {
  count();
  since = 0;
  state.at = at;
  store(state);
  show("pair");
  const pair = order[at], answer = answerOf(pair);
  byId("caption").textContent = `“${pair.caption}”`;
  byId("progress").value = order.filter(complete).length;
  byId("count").textContent = `Pair ${at + 1} of ${order.length}`;
  byId("back").disabled = at === 0;
  byId("next").textContent = at + 1 < order.length ? "Next" : "Finish";
  byId("missing").textContent = "";
  for (const input of byId("questions").querySelectorAll("input")) input.checked = answer[input.name] === input.value;
  player?.destroy();
  const place = make("div", { id: "player" });
  byId("player").replaceWith(place);
  player = new PairPlayer(place);
  player.load(sceneOf(pair)).catch(() => {
    place.textContent = "This browser cannot unpack the motions: please use one from 2023 or later.";
  });
  byId("caption").focus({ preventScroll: true });
  count();
}

function next() {
  const open = study.questions.find(({ name }) => !CHOICES.includes(answerOf(order[state.at])[name]));
  if (open) {
    byId("missing").textContent = "Please answer both questions.";
    byId("questions").querySelector(`input[name="${open.name}"]`).focus();
    return;
  }
  if (state.at + 1 < order.length) { showPair(state.at + 1); return; }
  const left = order.findIndex((pair) => !complete(pair));
  left < 0 ? finish() : showPair(left);
}

function finish() {
  count();
  since = 0;
  player?.destroy();
  state.done = true;
  store(state);
  show("done");
  byId("answers").value = JSON.stringify(answers());
  byId("done").querySelector("h1").focus();
}

function answers() {
  const rows = order.map((pair) => {
    const given = state.answers[pair.id];
    const row = { pair: pair.id, left: pair.left, right: pair.right, seconds: Math.round(given.seconds * 10) / 10 };
    for (const { name } of study.questions) row[name] = given[name];
    return row;
  });
  return { study: study.id, rater: state.rater, answers: rows };
}

// ---- hands

function welcome() {
  byId("resume").hidden = !state;
  byId("start").textContent = state ? "I am somebody else: agree, begin anew" : "I agree, begin";
  if (state) byId("resume").textContent = `Go on at pair ${state.at + 1}`;
  show("consent");
}

function begin(fresh) {
  if (fresh) state = newState();
  order = plan(study.pairs, state.rater);
  showPair(Math.min(state.at, order.length - 1));
}

byId("start").addEventListener("click", () => begin(true));
byId("resume").addEventListener("click", () => begin(false));
byId("back").addEventListener("click", () => showPair(state.at - 1));
byId("questions").addEventListener("submit", (event) => { event.preventDefault(); next(); });
byId("questions").addEventListener("change", ({ target }) => {
  answerOf(order[state.at])[target.name] = target.value;
  byId("progress").value = order.filter(complete).length;
  byId("missing").textContent = "";
  store(state);
});
byId("save").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([JSON.stringify(answers(), null, 1)], { type: "application/json" }));
  const link = make("a", { href: url, download: `answers-${state.rater}.json` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  byId("saved").textContent = `Saved as answers-${state.rater}.json, where this browser keeps downloads.`;
});
byId("forget").addEventListener("click", () => {
  if (!confirm("Delete the answers from this browser? They are lost unless they were saved.")) return;
  state = null;
  store(null);
  byId("answers").value = byId("saved").textContent = "";
  welcome();
});
document.addEventListener("visibilitychange", () => { if (!byId("pair").hidden) { count(); store(state); } });
document.addEventListener("keydown", (event) => {
  if (byId("pair").hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const { key, target } = event, index = "123456".indexOf(key);
  if (target.tagName === "SELECT") return;
  if (key.length === 1 && index >= 0) {
    const input = byId("questions").querySelectorAll("input")[index];
    input.focus();
    input.click();
  } else if (key === "Enter" && !/^(BUTTON|INPUT)$/.test(target.tagName)) byId("questions").requestSubmit();
  else if (key === " " && !/^(BUTTON|INPUT)$/.test(target.tagName)) player?.play(!player.playing);
  else return;
  event.preventDefault();
});

state?.done && order.every(complete) ? finish() : welcome();
