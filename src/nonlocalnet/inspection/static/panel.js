// One layer of a network on one clip: a large frame, all frames with arrows, and statistics.

import { BlockMap, fromHalf } from "look/attention";
import * as draw from "look/draw";

const MOST_FRAMES = 32;
const GAP = 6;
const percent = (p) =>
  p >= 0.0995 ? `${Math.round(100 * p)}%` : p >= 0.0005 ? `${(100 * p).toFixed(1)}%` : p > 0 ? "<0.1%" : "0%";
const count = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Build an element: make("p", {className: "x"}, "text", child, ...). */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export class Panel {
  /**
   * @param page shared state and `redraw`, see app.js.
   * @param label name of the panel, shown if there are two.
   */
  constructor(page, label) {
    this.page = page;
    this.stage = make("canvas", { className: "stage", tabIndex: 0 });
    this.film = make("canvas", { className: "film" });
    this.layers = make("div", { className: "segments", role: "group", ariaLabel: "Layer" });
    this.legend = make("div", { className: "legend" });
    this.tiles = make("dl", { className: "tiles" });
    this.remark = make("p", { className: "remark" });
    this.points = make("div", { className: "points" });
    this.prediction = make("div", { className: "prediction" });
    this.title = make("h2", {}, label);
    this.side = make(
      "div",
      { className: "side" },
      this.title,
      this.prediction,
      make("div", { className: "row" }, make("span", { className: "label" }, "Layer"), this.layers),
      this.remark,
      this.points,
      this.tiles,
      this.legend,
    );
    this.element = make(
      "section",
      { className: "panel" },
      make("div", { className: "filmbox" }, this.film),
      make("div", { className: "stagebox" }, this.stage),
      this.side,
    );
    for (const canvas of [this.stage, this.film]) this.listen(canvas);
    new ResizeObserver(() => page.redraw()).observe(this.element);
  }

  /** Show a clip; `read(name)` returns the bytes of an array. */
  async show(about, read, layer) {
    this.about = about;
    this.read = read;
    this.maps = new Map();
    this.block = null; // draw nothing until the new clip is loaded
    this.images = await Promise.all(about.frames.map(load));
    this.fillPrediction();
    this.fillLayers();
    await this.choose(Math.min(layer ?? about.blocks.length - 1, about.blocks.length - 1));
  }

  /** Choose a layer. */
  async choose(layer) {
    this.wanted = layer;
    if (!this.maps.has(layer)) {
      const about = this.about.blocks[layer];
      const [theta, phi] = await Promise.all([this.read(about.theta.name), this.read(about.phi.name)]);
      this.maps.set(
        layer,
        new BlockMap(about, fromHalf(theta, about.theta.factor), fromHalf(phi, about.phi.factor)),
      );
    }
    if (this.wanted !== layer) return; // another one has been chosen since
    this.layer = layer;
    this.block = this.maps.get(layer);
    for (const [i, button] of [...this.layers.children].entries()) {
      button.setAttribute("aria-pressed", i === layer);
    }
    this.fillPoints();
    this.query = null;
    this.page.redraw();
  }

  /** The chosen point, in this clip's pixels. */
  point() {
    const { count, height, width } = this.about.picture;
    const [t, y, x] = this.page.state.at;
    return [t * count, y * height, x * width];
  }

  /** The frame that is shown large. */
  frame() {
    return Math.min(Math.floor(this.page.state.now * this.about.picture.count), this.about.picture.count - 1);
  }

  compute() {
    const query = this.block.nearest(this.point());
    if (this.query && this.for === this.block && query.every((q, k) => q === this.query[k])) return;
    this.query = query;
    this.for = this.block;
    this.weights = this.block.row(query);
    this.excess = this.block.excess(this.weights);
    this.most = this.excess.reduce((most, w) => (w === w ? Math.max(most, Math.abs(w)) : most), 0);
    this.measured = this.block.measure(query, this.weights);
    this.evenly = this.block.evenly || this.measured.evenly; // if so, there is nothing to see
    this.lights = new Map();
    this.fillTiles();
    this.fillLegend();
  }

  light(frame) {
    if (!this.page.state.heat || this.evenly) return null;
    const step = Math.min(Math.max(Math.floor((frame + 0.5 - this.block.keys[0].start) / this.block.keys[0].stride + 0.5), 0), this.block.keys[0].count - 1);
    if (!this.lights.has(step)) this.lights.set(step, draw.lightOf(this.block, this.excess, step, this.most));
    return this.lights.get(step);
  }

  redraw() {
    if (!this.block) return;
    this.compute();
    this.drawStage();
    this.drawFilm(this.film, this.film.parentElement.clientWidth, { color: getComputedStyle(this.element).color });
  }

  drawStage() {
    const { picture, times } = this.about;
    const box = this.stage.parentElement;
    const width = Math.min(box.clientWidth, (picture.width / picture.height) * Math.max(220, 0.34 * window.innerHeight));
    const place = { x: 0, y: 0, width, height: (width * picture.height) / picture.width };
    this.stage.style.width = `${width}px`;
    const pen = draw.prepare(this.stage, width, place.height);
    const frame = this.frame();
    this.stagePlace = place;
    draw.drawFrame(pen, this.images[frame], place, picture, this.block, this.light(frame));
    const scale = width / picture.width;
    if (this.page.state.arrows) {
      const here = this.ends().filter((end) => end.frame === frame || this.covers(end, frame));
      draw.drawDots(pen, here.map((end) => ({ ...end, x: scale * end.at[2], y: scale * end.at[1] })));
    }
    if (this.queryFrame() === frame) draw.drawQuery(pen, place, picture, this.block.cell(this.query));
    const when = times ? `${times[frame].toFixed(2)} s` : `frame ${frame + 1}`;
    this.stage.setAttribute("role", "img");
    this.stage.setAttribute("aria-label", `The clip at ${when}; ${this.words()}`);
  }

  /** Whether the cell of a key includes a frame. */
  covers(end, frame) {
    const axis = this.block.keys[0];
    return Math.abs(frame + 0.5 - end.at[0]) < axis.stride / 2;
  }

  /** The brightest keys, and the frame that contains each one's center. */
  ends() {
    if (this.evenly) return [];
    return this.block.top(this.weights, this.page.state.top).map((one) => {
      const at = this.block.keyCenter(one.key);
      return { ...one, at, frame: Math.min(Math.floor(at[0]), this.about.picture.count - 1) };
    });
  }

  queryFrame() {
    const own = Math.min(Math.floor(this.point()[0]), this.about.picture.count - 1);
    const [from, to] = this.block.cell(this.query)[0];
    return own + 0.5 > from && own + 0.5 < to ? own : Math.min(Math.floor(this.block.center(this.query)[0]), this.about.picture.count - 1);
  }

  /** The frames to show: all, or evenly spaced ones of many, the query's among them. */
  shown() {
    const all = this.about.picture.count;
    const step = Math.ceil(all / MOST_FRAMES);
    const first = step > 1 ? this.queryFrame() % step : 0;
    return Array.from({ length: Math.ceil((all - first) / step) }, (_, i) => first + i * step);
  }

  drawFilm(canvas, width, { color, top = 0 }) {
    const { picture, times } = this.about;
    const shown = this.shown();
    const film = draw.layOut(shown.length, picture, width, GAP);
    const pen = draw.prepare(canvas, width, film.height + top);
    pen.save();
    pen.translate(0, top);
    if (canvas === this.film) this.places = { shown, ...film };
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const steps = this.block.keys[0];
    let told = null;
    for (const [i, frame] of shown.entries()) {
      const place = film.places[i];
      draw.drawFrame(pen, this.images[frame], place, picture, this.block, this.light(frame));
      const step = Math.min(Math.max(Math.floor((frame + 0.5 - steps.start) / steps.stride + 0.5), 0), steps.count - 1);
      pen.fillStyle = color;
      pen.globalAlpha = 0.75;
      const middle = place.y + place.height + film.label / 2 + 1;
      if (picture.count > 1) {
        pen.textAlign = "left";
        pen.fillText(times ? `${times[frame].toFixed(2)} s` : `${frame + 1}`, place.x + 2, middle);
        pen.textAlign = "right";
        if (step !== told && this.measured.shares[step] >= 0.001) pen.fillText(percent(this.measured.shares[step]), place.x + place.width - 2, middle);
      }
      told = step; // the frames of a temporal position share one label
      pen.globalAlpha = 1;
      if (canvas === this.film && frame === this.frame() && picture.count > 1) {
        pen.fillStyle = color;
        pen.fillRect(place.x, place.y + place.height + film.label - 3, place.width, 2.5);
      }
    }
    const scale = film.places[0].width / picture.width;
    const on = (frame) => {
      const nearest = shown.reduce((best, f, i) => (Math.abs(f - frame) <= Math.abs(shown[best] - frame) ? i : best), 0);
      return film.places[nearest];
    };
    const own = on(this.queryFrame());
    draw.drawQuery(pen, own, picture, this.block.cell(this.query));
    const center = this.block.center(this.query);
    const from = { x: own.x + scale * center[2], y: own.y + scale * center[1] };
    if (this.page.state.arrows) {
      draw.drawArrows(
        pen,
        from,
        this.ends().map((end) => {
          const place = on(end.frame);
          return { ...end, x: place.x + scale * end.at[2], y: place.y + scale * end.at[1] };
        }),
      );
    }
    pen.restore();
    return film.height;
  }

  /** Find the point of the clip under the pointer: (t, y, x), each from 0 to 1, or null. */
  under(canvas, event) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const inside = (place) =>
      x >= place.x && x < place.x + place.width && y >= place.y && y < place.y + place.height;
    const frames = this.about.picture.count;
    const at = (place, frame) => [(frame + 0.5) / frames, (y - place.y) / place.height, (x - place.x) / place.width];
    if (canvas === this.stage) {
      return this.stagePlace && inside(this.stagePlace) ? at(this.stagePlace, this.frame()) : null;
    }
    const i = this.places ? this.places.places.findIndex(inside) : -1;
    return i < 0 ? null : at(this.places.places[i], this.places.shown[i]);
  }

  listen(canvas) {
    canvas.addEventListener("pointermove", (event) => {
      if (!this.block || this.page.state.pinned || event.pointerType === "touch") return;
      const at = this.under(canvas, event);
      if (at) this.page.look(at, { pinned: false });
    });
    canvas.addEventListener("click", (event) => {
      const at = this.block && this.under(canvas, event);
      if (at) this.page.look(at, { pinned: true });
    });
  }

  fillPrediction() {
    const { prediction, multi_label: many } = this.about;
    this.prediction.replaceChildren();
    if (!prediction.length) return;
    const bars = prediction.slice(0, 5).map(([name, p], i) =>
      make(
        "li",
        { className: i === 0 ? "first" : "" },
        make("span", { className: "name", title: name }, name),
        make("span", { className: "bar" }, make("i", { style: `width:${100 * p}%` })),
        make("span", { className: "value" }, percent(p)),
      ),
    );
    this.prediction.append(
      make("span", { className: "label" }, many ? "Predictions" : "Prediction"),
      make("ol", {}, ...bars),
    );
  }

  fillLayers() {
    const blocks = this.about.blocks;
    this.layers.replaceChildren(
      ...blocks.map((block, i) => {
        const name = `Layer ${i + 1} of ${blocks.length}, ${block.name}${block.evenly ? ": attends evenly" : ""}`;
        const button = make("button", { type: "button", title: name }, `${i + 1}`);
        button.classList.toggle("even", block.evenly);
        button.setAttribute("aria-label", name);
        button.addEventListener("click", () => this.choose(i));
        return button;
      }),
    );
    this.layers.parentElement.hidden = blocks.length < 2;
  }

  fillPoints() {
    const points = this.block.points.filter((point) => point.own >= 0.05);
    this.points.replaceChildren();
    if (this.block.evenly) return;
    if (!points.length) {
      // otherwise the remark says so
      if (!this.allAlike()) this.points.append(make("span", { className: "hint" }, "All points of this layer attend to the same places."));
      return;
    }
    this.points.append(
      make("span", { className: "label" }, "Distinctive points"),
      make(
        "div",
        { className: "segments" },
        ...points.map((point, i) => {
          const button = make("button", { type: "button", title: point.reason }, String.fromCharCode(65 + i));
          button.setAttribute("aria-label", `Point ${String.fromCharCode(65 + i)}: ${point.reason}`);
          button.addEventListener("click", () => this.pick(i));
          return button;
        }),
      ),
      make("span", { className: "hint" }, `${String.fromCharCode(65)}: ${points[0].reason}.`),
    );
  }

  /** Whether the rows of the layer overlap so much that all points attend to the same places. */
  allAlike() {
    return (this.block.summary.common ?? 0) > 0.7;
  }

  /** Choose one of the layer's distinctive points. */
  pick(i) {
    const point = this.block?.points[i];
    if (!point) return;
    const { count: frames, height, width } = this.about.picture;
    const [t, y, x] = this.block.center(this.block.nearest(point.at));
    const inside = (value, whole) => Math.min(Math.max(value / whole, 0), 0.999);
    this.points.querySelector(".hint").textContent = `${String.fromCharCode(65 + i)}: ${point.reason}.`;
    this.page.look([inside(t, frames), inside(y, height), inside(x, width)], { pinned: true, follow: true });
  }

  fillTiles() {
    const { mean, even, common } = this.block.summary;
    const found = this.measured;
    const fps = this.about.fps;
    const time = (frames) => (fps ? `${(frames / fps).toFixed(2)} s` : `${frames.toFixed(1)} frames`);
    const rows = [["Spread over", `${count.format(found.places)} of ${count.format(found.keys)} places`, `${count.format(mean.places)} on average`]];
    if (mean.same_frame !== undefined) {
      rows.push(["In the same frame", percent(found.same_frame), `${percent(even.same_frame)} if even`]);
      rows.push(["Distance in time", time(found.frames), `${time(even.frames)} if even`]);
    }
    if (mean.distance !== undefined) {
      const across = Math.hypot(this.about.picture.width, this.about.picture.height);
      rows.push(["Distance in space", percent(found.distance / across), `${percent(even.distance / across)} if even`]);
    }
    this.tiles.replaceChildren(
      ...rows.map(([name, value, note]) =>
        make("div", {}, make("dt", {}, name), make("dd", {}, value, make("small", {}, note))),
      ),
    );
    this.remark.textContent = this.block.evenly
      ? "This layer attends evenly: there is nothing to see."
      : found.evenly
        ? "This point attends evenly: there is nothing to see from here."
        : this.allAlike()
          ? `In this layer all points attend to much the same places: they share ${percent(common)} of their attention.`
          : "";
  }

  fillLegend() {
    const { signed, softmax } = this.block;
    const share = 1 / this.measured.keys;
    let sum = 0;
    for (const w of this.weights) if (w === w) sum += Math.abs(w);
    this.legend.replaceChildren();
    if (this.evenly) {
      if (!softmax) this.legend.append(make("span", { className: "hint" }, `The weights of this point add up to ${sum.toPrecision(2)}.`));
      return;
    }
    const relative = this.block.each_frame;
    const end = relative ? "most in the frame" : `${(1 + this.most / (sum * share)).toPrecision(3)} ×`;
    const own = share >= 0.01 ? percent(share) : `${(100 * share).toPrecision(2)}%`;
    this.legend.append(
      make("span", {}, signed ? end : "even"),
      make("i", { className: signed ? "ramp signed" : "ramp" }),
      make("span", {}, end),
      make("span", { className: "hint" }, `Brightness: attention relative to ${relative ? "each frame's own" : `an even share (${own})`}${signed ? "; blue: negative weights" : ""}.`),
    );
  }

  /** Describe the view in a sentence, for screen readers. */
  words() {
    if (!this.measured) return "";
    if (this.evenly) return "this point attends to all places evenly";
    const ends = this.ends();
    const when = ends.length && this.about.times ? ` at ${this.about.times[ends[0].frame].toFixed(2)} s` : "";
    return `this point attends to about ${count.format(this.measured.places)} places, most to one${when}`;
  }
}

async function load(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return image;
}
