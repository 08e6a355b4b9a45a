// What a motion does, by geometry: the checks of lesson 03 for the actions that the shipped base model lacks, and a few
// near to them. Smoothed joints over a measured floor, as `measures.Body` has them; the numbers are those of `verify`.

const mean3 = (values) => (values[0] + values[1] + values[2]) / 3;
const most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);

// End joints of thighs, shins, upper arms and forearms, their parents, and the length in metres of the body's own skeleton.
const LIMBS = [
  [4, 1, 0.3936], [5, 2, 0.3902], [7, 4, 0.4324], [8, 5, 0.4256],
  [18, 16, 0.2568], [19, 17, 0.2631], [20, 18, 0.266], [21, 19, 0.2699],
];

class Body {
  constructor(joints, frames) { // (frames, 22, 3) of one motion
    this.frames = frames;
    this.joints = joints.map((value, i) => {
      const before = i < 66 ? value : joints[i - 66], after = i + 66 < joints.length ? joints[i + 66] : value;
      return 0.25 * (before + after) + 0.5 * value;
    });
    const toes = this.each((t) => [this.place(t, 10)[1], this.place(t, 11)[1]]).flat().sort((a, b) => a - b);
    const floor = toes[Math.floor(0.16 * frames)];
    for (let i = 1; i < this.joints.length; i += 3) this.joints[i] -= floor;
    const left = this.each((t) => { // from the right hip to the left one, over ground, averaged over seven frames
      const sum = [0, 0];
      for (let k = -3; k <= 3; k++) {
        const at = clamp(t + k, 0, frames - 1), [a, b] = [this.place(at, 1), this.place(at, 2)];
        sum[0] += (a[0] - b[0]) / 7;
        sum[1] += (a[2] - b[2]) / 7;
      }
      return sum;
    });
    this.yaw = left.map(([x, z]) => Math.atan2(-z, x));
  }

  each(what) { return Array.from({ length: this.frames }, (_, t) => what(t)); }
  place(t, joint) { return this.joints.subarray((t * 22 + joint) * 3, (t * 22 + joint) * 3 + 3); }
  heights(joint) { return this.each((t) => this.place(t, joint)[1]); }
  ahead(a, b) { // how far joint a is in front of joint b, seen by the body
    return this.each((t) => {
      const [p, q] = [this.place(t, a), this.place(t, b)];
      return (p[0] - q[0]) * Math.sin(this.yaw[t]) + (p[2] - q[2]) * Math.cos(this.yaw[t]);
    });
  }
  went() { // to the first frame's front, and to its left
    const [start, end, yaw] = [this.place(0, 0), this.place(this.frames - 1, 0), this.yaw[0]];
    const [x, z] = [end[0] - start[0], end[2] - start[2]];
    return [x * Math.sin(yaw) + z * Math.cos(yaw), x * Math.cos(yaw) - z * Math.sin(yaw)];
  }
  final(values) { return values.slice(-4).sort((a, b) => a - b)[1]; } // the lower median of the last four
  some(holds, frames) { return holds.filter(Boolean).length >= frames; }
  held(holds) {
    let run = 0, longest = 0;
    for (const yes of holds) { run = yes ? run + 1 : 0; longest = Math.max(longest, run); }
    return longest;
  }
  overHead(side) { return this.each((t) => this.place(t, 20 + side)[1] - this.place(t, 15)[1]); }
  stoop() { // the trunk against the vertical, to the front, in degrees
    return this.ahead(12, 0).map((x, t) => (Math.atan2(x, this.place(t, 12)[1] - this.place(t, 0)[1]) * 180) / Math.PI);
  }
  flight() {
    return this.each((t) => Math.min(this.place(t, 7)[1], this.place(t, 8)[1]) > 0.11
      && Math.min(this.place(t, 10)[1], this.place(t, 11)[1]) > 0.05);
  }
  whole() { // the limbs in proportion: each within a third of the median of the eight
    const sizes = LIMBS.map(([end, parent, length]) => {
      const long = this.each((t) => Math.hypot(...this.place(t, end).map((x, i) => x - this.place(t, parent)[i])));
      return long.reduce((a, b) => a + b) / this.frames / length;
    });
    const middle = [...sizes].sort((a, b) => a - b)[3];
    return sizes.every((size) => size < (middle * 4) / 3 && size > (middle * 3) / 4);
  }
  low() { return least(this.heights(0)) / mean3(this.heights(0)); }
}

const kick = (body, side) => {
  const out = body.ahead(7 + side, 0), high = body.heights(7 + side);
  return body.some(high.map((y, t) => y > 0.33 && out[t] > 0.48), 2)
    && most(body.heights(8 - side)) < 0.16 && least(body.heights(0)) > 0.68;
};

const jumps = (body) => {
  const [left, right] = [body.heights(7), body.heights(8)], [l, r] = [body.heights(10), body.heights(11)];
  const grounded = left.map((y, t) => Math.max(y, right[t]) < 0.12 && Math.max(l[t], r[t]) < 0.08);
  return body.some(body.flight(), 3) && body.some(grounded, 8)
    && most(body.heights(0)) - mean3(body.heights(0)) > 0.08 && most(left.map((y, t) => Math.abs(y - right[t]))) < 0.18;
};

const CHECKS = {
  "raise-both-arms": (body) => {
    const [left, right] = [body.overHead(0), body.overHead(1)];
    return body.held(left.map((y, t) => y > 0.1 && right[t] > 0.1)) >= 5;
  },
  "kick-left": (body) => kick(body, 0),
  "kick-right": (body) => kick(body, 1),
  bow: (body) => body.some(body.stoop().map((angle) => angle > 42), 5) && body.low() > 0.8,
  kneel: (body) => Math.min(body.final(body.heights(4)), body.final(body.heights(5))) < 0.18
    && body.final(body.heights(0)) < 0.68,
  squat: (body) => body.low() < 0.7 && body.final(body.heights(0)) > 0.86 * mean3(body.heights(0))
    && most(body.stoop()) < 60 && !body.some(body.flight(), 3),
  jump: (body) => jumps(body) && body.went().every((way) => Math.abs(way) < 0.28),
  "jump-forward": (body) => jumps(body) && body.went()[0] > 0.3 && Math.abs(body.went()[1]) < 0.35,
};

// true or false, or null where this page has no check for the label.
function checkMotion(body, label) { return label in CHECKS ? CHECKS[label](body) && body.whole() : null; }
