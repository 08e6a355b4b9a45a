// Small edits of a motion, as `edits` has them: arms shortened and lowered, knees bent. What a caption asks for is taken away
// bit by bit; what the score says of it is seen. Only root height and joint positions change: the score reads nothing else.

const unit = (v) => { const length = Math.max(Math.hypot(...v), 1e-12); return v.map((value) => value / length); };
const minus = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const along = (a, share, v) => [a[0] + share * v[0], a[1] + share * v[1], a[2] + share * v[2]];

// From the right shoulder to the left one, level with the floor.
function acrossShoulders(pose, { arms: [[left], [right]] }) {
  const [x, , z] = minus(pose[left], pose[right]);
  return unit([x, 0, z]);
}

// Each bone of `pose` (a place for each joint) shorter by a share of its length, longer if that is negative.
function shrinkArms(pose, share, { arms }) {
  const placed = [...pose];
  for (const arm of arms) {
    for (let i = 1; i < arm.length; i++) placed[arm[i]] = along(placed[arm[i - 1]], 1 - share, minus(pose[arm[i]], pose[arm[i - 1]]));
  }
  return placed;
}

// Each bone of the arms turns by `share` of its angle to hanging straight down.
function lowerArms(pose, share, body) {
  const placed = [...pose], across = acrossShoulders(pose, body);
  body.arms.forEach((arm, side) => {
    for (let i = 1; i < arm.length; i++) {
      const bone = minus(pose[arm[i]], pose[arm[i - 1]]), length = Math.hypot(...bone), level = [bone[0], 0, bone[2]];
      const compass = unit(along(level, (side ? -0.1 : 0.1) * length, across));
      const angle = (1 - share) * Math.atan2(Math.hypot(...level), -bone[1]);
      const turned = along([0, -Math.cos(angle), 0], Math.sin(angle), compass);
      placed[arm[i]] = along(placed[arm[i - 1]], length, turned);
    }
  });
  return placed;
}

// The body sinks by `depth` metres into its knees, feet where they are.
function bendKnees(pose, depth, body) {
  const { legs, least } = body;
  const sunk = Math.min(depth, ...legs.map(([hip, , ankle]) => Math.max(0, pose[hip][1] - pose[ankle][1] - least)));
  if (!(sunk > 0)) return pose;
  const placed = pose.map(([x, y, z]) => [x, y - sunk, z]), [x, , z] = acrossShoulders(pose, body), forward = [-z, 0, x];
  for (const [hip, knee, ankle, toe] of legs) {
    placed[ankle] = pose[ankle];
    placed[toe] = pose[toe];
    const thigh = Math.hypot(...minus(pose[knee], pose[hip])), shin = Math.hypot(...minus(pose[ankle], pose[knee]));
    const line = minus(placed[ankle], placed[hip]), span = Math.max(Math.hypot(...line), 1e-6), way = line.map((v) => v / span);
    const up = (thigh ** 2 - shin ** 2 + span ** 2) / (2 * span);
    const out = along(minus(pose[knee], pose[hip]), 0.1 * thigh, forward), bulge = unit(along(out, -dot(out, way), way));
    placed[knee] = along(along(placed[hip], up, way), Math.sqrt(Math.max(0, thigh ** 2 - up ** 2)), bulge);
  }
  return placed;
}

// Raw features (frames, features), edited: a copy. Positions are seen from the root, which is edited like any other joint.
function editMotion(raw, frames, features, { lower = 0, bend = 0, shrink = 0 }, body) {
  const edited = Float64Array.from(raw), joints = (features + 1) / 12;
  for (let frame = 0; frame < frames; frame++) {
    const row = frame * features;
    let pose = [[0, raw[row + 3], 0]];
    for (let j = 1; j < joints; j++) pose.push([...raw.subarray(row + 3 * j + 1, row + 3 * j + 4)]);
    if (shrink) pose = shrinkArms(pose, shrink, body);
    if (lower) pose = lowerArms(pose, lower, body);
    if (bend) pose = bendKnees(pose, bend, body);
    edited[row + 3] = pose[0][1];
    for (let j = 1; j < joints; j++) edited.set(pose[j], row + 3 * j + 1);
  }
  return edited;
}
