// Why a prediction may be wrong, by the rules and limits of predict.py, which page.json holds.

const FRACTION = 2 ** 22; // Pillow's integer weights have so many parts

// Warnings of a picture: keys of messages.json and what their braces stand for.
//   square: size x size grey values, as the network sees them
//   shape: width and height of the picture that they are the middle of
//   inverted: the reader has asked for the negative
export function doubts(square, shape, inverted, page) {
  const { size } = page;
  return [
    ...ofShape(shape, size, page.limits),
    ...ofGreys(square, page.limits),
    ...ofLikeness(square, inverted, page),
  ];
}

function ofShape({ width, height }, size, limits) {
  const side = Math.min(width, height);
  const warnings = [];
  if (side < size) {
    const key = side < limits.smallest ? "warn_tiny" : "warn_small";
    warnings.push({ key, values: { width, height, size } });
  }
  if (Math.max(width, height) > limits.widest * side) {
    warnings.push({ key: "warn_wide", values: { width, height, side } });
  }
  return warnings;
}

function ofGreys(square, limits) {
  const counts = new Array(256).fill(0);
  for (const value of square) counts[value] += 1;
  let total = 0;
  const below = [0, ...counts.map((count) => (total += count))]; // pixels darker than a grey
  let within = 0;
  for (let value = limits.flat_levels; value <= 256; value++) {
    within = Math.max(within, below[value] - below[value - limits.flat_levels]);
  }
  const share = within / total;
  if (share >= limits.flat_share) return [{ key: "warn_empty", values: { share } }];
  const [low, high] = [Math.min(...square), Math.max(...square)];
  return high - low < limits.pale ? [{ key: "warn_pale", values: { low, high } }] : [];
}

function ofLikeness(square, inverted, page) {
  const { likeness, negative, size } = page;
  const warnings = [];
  const r = correlation(square, size, negative.mean);
  if (r < negative.limit) {
    const key = inverted ? "warn_inverted_now" : "warn_inverted";
    warnings.push({ key, values: { r }, negative: true });
    square = square.map((value) => 255 - value);
  }
  if (likeness) {
    const distance = distanceOf(square, size, likeness);
    if (distance > likeness.limit) {
      const { limit, val_images: n, percentile } = likeness;
      warnings.push({ key: "warn_unlike", values: { distance, limit, n, percentile }, unlike: true });
    }
  }
  return warnings;
}

// Pearson's correlation with a mean image of `side` x `side`, flattened.
function correlation(square, size, mean) {
  const values = standardized(square, size, Math.sqrt(mean.length));
  const average = mean.reduce((sum, value) => sum + value, 0) / mean.length;
  const pattern = mean.map((value) => value - average);
  const norms = Math.sqrt(dot(values, values) * dot(pattern, pattern));
  return dot(values, pattern) / Math.max(norms, 1e-12);
}

// The distance of chestlab/training/likeness.py from the training images.
function distanceOf(square, size, likeness) {
  const side = Math.sqrt(likeness.mean.length);
  const values = standardized(square, size, side);
  const centred = values.map((value, at) => value - likeness.mean[at]);
  const coefficients = likeness.components.map((component) => dot(centred, component));
  const leftOver = dot(centred, centred) - dot(coefficients, coefficients);
  const logarithms = [leftOver, sharpness(values, side)].map((v) => Math.log(Math.max(v, 1e-6)));
  const scores = [...coefficients, ...logarithms].map(
    (number, at) => (number - likeness.centre[at]) / likeness.spread[at],
  );
  return Math.sqrt(dot(scores, scores));
}

// The mean square of second differences, down and across.
function sharpness(values, side) {
  let sum = 0;
  let count = 0;
  for (let i = 0; i < side; i++) {
    for (let j = 1; j < side - 1; j++) {
      const across = i * side + j;
      const down = j * side + i;
      sum += (values[across - 1] - 2 * values[across] + values[across + 1]) ** 2;
      sum += (values[down - side] - 2 * values[down] + values[down + side]) ** 2;
      count += 2;
    }
  }
  return sum / count;
}

function dot(first, second) {
  return first.reduce((sum, value, at) => sum + value * second[at], 0);
}

// Reduced to side x side, of mean 0 and standard deviation 1 (a grey level more: never 0).
function standardized(square, size, side) {
  const values = Array.from(size === side ? square : boxed(square, size, side));
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const centred = values.map((value) => value - mean);
  const deviation = Math.sqrt(dot(centred, centred) / values.length);
  return centred.map((value) => value / (deviation + 1));
}

// Pillow's box filter, first along rows and then along columns, each rounded to 8 bits.
function boxed(square, size, side) {
  const weights = boxWeights(size, side);
  const across = new Uint8Array(size * side);
  for (let row = 0; row < size; row++) {
    weights.forEach(({ first, parts }, column) => {
      across[row * side + column] = rounded(parts, (at) => square[row * size + first + at]);
    });
  }
  const both = new Uint8Array(side * side);
  weights.forEach(({ first, parts }, row) => {
    for (let column = 0; column < side; column++) {
      both[row * side + column] = rounded(parts, (at) => across[(first + at) * side + column]);
    }
  });
  return both;
}

function rounded(parts, value) {
  const sum = parts.reduce((total, part, at) => total + part * value(at), 0);
  return Math.min(255, Math.floor((sum + FRACTION / 2) / FRACTION));
}

function boxWeights(size, side) {
  const scale = size / side;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: side }, (_, at) => {
    const centre = (at + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 0.5 * stretch + 0.5));
    const end = Math.min(size, Math.trunc(centre + 0.5 * stretch + 0.5));
    const inside = Array.from({ length: end - first }, (_, k) => {
      const distance = (k + first - centre + 0.5) / stretch;
      return distance > -0.5 && distance <= 0.5 ? 1 : 0;
    });
    const total = dot(inside, inside);
    const parts = inside.map((weight) => Math.floor((weight / total) * FRACTION + 0.5));
    return { first, parts };
  });
}
