// The motion player: one clock and one camera over one to four panels, drawn on plain canvases.
// A notebook calls `render` through anywidget; in a page without a kernel, `fill` starts each player from
// the JSON that lies in its place. Nothing is fetched from anywhere, and what comes from data stays text.

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
const CHART_COLOURS = ["#009E73", "#CC79A7", "#56B4E9", "#E69F00"]; // Okabe and Ito's, without those of the limbs
const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];
const LIGHT = { left: "#0072B2", right: "#D55E00", centre: "#6b7280" };
const DARK = { left: "#56B4E9", right: "#E69F00", centre: "#9aa5b1" };
const VIEWER_DISTANCE = 5; // metres from the eye to the figure

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

// Joints of one panel: deflated differences of 16-bit integers from frame to frame, all low bytes, then all high.
async function unpack(panel, width) {
  if (panel.joints) return panel.joints; // of a page that made the motion itself
  const { data, frames, scale } = panel;
  const packed = typeof data === "string"
    ? Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))
    : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const count = bytes.length / 2, whole = new Int16Array(count), joints = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const first = Math.floor(i / width) % frames === 0;
    whole[i] = (bytes[i] | (bytes[count + i] << 8)) + (first ? 0 : whole[i - width]); // wraps as the packing did
    joints[i] = whole[i] * scale;
  }
  return joints;
}

class Player {
  constructor(root, changed = () => {}) {
    Object.assign(this, { root, changed, frame: 0, step: 0, speed: 1, loop: true, playing: false, zoom: 1 });
    this.show = { ghosts: false, trail: true, contacts: true };
    this.visible = true;
    this.pointers = new Map();
    root.classList.add("mocapfree-player");
    for (const [name, value] of [
      ["tabindex", "0"], ["role", "group"], ["data-lm-suppress-shortcuts", "true"], // JupyterLab keeps its keys away
      ["aria-label", "Motion player. Space plays, left and right step, square brackets move the denoising step, " +
        "A D W S turn, plus and minus zoom, 0 resets the view."],
    ]) root.setAttribute(name, value);
    this.onkey = (event) => this.key(event);
    root.addEventListener("keydown", this.onkey);
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(root);
    this.seen = new IntersectionObserver((entries) => {
      this.visible = entries[entries.length - 1].isIntersecting;
      if (this.visible && this.autoplay) { this.autoplay = false; this.play(true); }
      this.wake();
    });
    this.tick = this.tick.bind(this);
  }

  destroy() {
    this.gone = true;
    this.resized.disconnect();
    this.seen.disconnect();
    this.root.removeEventListener("keydown", this.onkey);
  }

  // Show a scene. A second scene keeps the camera, the speed and whether it plays.
  async load(scene) {
    const turn = (this.loading = (this.loading || 0) + 1);
    const joints = await Promise.all(scene.panels.map((panel) => unpack(panel, 3 * scene.parents.length)));
    if (this.gone || turn !== this.loading) return; // a newer scene came while this one was unpacked
    const first = !this.scene;
    this.scene = scene;
    this.joints = scene.parents.length;
    this.length = Math.max(...scene.panels.map((panel) => panel.frames));
    this.lastStep = Math.max(0, scene.steps.length - 1);
    if (first) {
      Object.assign(this, { azimuth: scene.azimuth, elevation: scene.elevation });
      this.show.ghosts = scene.ghosts;
    }
    this.frame = clamp(this.frame, 0, this.length - 1);
    this.step = clamp(this.step, 0, this.lastStep);
    this.build(joints);
    this.update();
    if (first) {
      this.autoplay = !this.paused && !matchMedia("(prefers-reduced-motion: reduce)").matches;
      if (!this.autoplay) this.changed({ playing: false }, true);
      this.seen.observe(this.root);
    }
  }

  // ---- the page around the canvases

  build(joints) {
    const { scene, root } = this;
    root.replaceChildren();
    if (scene.title) root.append(make("div", { class: "mocapfree-title" }, scene.title));
    const row = make("div", { class: "mocapfree-panels" });
    this.panels = scene.panels.map((panel, i) => {
      const said = [panel.name, panel.caption].filter(Boolean).join(": ") || "motion";
      const canvas = make("canvas", { role: "img", "aria-label": `Moving figure. ${said}` });
      const caption = make("figcaption");
      if (panel.name) caption.append(make("b", {}, panel.name));
      if (panel.caption) caption.append(make("span", {}, panel.caption));
      row.append(make("figure", {}, canvas, caption));
      this.listen(canvas);
      return { ...panel, canvas, joints: joints[i] };
    });
    root.append(row);
    this.charts = scene.charts.map((chart) => {
      const words = chart.lines.map(({ name, values }) => {
        const known = values.filter((value) => value !== null);
        return `${name}: ${known.length ? `${known[0]} to ${known[known.length - 1]}` : "no values"}`;
      });
      const canvas = make("canvas", { class: "mocapfree-chart", role: "img",
        "aria-label": `Chart ${chart.title} over ${chart.along}. ${words.join("; ")}` });
      root.append(canvas);
      this.scrub(canvas, chart);
      return { ...chart, canvas };
    });
    root.append(this.timeBar());
    if (scene.steps.length) root.append(this.denoisingBar());
    root.append(this.optionBar());
  }

  button(words, action, pressed) {
    const made = make("button", { type: "button" }, words);
    if (pressed !== undefined) made.setAttribute("aria-pressed", pressed);
    made.addEventListener("click", () => {
      const state = action();
      if (pressed !== undefined) made.setAttribute("aria-pressed", state);
      this.draw();
    });
    return made;
  }

  timeBar() {
    this.playButton = this.button(this.playing ? "Pause" : "Play", () => this.play(!this.playing));
    this.slider = make("input", { type: "range", min: 0, max: this.length - 1, step: 1, "aria-label": "Frame" });
    this.slider.addEventListener("input", () => { this.play(false); this.seek(+this.slider.value); });
    this.clock = make("output", { "aria-live": "off" }); // else it would be read aloud at every frame
    return make("div", { class: "mocapfree-bar" }, this.playButton, this.slider, this.clock);
  }

  optionBar() {
    const speed = make("select", { "aria-label": "Speed" },
      ...SPEEDS.map((value) => make("option", { value }, `${value}×`)));
    speed.value = this.speed;
    speed.addEventListener("change", () => { this.speed = +speed.value; this.changed({ speed: this.speed }, true); });
    this.speedChoice = speed;
    const toggle = (name) => this.button(name[0].toUpperCase() + name.slice(1),
      () => (this.show[name] = !this.show[name]), this.show[name]);
    const loop = this.button("Loop", () => (this.loop = !this.loop), this.loop);
    const key = make("span", { class: "mocapfree-key" });
    for (const side of ["left", "right"]) key.append(make("i", { class: `mocapfree-${side}` }), side);
    return make("div", { class: "mocapfree-bar" }, speed, loop, toggle("ghosts"), toggle("trail"), toggle("contacts"),
      this.button("Reset view", () => this.reset()), key);
  }

  denoisingBar() {
    const { steps } = this.scene;
    this.stepSlider = make("input", { type: "range", min: 0, max: this.lastStep, step: 1,
      "aria-label": "Denoising step" });
    this.stepSlider.addEventListener("input", () => { this.walking = false; this.seekStep(+this.stepSlider.value); });
    this.stepWords = make("output", { "aria-live": "off" }); // the slider says the same
    this.walkButton = this.button("Denoise", () => this.walk(!this.walking));
    return make("div", { class: "mocapfree-bar" }, this.walkButton, make("span", {}, steps[0]), this.stepSlider,
      make("span", {}, steps[this.lastStep]), this.stepWords);
  }

  // ---- the clock

  play(on, tell = true) {
    if (!this.scene) { this.paused = !on; return; }
    this.autoplay = false;
    if (this.playing === on) return;
    if (on && this.frame >= this.length - 1) this.frame = 0;
    this.playing = on;
    this.playButton.textContent = on ? "Pause" : "Play";
    if (tell) this.changed({ playing: on, frame: this.whole() }, true);
    this.wake();
  }

  // Walk the denoising steps from x_T to x_0, a step in a third of a second.
  walk(on) {
    this.walking = on;
    if (on && this.step >= this.lastStep) this.step = 0;
    this.wake();
  }

  wake() {
    if (this.awake || this.gone || !this.visible || !(this.playing || this.walking)) return;
    this.awake = true;
    this.before = performance.now();
    requestAnimationFrame(this.tick);
  }

  tick(now) {
    this.awake = false;
    if (this.gone || !this.visible || !this.root.isConnected) return;
    const seconds = clamp((now - this.before) / 1000, 0, 0.25);
    this.before = now;
    if (this.playing) {
      this.frame += seconds * this.speed * this.scene.fps;
      if (this.frame > this.length - 1) {
        if (this.loop) this.frame %= this.length;
        else { this.frame = this.length - 1; this.play(false); }
      }
      this.changed({ frame: this.whole() });
    }
    if (this.walking) {
      this.step = Math.min(this.lastStep, this.step + 3 * seconds);
      this.walking = this.step < this.lastStep;
      this.changed({ step: Math.round(this.step) }, !this.walking);
    }
    this.update();
    if (this.playing || this.walking) {
      this.awake = true;
      requestAnimationFrame(this.tick);
    }
  }

  whole() { return Math.floor(clamp(this.frame, 0, this.length - 1) + 1e-6); }

  // Where somebody else with the same clock stands, Python or a second view; while playing, near is near enough.
  follow(frame) {
    if (!this.scene) { this.frame = frame; return; }
    if (Math.abs(frame - this.whole()) <= (this.playing ? this.scene.fps / 4 : 0)) return;
    this.frame = clamp(frame, 0, this.length - 1);
    this.update();
  }

  seek(frame) {
    if (!this.scene) { this.frame = frame; return; }
    this.frame = clamp(frame, 0, this.length - 1);
    this.changed({ frame: this.whole() }, true);
    this.update();
  }

  seekStep(step) {
    if (!this.scene) { this.step = step; return; }
    this.step = clamp(step, 0, this.lastStep);
    this.changed({ step: Math.round(this.step) }, true);
    this.update();
  }

  update() {
    const { fps, steps } = this.scene, now = this.whole();
    this.slider.value = now;
    const words = `${(now / fps).toFixed(2)} of ${((this.length - 1) / fps).toFixed(2)} s`;
    this.clock.textContent = words;
    this.slider.setAttribute("aria-valuetext", `${words}, frame ${now}`);
    if (steps.length) {
      const step = Math.round(this.step);
      this.stepSlider.value = step;
      this.stepWords.textContent = `step ${step}: ${steps[step]}`;
      this.stepSlider.setAttribute("aria-valuetext", steps[step]);
      this.walkButton.textContent = this.walking ? "Stop" : "Denoise";
    }
    this.draw();
  }

  // ---- hands

  turn(azimuth, elevation) {
    this.azimuth += azimuth;
    this.elevation = clamp(this.elevation + elevation, -0.2, 1.55);
    this.draw();
  }

  scale(factor) {
    this.zoom = clamp(this.zoom * factor, 0.2, 8);
    this.draw();
  }

  reset() {
    Object.assign(this, { azimuth: this.scene.azimuth, elevation: this.scene.elevation, zoom: 1 });
    this.draw();
  }

  listen(canvas) {
    const spread = () => {
      const [a, b] = [...this.pointers.values()];
      return Math.hypot(a.x - b.x, a.y - b.y);
    };
    canvas.addEventListener("pointerdown", (event) => {
      this.root.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointermove", (event) => {
      const last = this.pointers.get(event.pointerId);
      if (!last) return;
      const apart = this.pointers.size === 2 ? spread() : 0;
      const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
      this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (this.pointers.size === 2) this.scale(spread() / Math.max(apart, 1)); // two fingers pinch
      else this.turn(-0.01 * dx, 0.01 * dy);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("wheel", (event) => { // the page scrolls unless the player was chosen by a click or Tab
      if (!event.ctrlKey && !this.root.contains(document.activeElement)) return;
      event.preventDefault();
      this.scale(Math.exp(-0.0015 * event.deltaY));
    }, { passive: false });
  }

  scrub(canvas, chart) {
    if (chart.along !== "frame" && chart.along !== "step") return;
    const move = (event) => {
      const box = canvas.getBoundingClientRect(), edges = this.edges(box.width);
      const last = chart.along === "frame" ? this.length - 1 : this.lastStep;
      const at = Math.round(clamp((event.clientX - box.left - edges.left) / edges.width, 0, 1) * last);
      if (chart.along === "frame") { this.play(false); this.seek(at); } else { this.walking = false; this.seekStep(at); }
    };
    canvas.style.cursor = "ew-resize";
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); move(event); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons) move(event); });
  }

  key(event) {
    if (!this.scene || event.ctrlKey || event.metaKey || event.altKey) return;
    const { target, key } = event, far = event.shiftKey ? 10 : 1;
    if (target.tagName === "SELECT" || (key === " " && target.tagName === "BUTTON")) return;
    if (target === this.stepSlider && /^(Arrow|Home|End|Page)/.test(key)) return; // a slider knows its own keys
    const jump = (frame) => { this.play(false); this.seek(frame); };
    const actions = {
      " ": () => this.play(!this.playing),
      ArrowLeft: () => jump(this.whole() - far), ArrowRight: () => jump(this.whole() + far),
      Home: () => jump(0), End: () => jump(this.length - 1),
      "[": () => this.seekStep(Math.round(this.step) - 1), "]": () => this.seekStep(Math.round(this.step) + 1),
      a: () => this.turn(-0.15, 0), d: () => this.turn(0.15, 0), w: () => this.turn(0, 0.1), s: () => this.turn(0, -0.1),
      "+": () => this.scale(1.15), "=": () => this.scale(1.15), "-": () => this.scale(1 / 1.15), 0: () => this.reset(),
    };
    const action = actions[key.length === 1 ? key.toLowerCase() : key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  // ---- the pictures

  // The colours of a page are known by its words: light ones stand on a dark page.
  theme() {
    const ink = getComputedStyle(this.root).color;
    if (this.colours && this.colours.ink === ink) return this.colours;
    const luminance = (colour) => {
      const [r, g, b] = colour.match(/[\d.]+/g).map(Number);
      return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
    };
    const dark = luminance(ink) > 0.5;
    let paper = dark ? "#15181c" : "#ffffff";
    for (let place = this.root; place; place = place.parentElement) {
      const found = getComputedStyle(place).backgroundColor;
      if (!/^(transparent|rgba\(.*, 0\))$/.test(found)) { paper = found; break; }
    }
    this.root.classList.toggle("mocapfree-dark", dark);
    return (this.colours = { ink, paper, ...(dark ? DARK : LIGHT) });
  }

  draw() {
    if (!this.scene || !this.root.isConnected) return;
    this.theme();
    for (const panel of this.panels) this.drawPanel(panel);
    for (const chart of this.charts) this.drawChart(chart);
  }

  context(canvas) {
    const { clientWidth: w, clientHeight: h } = canvas, ratio = Math.min(window.devicePixelRatio || 1, 2);
    const size = [Math.round(w * ratio), Math.round(h * ratio)];
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    const g = canvas.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, w, h);
    g.lineCap = g.lineJoin = "round";
    return { g, w, h };
  }

  // The pose between two frames, and between two denoising steps while the walk is on its way.
  pose(panel, frame) {
    const width = 3 * this.joints, { joints, frames } = panel, pose = new Float32Array(width);
    const early = Math.floor(clamp(frame, 0, frames - 1)), late = Math.min(early + 1, frames - 1);
    const f = clamp(frame, 0, frames - 1) - early;
    const step = Math.floor(this.step), next = Math.min(step + 1, this.lastStep), s = this.step - step;
    for (const [at, share] of [[step, 1 - s], [next, s]]) {
      if (!share) continue;
      const a = (at * frames + early) * width, b = (at * frames + late) * width;
      for (let i = 0; i < width; i++) pose[i] += share * ((1 - f) * joints[a + i] + f * joints[b + i]);
    }
    return pose;
  }

  drawPanel(panel) {
    const { g, w, h } = this.context(panel.canvas);
    if (!w || !h) return;
    const { scene } = this, pose = this.pose(panel, this.frame);
    const k = this.zoom * Math.min(h / (1.25 * scene.height), w / (2.1 * scene.reach));
    const [ca, sa, ce, se] = [Math.cos(this.azimuth), Math.sin(this.azimuth), Math.cos(this.elevation),
      Math.sin(this.elevation)];
    const x0 = pose[0], z0 = pose[2], middle = scene.height / 2;
    const eye = { see(x, y, z) { // right, down on the screen, and how near: the rotation of `project`, seen from near by
      const [a, b, c] = [x - x0, y - middle, z - z0], into = a * sa + c * ca, near = into * ce + b * se;
      const s = (k * VIEWER_DISTANCE) / Math.max(VIEWER_DISTANCE - near, 0.5);
      return [w / 2 + s * (a * ca - c * sa), h * 0.47 - s * (b * ce - into * se), near, s];
    } };
    this.drawFloor(g, eye, x0, z0);
    if (this.show.trail) this.drawTrail(g, eye, panel);
    this.drawShadow(g, eye, pose);
    if (this.show.contacts) this.drawContacts(g, eye, panel, pose);
    if (this.show.ghosts) {
      const apart = Math.max(1, Math.round(scene.fps / 2)), now = this.whole();
      g.globalAlpha = 0.22;
      for (let frame = now % apart; frame < panel.frames; frame += apart) {
        if (frame !== now) this.drawBody(g, eye, this.pose(panel, frame), false);
      }
      g.globalAlpha = 1;
    }
    this.drawBody(g, eye, pose, true);
  }

  path(g, points, colour, width, dashes = []) {
    g.strokeStyle = colour;
    g.lineWidth = width;
    if (dashes.length) g.setLineDash(dashes);
    g.beginPath();
    for (const line of points) line.forEach(([x, y], i) => (i ? g.lineTo(x, y) : g.moveTo(x, y)));
    g.stroke();
    if (dashes.length) g.setLineDash([]);
  }

  drawFloor(g, eye, x0, z0) { // a half-metre grid that is fixed to the world
    const apart = 0.5, reach = 1.75, lines = [];
    for (let i = Math.ceil((x0 - reach) / apart); i <= (x0 + reach) / apart; i++) {
      lines.push([eye.see(i * apart, 0, z0 - reach), eye.see(i * apart, 0, z0 + reach)]);
    }
    for (let i = Math.ceil((z0 - reach) / apart); i <= (z0 + reach) / apart; i++) {
      lines.push([eye.see(x0 - reach, 0, i * apart), eye.see(x0 + reach, 0, i * apart)]);
    }
    this.path(g, lines, "rgba(128,128,128,.3)", 1);
  }

  drawTrail(g, eye, panel) {
    const width = 3 * this.joints, start = Math.round(this.step) * panel.frames * width, line = [];
    for (let frame = 0; frame < panel.frames; frame++) {
      line.push(eye.see(panel.joints[start + frame * width], 0, panel.joints[start + frame * width + 2]));
    }
    this.path(g, [line.slice(Math.min(this.whole(), panel.frames - 1))], "rgba(128,128,128,.5)", 1, [2, 4]);
    this.path(g, [line.slice(0, this.whole() + 1)], "rgba(128,128,128,.95)", 1.5);
  }

  bones(pose, see) {
    return this.scene.parents.map((parent, j) => (parent < 0 ? null : [see(parent), see(j), this.scene.sides[j]]))
      .filter(Boolean);
  }

  drawShadow(g, eye, pose) {
    const see = (j) => eye.see(pose[3 * j], 0, pose[3 * j + 2]);
    g.globalAlpha = 0.14;
    this.path(g, this.bones(pose, see).map(([a, b]) => [a, b]), this.colours.ink, Math.max(3, 0.06 * eye.see(0, 0, 0)[3]));
    g.globalAlpha = 1;
  }

  drawContacts(g, eye, panel, pose) {
    const marks = panel.contacts[Math.round(this.step)];
    const bits = parseInt(marks[Math.min(this.whole(), panel.frames - 1)], 16);
    this.scene.feet.forEach((joint, i) => {
      if (!(bits & (1 << i))) return;
      const ring = [];
      for (let a = 0; a <= 16; a++) {
        ring.push(eye.see(pose[3 * joint] + 0.09 * Math.cos((a * Math.PI) / 8), 0,
          pose[3 * joint + 2] + 0.09 * Math.sin((a * Math.PI) / 8)));
      }
      this.path(g, [ring], this.colours[this.scene.sides[joint]], 2);
    });
  }

  // Far bones first; the rim in the colour of the page shows which limb passes in front.
  drawBody(g, eye, pose, rim) {
    const see = (j) => eye.see(pose[3 * j], pose[3 * j + 1], pose[3 * j + 2]);
    const bones = this.bones(pose, see).sort((p, q) => p[0][2] + p[1][2] - q[0][2] - q[1][2]);
    const { head, parents } = this.scene, { colours } = this;
    for (const [a, b, side] of bones) {
      const width = Math.max(2, 0.025 * (a[3] + b[3]));
      if (rim) this.path(g, [[a, b]], colours.paper, width + 2);
      this.path(g, [[a, b]], colours[side], width);
    }
    const [top, neck] = [see(head), see(parents[head])];
    const long = Math.hypot(top[0] - neck[0], top[1] - neck[1]) || 1, lift = 0.07 * top[3];
    g.beginPath();
    g.ellipse(top[0] + ((top[0] - neck[0]) / long) * lift, top[1] + ((top[1] - neck[1]) / long) * lift,
      0.1 * top[3], 0.115 * top[3], 0, 0, 7);
    g.fillStyle = colours.centre;
    g.fill();
  }

  edges(width) { return { left: 44, width: Math.max(1, width - 56), top: 18, bottom: 16 }; }

  drawChart(chart) {
    const { g, w, h } = this.context(chart.canvas), { left, width, top, bottom } = this.edges(w);
    const values = chart.lines.flatMap((line) => line.values).filter((value) => value !== null);
    if (!w || !values.length) return;
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (low === high) [low, high] = [low - 0.5, high + 0.5];
    const frames = chart.along === "frame", steps = chart.along === "step";
    const last = Math.max(1, frames ? this.length - 1 : steps ? this.lastStep
      : Math.max(...chart.lines.map((line) => line.values.length)) - 1);
    const across = (i) => left + (i / last) * width;
    const down = (value) => top + 4 + ((high - value) / (high - low)) * (h - top - bottom - 8);
    g.font = "11px system-ui,sans-serif";
    g.fillStyle = this.colours.ink;
    g.textAlign = "right";
    const short = (value) => String(+value.toPrecision(3));
    g.fillText(short(high), left - 5, down(high) + 4);
    g.fillText(short(low), left - 5, down(low) + 4);
    this.path(g, [[[left, down(high)], [left + width, down(high)]], [[left, down(low)], [left + width, down(low)]]],
      "rgba(128,128,128,.3)", 1);
    const ends = frames ? ["0 s", `${(last / this.scene.fps).toFixed(1)} s`]
      : steps ? [this.scene.steps[0], this.scene.steps[this.lastStep]] : [`${chart.along} ${chart.first}`, chart.first + last];
    g.fillText(ends[1], left + width, h - 3);
    g.textAlign = "left";
    g.fillText(ends[0], left, h - 3);
    const now = frames ? this.frame : this.step;
    let at = left;
    if (chart.title) { g.fillText(chart.title, at, 11); at += g.measureText(chart.title).width + 16; }
    chart.lines.forEach(({ name, values }, i) => {
      const colour = CHART_COLOURS[i % CHART_COLOURS.length], dashes = DASHES[i % DASHES.length];
      const runs = [[]];
      values.forEach((value, x) => (value === null ? runs.push([]) : runs[runs.length - 1].push([across(x), down(value)])));
      this.path(g, runs.map((run) => (run.length === 1 ? [run[0], run[0]] : run)), colour, 2, dashes);
      this.path(g, [[[at, 8], [at + 18, 8]]], colour, 2, dashes);
      const here = frames || steps ? values[Math.round(now)] : values[values.length - 1];
      const words = `${name}${here === undefined || here === null ? "" : ` ${short(here)}`}`;
      g.fillText(words, at + 23, 11);
      at += g.measureText(words).width + 40;
    });
    if (frames || steps) this.path(g, [[[across(now), top], [across(now), h - bottom]]], this.colours.ink, 1);
  }
}

// anywidget: traits of Python on one side, the player on the other. Frames go to Python ten times a second, and the
// model hears of them only then: Python echoes what it is sent, and an echo that differs from the model is a command.
function render({ model, el }) {
  let told = 0, untold = {};
  const player = new Player(el.appendChild(make("div")), (values, now = false) => {
    Object.assign(untold, values);
    if (!now && performance.now() - told < 100) return;
    told = performance.now();
    const news = Object.entries(untold);
    untold = {};
    for (const [name, value] of news) model.set(name, value);
    model.save_changes();
  });
  for (const name of ["frame", "step", "speed"]) player[name] = model.get(name);
  player.paused = !model.get("playing");
  const load = () => player.load(model.get("scene"));
  const heard = {
    scene: load,
    frame: () => player.follow(model.get("frame")),
    step: () => { if (model.get("step") !== Math.round(player.step)) player.seekStep(model.get("step")); },
    playing: () => player.play(model.get("playing"), false),
    speed: () => {
      player.speed = model.get("speed");
      if (player.speedChoice) player.speedChoice.value = player.speed; // there is none before the scene is unpacked
    },
  };
  for (const [name, listener] of Object.entries(heard)) model.on(`change:${name}`, listener);
  load();
  return () => {
    for (const [name, listener] of Object.entries(heard)) model.off(`change:${name}`, listener);
    player.destroy();
  };
}

// A place in a page without a kernel: a picture for those who run no script, and the scene as JSON.
function fill(place) {
  const scene = JSON.parse(place.querySelector("script").textContent);
  place.removeAttribute("data-waiting");
  const player = new Player(place);
  Object.assign(player, { frame: scene.frame, step: scene.step, speed: scene.speed, paused: !scene.playing });
  player.load(scene);
}

export default { render };
