// Draw frames, brightness and arrows on a canvas.

export const POSITIVE = [255, 176, 0];
export const NEGATIVE = [100, 143, 255];
const DIM = 0.42;
const TINT = 0.38;

const css = (color, alpha) => `rgba(${color.join(",")},${alpha})`;

/** Arrange frames in rows that fill a width; return the place of each one. */
export function layOut(count, picture, width, gap) {
  const aspect = picture.height / picture.width;
  const few = width < 560 ? [2, 2, 4] : [count, 4, 8];
  const wanted = Math.min(count, few[count <= 4 ? 0 : count <= 16 ? 1 : 2]);
  const columns = Math.min(count, aspect < 0.4 ? 1 : wanted);
  const side = (width - gap * (columns - 1)) / columns;
  const label = 22;
  const height = side * aspect;
  const places = Array.from({ length: count }, (_, i) => ({
    x: (i % columns) * (side + gap),
    y: Math.floor(i / columns) * (height + label + gap / 2),
    width: side,
    height,
  }));
  return { places, height: Math.ceil(count / columns) * (height + label + gap / 2), label };
}

/** Set a canvas to the screen's resolution, and clear it. */
export function prepare(canvas, width, height) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

/** Draw the excess of the keys of one temporal position: one pixel per key. */
export function lightOf(block, excess, step, most) {
  const [, rows, columns] = block.keys.map((axis) => axis.count);
  const small = new OffscreenCanvas(columns, rows);
  const pixels = new ImageData(columns, rows);
  for (let j = 0; j < rows * columns; j++) {
    const w = excess[step * rows * columns + j];
    const strength = most > 0 && w === w ? Math.abs(w) / most : 0;
    const dark = (1 - DIM) * (1 - strength);
    const tint = TINT * strength;
    const alpha = 1 - (1 - dark) * (1 - tint);
    const color = w < 0 ? NEGATIVE : POSITIVE;
    for (let k = 0; k < 3; k++) pixels.data[4 * j + k] = alpha ? (color[k] * tint) / alpha : 0;
    pixels.data[4 * j + 3] = 255 * alpha;
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  return small;
}

/** Draw a frame at a place, with the brightness of `light` (null for none). */
export function drawFrame(pen, image, place, picture, block, light) {
  pen.save();
  pen.beginPath();
  pen.roundRect(place.x, place.y, place.width, place.height, 6);
  pen.clip();
  pen.imageSmoothingEnabled = picture.width >= 200;
  pen.imageSmoothingQuality = "high";
  if (image) pen.drawImage(image, place.x, place.y, place.width, place.height);
  if (light) {
    const scale = place.width / picture.width;
    const [, y, x] = block.keys;
    // round: translucent edges that overlap would show as lines
    const edges = (axis, origin) =>
      [axis.start - axis.stride / 2, axis.start + axis.stride * (axis.count - 0.5)].map((edge) => Math.round(origin + scale * edge));
    const [[left, end], [top, foot]] = [edges(x, place.x), edges(y, place.y)];
    const [width, height] = [end - left, foot - top];
    pen.imageSmoothingEnabled = false;
    pen.drawImage(light, left, top, width, height);
    pen.fillStyle = css([0, 0, 0], 1 - DIM); // where there is no key
    const [right, bottom] = [place.x + place.width, place.y + place.height];
    pen.fillRect(place.x, place.y, place.width, Math.max(0, top - place.y));
    pen.fillRect(place.x, top + height, place.width, Math.max(0, bottom - top - height));
    pen.fillRect(place.x, top, Math.max(0, left - place.x), height);
    pen.fillRect(left + width, top, Math.max(0, right - left - width), height);
  }
  pen.restore();
}

/** Draw a frame around the cell of the chosen position. */
export function drawQuery(pen, place, picture, cell) {
  const scale = place.width / picture.width;
  const edge = ([a, b], origin, length) => {
    const from = Math.max(origin, origin + scale * a);
    return [from, Math.min(origin + length, origin + scale * b) - from];
  };
  const [y, height] = edge(cell[1], place.y, place.height);
  const [x, width] = edge(cell[2], place.x, place.width);
  for (const [line, color] of [[5, "#000"], [2.5, "#fff"]]) {
    pen.lineWidth = line;
    pen.strokeStyle = color;
    pen.strokeRect(x + 1.5, y + 1.5, Math.max(2, width - 3), Math.max(2, height - 3));
  }
}

/** Draw arrows from a point to others: [{x, y, weight, strength}], the strongest on top. */
export function drawArrows(pen, from, ends) {
  pen.lineCap = "round";
  for (const { x, y, weight, strength } of [...ends].reverse()) {
    const length = Math.hypot(x - from.x, y - from.y);
    const width = 1 + 2.6 * strength;
    const color = css(weight < 0 ? NEGATIVE : POSITIVE, 0.45 + 0.55 * strength);
    if (length < 8) {
      dot(pen, x, y, 3 + 3 * strength, color);
      continue;
    }
    const head = 7 + 5 * strength;
    const [ux, uy] = [(x - from.x) / length, (y - from.y) / length];
    const line = new Path2D();
    line.moveTo(from.x, from.y);
    line.lineTo(x - ux * head * 0.8, y - uy * head * 0.8);
    const tip = new Path2D();
    tip.moveTo(x, y);
    tip.lineTo(x - ux * head - uy * head * 0.45, y - uy * head + ux * head * 0.45);
    tip.lineTo(x - ux * head + uy * head * 0.45, y - uy * head - ux * head * 0.45);
    tip.closePath();
    pen.lineJoin = "round";
    pen.strokeStyle = "rgba(0,0,0,.6)";
    pen.lineWidth = width + 2;
    pen.stroke(line);
    pen.lineWidth = 2.5;
    pen.stroke(tip);
    pen.strokeStyle = pen.fillStyle = color;
    pen.lineWidth = width;
    pen.stroke(line);
    pen.fill(tip);
  }
}

/** Mark keys with dots, larger for stronger ones. */
export function drawDots(pen, ends) {
  for (const { x, y, weight, strength } of [...ends].reverse()) {
    dot(pen, x, y, 3 + 5 * strength, css(weight < 0 ? NEGATIVE : POSITIVE, 0.95));
  }
}

function dot(pen, x, y, radius, color) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fillStyle = color;
  pen.fill();
  pen.lineWidth = 1.5;
  pen.strokeStyle = "rgba(0,0,0,.75)";
  pen.stroke();
}
