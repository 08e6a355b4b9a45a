// The transformer denoiser, its samplers and what reads its motion, in plain numbers: no library, no network.
// A matrix (rows, width) is one Float64Array, row after row. The Python of the same name says what each part is for.

// ---- from the page to arrays

async function inflate(text) {
  const letters = atob(text), packed = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Half-precision numbers, all low bytes, then all high bytes.
function halves(bytes) {
  const count = bytes.length / 2, values = new Float64Array(count);
  const unit = Float64Array.from({ length: 32 }, (_, exponent) => 2 ** (Math.max(exponent, 1) - 25));
  for (let i = 0; i < count; i++) {
    const bits = bytes[i] | (bytes[count + i] << 8), exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = (exponent ? 1024 + fraction : fraction) * unit[exponent];
    values[i] = bits >> 15 ? -size : size;
  }
  return values;
}

// Named arrays of a network, {name: {values, shape}}, from its list of [name, shape] and its packed numbers.
async function arrays(list, text) {
  const all = halves(await inflate(text)), named = {};
  let at = 0;
  for (const [name, shape] of list) {
    const size = shape.reduce((a, b) => a * b, 1);
    named[name] = { values: all.subarray(at, at + size), shape };
    at += size;
  }
  return named;
}

// ---- the layers

// x (rows, inputs) times the transposed weights, plus the bias: (rows, outputs). Four rows and two outputs at a time, for
// then six numbers read make eight products. What lies beyond the last row or output is computed twice, to the same end.
function linear(net, name, x, rows) {
  const { values: w, shape: [outputs, inputs] } = net[`${name}.weight`], bias = net[`${name}.bias`].values;
  const y = new Float64Array(rows * outputs);
  for (let o = 0; o < outputs; o += 2) {
    const last = Math.min(o + 1, outputs - 1), u = o * inputs, v = last * inputs;
    for (let row = 0; row < rows; row += 4) {
      const second = Math.min(row + 1, rows - 1), third = Math.min(row + 2, rows - 1), fourth = Math.min(row + 3, rows - 1);
      const a = row * inputs, b = second * inputs, c = third * inputs, d = fourth * inputs;
      let a0 = bias[o], a1 = bias[last], b0 = a0, b1 = a1, c0 = a0, c1 = a1, d0 = a0, d1 = a1;
      for (let i = 0; i < inputs; i++) {
        const p = w[u + i], q = w[v + i], xa = x[a + i], xb = x[b + i], xc = x[c + i], xd = x[d + i];
        a0 += p * xa; a1 += q * xa;
        b0 += p * xb; b1 += q * xb;
        c0 += p * xc; c1 += q * xc;
        d0 += p * xd; d1 += q * xd;
      }
      y[row * outputs + o] = a0; y[row * outputs + last] = a1;
      y[second * outputs + o] = b0; y[second * outputs + last] = b1;
      y[third * outputs + o] = c0; y[third * outputs + last] = c1;
      y[fourth * outputs + o] = d0; y[fourth * outputs + last] = d1;
    }
  }
  return y;
}

function layerNorm(net, name, x, rows) {
  const { values: weight } = net[`${name}.weight`], bias = net[`${name}.bias`].values, width = weight.length;
  const y = new Float64Array(rows * width);
  for (let at = 0; at < rows * width; at += width) {
    let mean = 0, variance = 0;
    for (let i = 0; i < width; i++) mean += x[at + i] / width;
    for (let i = 0; i < width; i++) variance += (x[at + i] - mean) ** 2 / width;
    const scale = 1 / Math.sqrt(variance + 1e-5);
    for (let i = 0; i < width; i++) y[at + i] = (x[at + i] - mean) * scale * weight[i] + bias[i];
  }
  return y;
}

// Change x. The error function is that of Abramowitz and Stegun, 7.1.26: off by 1.5e-7 at most.
function gelu(x) {
  for (let i = 0; i < x.length; i++) {
    const z = x[i] * Math.SQRT1_2, t = 1 / (1 + 0.3275911 * Math.abs(z));
    const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    const tail = sum * Math.exp(-z * z);
    x[i] *= 0.5 * (z < 0 ? tail : 2 - tail);
  }
  return x;
}

function silu(x) {
  for (let i = 0; i < x.length; i++) x[i] /= 1 + Math.exp(-x[i]);
  return x;
}

// Sines, then cosines, of a position; `interleaved`: sine, cosine, sine, cosine.
function sinusoids(position, width, interleaved = false) {
  const half = width / 2, wave = new Float64Array(width);
  for (let i = 0; i < half; i++) {
    const angle = position * Math.exp((-Math.log(10000) / half) * i);
    wave[interleaved ? 2 * i : i] = Math.sin(angle);
    wave[interleaved ? 2 * i + 1 : half + i] = Math.cos(angle);
  }
  return wave;
}

function attention(net, name, x, rows, heads) {
  const [query, key, value] = ["query", "key", "value"].map((part) => linear(net, `${name}.${part}`, x, rows));
  const width = query.length / rows, size = width / heads, mixed = new Float64Array(rows * width);
  const scores = new Float64Array(rows);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < rows; i++) {
      const own = i * width + head * size;
      let most = -Infinity, total = 0;
      for (let j = 0; j < rows; j++) {
        const other = j * width + head * size;
        let dot = 0;
        for (let k = 0; k < size; k++) dot += query[own + k] * key[other + k];
        scores[j] = dot / Math.sqrt(size);
        most = Math.max(most, scores[j]);
      }
      for (let j = 0; j < rows; j++) total += scores[j] = Math.exp(scores[j] - most);
      for (let j = 0; j < rows; j++) {
        const share = scores[j] / total, other = j * width + head * size;
        for (let k = 0; k < size; k++) mixed[own + k] += share * value[other + k];
      }
    }
  }
  return linear(net, `${name}.out`, mixed, rows);
}

function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
  return x;
}

// Changes x: attention, then a two-layer network, each behind a layer norm and added to the stream.
function block(net, name, x, rows, heads) {
  add(x, attention(net, `${name}.attention`, layerNorm(net, `${name}.norm1`, x, rows), rows, heads));
  const hidden = linear(net, `${name}.linear1`, layerNorm(net, `${name}.norm2`, x, rows), rows);
  return add(x, linear(net, `${name}.linear2`, gelu(hidden), rows));
}

// ---- the denoiser

// Prediction at x (frames, features) and timestep t for one motion; `text` {tokens, count, pooled}, or null without caption.
function denoise(model, x, t, frames, text) {
  const { net, config } = model, { width, heads, layers, group, features } = config;
  const rows = Math.ceil(frames / group), padded = new Float64Array(rows * group * features);
  padded.set(x);
  const seen = linear(net, "frames_in", padded, rows);
  for (let row = 0; row < rows; row++) add(seen.subarray(row * width, (row + 1) * width), sinusoids(row, width));
  const head = linear(net, "time_in.2", silu(linear(net, "time_in.0", sinusoids(t, width), 1)), 1);
  const words = text ? text.count : 0, stream = new Float64Array((1 + words + rows) * width);
  if (text) { // without a caption its words are attended to by nobody, so they are left out
    add(head, linear(net, "caption_in.1", layerNorm(net, "caption_in.0", text.pooled, 1), 1));
    stream.set(linear(net, "words_in.1", layerNorm(net, "words_in.0", text.tokens, words), words), width);
  }
  stream.set(head);
  stream.set(seen, (1 + words) * width);
  for (let i = 0; i < layers; i++) block(net, `blocks.${i}`, stream, 1 + words + rows, heads);
  const last = layerNorm(net, "norm", stream.subarray((1 + words) * width), rows);
  return linear(net, "frames_out", last, rows).slice(0, frames * features);
}

// Classifier-free guidance; `texts` is a list of [text, share] whose predictions are mixed (arXiv 2206.01714).
function guided(model, x, t, frames, texts, scale) {
  const mixed = new Float64Array(x.length);
  for (const [text, share] of texts) {
    if (share) denoise(model, x, t, frames, text).forEach((value, i) => { mixed[i] += share * value; });
  }
  if (scale === 1) return mixed;
  const without = denoise(model, x, t, frames, null);
  return without.map((value, i) => value + scale * (mixed[i] - value));
}

// ---- the samplers

const even = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x)); // halves to even, as Python rounds

const SAMPLERS = { // share of fresh noise (null: the caller's choice), and whether the previous prediction is read
  ddim: [null, false], ddpm: [1, false], "dpmsolver++2m": [0, true], "sde-dpmsolver++2m": [1, true],
};

// The steps of a trajectory, noisiest first: timestep, and the weights of x0, x_t, fresh noise and x0's last change.
function planSampling(alphas, steps, solver, eta) {
  const [own, multistep] = SAMPLERS[solver], share = own === null ? eta : own, last = alphas.length;
  const times = Array.from({ length: steps }, (_, i) => even(last - (i * last) / steps) - 1);
  const lambda = (alpha) => 0.5 * Math.log(alpha / (1 - alpha));
  return times.map((t, i) => {
    const now = alphas[t], next = i + 1 < steps ? alphas[times[i + 1]] : 1;
    const std = share * Math.sqrt(Math.max(0, ((1 - next) / (1 - now)) * (1 - now / next)));
    const old = Math.sqrt(Math.max(0, 1 - next - std * std)), onState = old / Math.sqrt(1 - now);
    const onX0 = Math.sqrt(next) - onState * Math.sqrt(now);
    let change = 0;
    if (multistep && i && next < 1) {
      const before = alphas[times[i - 1]];
      change = (0.5 * onX0 * (lambda(next) - lambda(now))) / (lambda(now) - lambda(before));
    }
    return { t, onX0, onState, std, change };
  });
}

// Sample one motion from `noise` (steps arrays of frames * features: the start, then one a step but the last).
// All states and predicted x0 are kept. Between steps the page may draw; `stopped()` ends the work.
async function sampleSteps(model, texts, frames, noise, { steps, guidance, solver, eta }, stopped = () => false) {
  let x = Float64Array.from(noise[0]), previous = null;
  const states = [x], predicted = [];
  for (const [i, { t, onX0, onState, std, change }] of planSampling(model.config.alphas, steps, solver, eta).entries()) {
    await new Promise((resume) => setTimeout(resume));
    if (stopped()) return null;
    const x0 = guided(model, x, t, frames, texts, guidance), before = previous, now = x;
    x = x0.map((value, k) => onX0 * value + onState * now[k] + (change ? change * (value - before[k]) : 0)
      + (std ? std * noise[i + 1][k] : 0));
    states.push(x);
    predicted.push(x0);
    previous = x0;
  }
  return { states, predicted };
}

// ---- random numbers: those of torch, so that a seed means the same motion here and there

class Mersenne {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.state[0] = Number(BigInt.asUintN(32, BigInt(seed)));
    for (let i = 1; i < 624; i++) {
      const last = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, last) + i;
    }
    this.at = 624;
  }

  next() {
    const { state } = this;
    if (this.at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = state[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  // Standard normal numbers as `torch.randn` draws 16 and more: uniform ones in blocks of 16, by Box and Muller.
  normal(count) {
    const values = new Float64Array(count);
    for (let i = 0; i < count; i++) values[i] = (this.next() & 0xffffff) / 2 ** 24;
    const turn = (start) => {
      for (let i = start; i < start + 8; i++) {
        const radius = Math.sqrt(-2 * Math.log(1 - values[i])), angle = 2 * Math.PI * values[i + 8];
        values[i] = radius * Math.cos(angle);
        values[i + 8] = radius * Math.sin(angle);
      }
    };
    for (let start = 0; start + 16 <= count; start += 16) turn(start);
    if (count % 16) { // the last block is drawn again, over the end of the one before
      for (let i = count - 16; i < count; i++) values[i] = (this.next() & 0xffffff) / 2 ** 24;
      turn(count - 16);
    }
    return values;
  }
}

// The noise of the first motion of `DiffusionPolicy.generate(..., seed)`: `draws` arrays of `size` numbers.
function drawNoise(seed, draws, size) {
  const first = new Mersenne(seed), high = BigInt(first.next()), low = BigInt(first.next());
  const own = new Mersenne(((high << 32n) | low) % 2n ** 62n), noise = [];
  while (noise.length < draws) {
    const count = Math.min(16, draws - noise.length), values = own.normal(count * size);
    for (let i = 0; i < count; i++) noise.push(values.subarray(i * size, (i + 1) * size));
  }
  return noise;
}

// ---- motion

function denormalise(model, x) {
  const mean = model.net.feature_mean.values, std = model.net.feature_std.values, width = mean.length;
  return x.map((value, i) => value * std[i % width] + mean[i % width]);
}

// Raw features (frames, features) to joints (frames, joints, 3): the root's path by adding up, the others around it.
function featuresToJoints(raw, frames, features) {
  const joints = (features + 1) / 12, out = new Float64Array(frames * joints * 3);
  let half = 0, x = 0, z = 0;
  for (let frame = 0; frame < frames; frame++) {
    const row = frame * features, at = frame * joints * 3;
    if (frame) half += raw[row - features];
    const cos = Math.cos(2 * half), sin = Math.sin(2 * half);
    if (frame) {
      const [dx, dz] = [raw[row - features + 1], raw[row - features + 2]];
      x += dx * cos - dz * sin;
      z += dx * sin + dz * cos;
    }
    out.set([x, raw[row + 3], z], at);
    for (let j = 1; j < joints; j++) {
      const [a, b, c] = [raw[row + 3 * j + 1], raw[row + 3 * j + 2], raw[row + 3 * j + 3]];
      out.set([a * cos - c * sin + x, b, a * sin + c * cos + z], at + 3 * j);
    }
  }
  return out;
}

// ---- the retrieval network's motion encoder: (cosine + 1) / 2 of raw motion and a unit text vector

function embedMotion(scorer, raw, frames) {
  const { net, config } = scorer, { width, heads, layers, group, features, seen, clip } = config;
  const mean = net.feature_mean.values, std = net.feature_std.values;
  const rows = Math.ceil(frames / group), grouped = new Float64Array(rows * group * seen);
  for (let frame = 0; frame < frames; frame++) {
    for (let i = 0; i < seen; i++) {
      grouped[frame * seen + i] = clamp((raw[frame * features + i] - mean[i]) / std[i], -clip, clip);
    }
  }
  const stream = new Float64Array((2 + rows) * width);
  stream.set(net.tokens.values);
  stream.set(linear(net, "project", grouped, rows), 2 * width);
  for (let row = 0; row < 2 + rows; row++) add(stream.subarray(row * width, (row + 1) * width), sinusoids(row, width, true));
  for (let i = 0; i < layers; i++) block(net, `blocks.${i}`, stream, 2 + rows, heads);
  const vector = linear(net, "read", layerNorm(net, "norm", stream, 1), 1), length = Math.hypot(...vector);
  return vector.map((value) => value / length);
}

const retrievalScore = (motion, text) => clamp((1 + motion.reduce((sum, value, i) => sum + value * text[i], 0)) / 2, 0, 1);
