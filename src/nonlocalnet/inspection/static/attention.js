// Compute the attention weights of a position from θ and φ: f(x_i, x_j) / C(x).

const HALF = new Float32Array(65536);
for (let h = 0; h < 65536; h++) {
  const exponent = (h >> 10) & 31;
  const fraction = h & 1023;
  const size =
    exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
  HALF[h] = (h & 0x8000 ? -1 : 1) * (exponent === 31 ? Infinity : size);
}

/** Convert little-endian float16 bytes to numbers. */
export function fromHalf(buffer, factor) {
  const halves = new Uint16Array(buffer);
  const numbers = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) numbers[i] = HALF[halves[i]] * factor;
  return numbers;
}

export class BlockMap {
  /**
   * @param about metadata of the block (inspection/html_page.py).
   * @param theta Float32Array, (positions, depth) row by row.
   * @param phi Float32Array, (keys, depth) row by row.
   */
  constructor(about, theta, phi) {
    Object.assign(this, about);
    this.theta = theta;
    this.phi = phi;
    this.softmax = about.pairwise === "gaussian" || about.pairwise === "embedded_gaussian";
    this.signed = about.pairwise === "dot_product";
  }

  /** The position nearest to a point (t, y, x) in pixels. */
  nearest(point) {
    return this.queries.map((axis, k) => nearest(axis, point[k]));
  }

  /** The center of a position, in pixels. */
  center(query) {
    return this.queries.map((axis, k) => axis.start + axis.stride * query[k]);
  }

  /** The edges of a position's cell, in pixels: [[first, last], [top, bottom], [left, right]]. */
  cell(query) {
    return this.center(query).map((c, k) => [c - this.queries[k].cell / 2, c + this.queries[k].cell / 2]);
  }

  /** The center of a key, in pixels. */
  keyCenter(j) {
    const [, rows, columns] = this.keys.map((axis) => axis.count);
    const index = [Math.floor(j / (rows * columns)), Math.floor(j / columns) % rows, j % columns];
    return this.keys.map((axis, k) => axis.start + axis.stride * index[k]);
  }

  /** Compute the weights of a position on all keys, the mean over heads; NaN for keys that it does not see. */
  row(query) {
    const weights = this.headRow(query, 0);
    for (let h = 1; h < this.heads; h++) {
      const own = this.headRow(query, h);
      for (let j = 0; j < weights.length; j++) weights[j] += own[j];
    }
    return this.heads > 1 ? weights.map((w) => w / this.heads) : weights;
  }

  /** Compute the weights of one head. */
  headRow(query, head) {
    const [frames, rows, columns] = this.keys.map((axis) => axis.count);
    const depth = this.depth;
    const width = depth / this.heads;
    const q = (query[0] * this.queries[1].count + query[1]) * this.queries[2].count + query[2];
    const theta = this.theta.subarray(q * depth + head * width, q * depth + (head + 1) * width);
    const weights = new Float32Array(frames * rows * columns).fill(NaN);
    const sees = this.seen(query);
    let seen = 0;
    let largest = -Infinity;
    for (let t = 0, j = 0; t < frames; t++) {
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < columns; x++, j++) {
          if (!sees(t, y, x)) continue;
          const first = j * depth + head * width;
          let score = 0;
          if (this.pairwise === "concatenation") score = Math.max(0, theta[0] + this.phi[first]);
          else for (let k = 0, i = first; k < width; k++, i++) score += theta[k] * this.phi[i];
          if (this.scale !== null) score *= this.scale;
          weights[j] = score;
          if (score > largest) largest = score;
          seen++;
        }
      }
    }
    let sum = 0;
    for (let j = 0; j < weights.length; j++) {
      if (this.softmax && weights[j] === weights[j]) {
        weights[j] = Math.exp(weights[j] - largest);
        sum += weights[j];
      }
    }
    const c = this.softmax ? sum : seen;
    for (let j = 0; j < weights.length; j++) weights[j] /= c;
    return weights;
  }

  /** Return which keys a position sees: all, or those of its frame, place, group of frames or past. */
  seen([t, y, x]) {
    if (this.extent === "causal") return (kt) => kt <= t * this.thin[0] + this.offset[0];
    if (this.extent === "space") return (kt) => kt === t * this.thin[0] + this.offset[0];
    if (this.extent === "time") {
      const own = [1, 2].map((k) => [y, x][k - 1] * this.thin[k] + this.offset[k]);
      return (kt, ky, kx) => ky === own[0] && kx === own[1];
    }
    if (this.group) {
      const own = Math.floor((t * this.thin[0] + this.offset[0]) / this.group);
      return (kt) => Math.floor(kt / this.key_group) === own;
    }
    return () => true;
  }

  /**
   * By how much each |weight| exceeds the average, with its sign: as inspection/attention.py. With
   * each_frame, the average is that of the key's frame, and the largest excess in a frame is 1.
   */
  excess(weights) {
    const size = this.each_frame ? this.keys[1].count * this.keys[2].count : weights.length;
    const found = new Float32Array(weights.length);
    for (let first = 0; first < weights.length; first += size) {
      const own = weights.subarray(first, first + size);
      let sum = 0;
      let seen = 0;
      for (const w of own) if (w === w) (sum += Math.abs(w)), seen++;
      const mean = sum / (this.each_frame ? own.length : seen);
      const beyond = own.map((w) => Math.sign(w) * Math.max(0, Math.abs(w) - mean));
      const most = beyond.reduce((most, w) => (w === w ? Math.max(most, Math.abs(w)) : most), 0);
      found.set(this.each_frame && most > 0 ? beyond.map((w) => w / most) : beyond, first);
    }
    return found;
  }

  /** How far the weights are from uniform, from 0 to 1: as inspection/attention.py. */
  uneven(weights) {
    let [sum, size, seen, apart] = [0, 0, 0, 0];
    for (const w of weights) if (w === w) (sum += w), (size += Math.abs(w)), seen++;
    for (const w of weights) if (w === w) apart += Math.abs(w - sum / seen);
    return apart / 2 / Math.max(size, 1);
  }

  /** Compute the statistics of a row: as inspection/statistics.py. */
  measure(query, weights) {
    const here = this.center(query);
    const own = nearest(this.keys[0], here[0]);
    const perFrame = this.keys[1].count * this.keys[2].count;
    let sum = 0;
    let keys = 0; // that the position sees
    for (const w of weights) if (w === w) (sum += Math.abs(w)), keys++;
    const uneven = this.uneven(weights);
    const found = { keys, uneven, evenly: uneven < this.even, places: 0, same_frame: 0, distance: 0, frames: 0, shares: new Float32Array(this.keys[0].count) };
    let entropy = 0;
    for (let j = 0; j < weights.length; j++) {
      const p = sum > 0 && weights[j] === weights[j] ? Math.abs(weights[j]) / sum : 0;
      if (p === 0) continue;
      const center = this.keyCenter(j);
      const step = Math.floor(j / perFrame);
      entropy -= p * Math.log(p);
      if (step === own) found.same_frame += p;
      found.distance += p * Math.hypot(center[1] - here[1], center[2] - here[2]);
      found.frames += p * Math.abs(center[0] - here[0]);
      found.shares[step] += p;
    }
    found.places = sum > 0 ? Math.exp(entropy) : 0;
    return found;
  }

  /** The brightest keys, none below 2% of the first: [{key, weight, strength}]. */
  top(weights, count) {
    const light = this.excess(weights);
    const order = [...light.keys()].filter((j) => light[j] === light[j]);
    order.sort((a, b) => Math.abs(light[b]) - Math.abs(light[a]));
    const most = order.length ? Math.abs(light[order[0]]) : 0;
    return order
      .slice(0, count)
      .map((key) => ({ key, weight: weights[key], strength: most ? Math.abs(light[key]) / most : 0 }))
      .filter((one) => one.strength >= 0.02);
  }
}

function nearest(axis, x) {
  const i = Math.floor((x - axis.start) / axis.stride + 0.5);
  return Math.min(Math.max(i, 0), axis.count - 1);
}
