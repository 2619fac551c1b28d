// The page: one or two panels that show the same point, moved by pointer, keyboard, playback or link.

import { make, Panel } from "look/panel";
import * as draw from "look/draw";

const CLIPS_PER_SECOND = 0.25; // a clip takes four seconds, or its own length
const KEYS = [
  ["move the pointer", "choose a point"],
  ["click", "fix the point"],
  ["Esc", "release the point"],
  ["← → ↑ ↓", "move to the next place"],
  [", .", "move earlier, later"],
  ["space", "play or pause"],
  ["1 – 9", "choose a layer"],
  ["A – E", "distinctive points"],
  ["H", "brightness on or off"],
  ["T", "arrows on or off"],
  ["C", "compare two layers"],
];

export class Page {
  constructor(root) {
    this.state = { at: [0.5, 0.5, 0.5], now: 0, pinned: false, heat: true, arrows: true, top: 20, two: false, playing: false };
    this.first = new Panel(this, "Left");
    this.second = new Panel(this, "Right");
    this.panels = make("div", { className: "panels" }, this.first.element);
    this.scrub = make("input", { type: "range", min: 0, max: 1, step: "any", ariaLabel: "Time" });
    this.time = make("output", { className: "time" });
    this.play = this.button("Play", "Play (space)", () => this.setPlaying(!this.state.playing));
    this.heat = this.toggle("Brightness", "heat", "H");
    this.arrows = this.toggle("Arrows", "arrows", "T");
    this.compare = this.toggle("Compare", "two", "C");
    this.hold = make("span", { className: "hold" });
    this.saveButton = this.button("Save picture", "Save the frames as shown, as PNG", () => this.save());
    this.linkButton = this.button("Copy link", "Copy a link to this view", () => this.copyLink());
    this.controls = make(
      "div",
      { className: "controls" },
      this.play, this.scrub, this.time, this.heat, this.arrows, this.compare, this.saveButton, this.linkButton, this.hold,
    );
    this.help = make(
      "details",
      { className: "help" },
      make("summary", {}, "Shortcuts, and how to read this page"),
      make("dl", {}, ...KEYS.flatMap(([key, does]) => [make("dt", {}, key), make("dd", {}, does)])),
      make("p", {}, "The white frame marks the chosen point. Bright, amber places are those that it attends to with more than an even share, that is, more than if all places had the same share. The thickest arrow leads to the place with the largest share. If all places get about the same, the page says so and shows neither brightness nor arrows. One square is one place: the network does not distinguish smaller ones. Attention shows where information comes from. It does not show why, or whether it affected the prediction."),
    );
    root.append(this.controls, this.panels, this.help);
    this.scrub.addEventListener("input", () => {
      this.setPlaying(false);
      this.state.now = Math.min(Number(this.scrub.value), 0.9999);
      this.redraw();
    });
    document.addEventListener("keydown", (event) => this.onKey(event));
    window.addEventListener("hashchange", () => this.readLink());
  }

  button(text, title, action) {
    const button = make("button", { type: "button", title }, text);
    button.addEventListener("click", action);
    return button;
  }

  toggle(text, name, key) {
    const button = this.button(text, `${text} (${key})`, () => this.set(name, !this.state[name]));
    button.setAttribute("aria-pressed", this.state[name]);
    return button;
  }

  /** Show a clip; `view` is read from a link, and replaces the initial point and layer. */
  async show(about, read, view = {}) {
    this.about = about;
    this.setPlaying(false);
    const start = about.start;
    this.state.top = start.top;
    await this.first.show(about, read, view.layer ?? start.layer);
    if (this.state.two || view.other !== undefined) await this.showSecond(about, read, view.other);
    const { count, height, width } = about.picture;
    const at = view.at ?? [start.at[0] / count, start.at[1] / height, start.at[2] / width];
    if (view.other !== undefined) this.set("two", true);
    this.scrub.hidden = this.play.hidden = this.time.hidden = count < 2;
    this.look(at, { pinned: true, follow: true });
  }

  /** Show a clip in the second panel; by default, another layer than in the first panel. */
  async showSecond(about, read, layer) {
    const blocks = about.blocks.length;
    await this.second.show(about, read, layer ?? (this.first.layer + blocks - 1) % blocks);
  }

  /** Choose a point: (t, y, x), each from 0 to 1. */
  look(at, { pinned = this.state.pinned, follow = false } = {}) {
    this.state.at = at.map((value) => Math.min(Math.max(value, 0), 0.9999));
    this.state.pinned = pinned;
    if (follow) this.state.now = this.state.at[0];
    this.redraw();
  }

  set(name, value) {
    this.state[name] = value;
    const button = { heat: this.heat, arrows: this.arrows, two: this.compare }[name];
    button?.setAttribute("aria-pressed", value);
    if (name === "two") {
      this.panels.classList.toggle("two", value);
      if (value) this.panels.append(this.second.element);
      else this.second.element.remove();
      if (value && !this.second.block && this.first.block) this.showSecond(this.first.about, this.first.read);
    }
    this.redraw();
  }

  setPlaying(value) {
    this.state.playing = value;
    this.play.textContent = value ? "Pause" : "Play";
    if (!value) return;
    let last = null;
    const seconds = this.about.fps ? Math.max(this.about.picture.count / this.about.fps, 2) : 1 / CLIPS_PER_SECOND;
    const step = (clock) => {
      if (!this.state.playing) return;
      if (last !== null) this.state.now = (this.state.now + (clock - last) / 1000 / seconds) % 1;
      last = clock;
      this.draw();
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  redraw() {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = null;
      this.draw();
      this.writeLink();
    });
  }

  draw() {
    if (!this.about || !this.first.block) return;
    const began = performance.now();
    this.first.redraw();
    if (this.state.two && this.second.block) this.second.redraw();
    this.scrub.value = this.state.now;
    const frame = this.first.frame();
    const { times, picture } = this.about;
    this.time.textContent = times ? `${times[frame].toFixed(2)} s` : `${frame + 1} / ${picture.count}`;
    this.hold.textContent = this.state.pinned ? "Point fixed: Esc releases it" : "Click to fix the point";
    this.took = performance.now() - began; // for the tests
  }

  onKey(event) {
    const tag = event.target.tagName;
    if (event.ctrlKey || event.metaKey || event.altKey || !this.first.block) return;
    if (tag === "INPUT" || tag === "SELECT" || tag === "TEXTAREA" || (event.key === " " && (tag === "BUTTON" || tag === "SUMMARY"))) return;
    const [t, y, x] = { ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0], ",": [-1, 0, 0], ".": [1, 0, 0] }[event.key] ?? [0, 0, 0];
    const key = event.key.toLowerCase();
    if (t || y || x) this.step([t, y, x]);
    else if (key === " ") this.setPlaying(!this.state.playing);
    else if (key === "escape") this.look(this.state.at, { pinned: false });
    else if (key === "h") this.set("heat", !this.state.heat);
    else if (key === "t") this.set("arrows", !this.state.arrows);
    else if (key === "c") this.set("two", !this.state.two);
    else if (/^[a-e]$/.test(key)) this.first.pick(key.charCodeAt(0) - 97);
    else if (/^[1-9]$/.test(key) && Number(key) <= this.about.blocks.length) this.first.choose(Number(key) - 1);
    else return;
    event.preventDefault();
  }

  /** Move to the neighboring place in the first panel's layer. */
  step(by) {
    const { block, about } = this.first;
    const whole = [about.picture.count, about.picture.height, about.picture.width];
    const next = block.nearest(this.first.point()).map((q, k) => Math.min(Math.max(q + by[k], 0), block.queries[k].count - 1));
    this.look(block.center(next).map((value, k) => value / whole[k]), { pinned: true, follow: by[0] !== 0 });
  }

  /** Write the view into the address, so that a link or a reload shows the same. */
  writeLink() {
    if (!this.about) return;
    const words = new URLSearchParams(this.extra?.() ?? {});
    words.set("layer", this.first.layer + 1);
    words.set("at", this.state.at.map((value) => value.toFixed(4)).join(","));
    if (this.state.two && this.second.block) words.set("other", this.second.layer + 1);
    this.written = `#${words}`;
    history.replaceState(null, "", this.written);
  }

  /** Read a view from the address. */
  static view() {
    const words = new URLSearchParams(location.hash.slice(1));
    const number = (name) => (/^\d{1,3}$/.test(words.get(name) ?? "") ? Number(words.get(name)) - 1 : undefined);
    const at = (words.get("at") ?? "").split(",").map(Number);
    const view = { words };
    if (at.length === 3 && at.every((value) => value >= 0 && value <= 1)) view.at = at;
    for (const name of ["layer", "other"]) if (number(name) >= 0) view[name] = number(name);
    return view;
  }

  async readLink() {
    if (location.hash === this.written || !this.about) return;
    const view = Page.view();
    if (view.layer < this.about.blocks.length) await this.first.choose(view.layer);
    if (view.at) this.look(view.at, { pinned: true, follow: true });
  }

  async copyLink() {
    this.writeLink();
    let done = true;
    try {
      await navigator.clipboard.writeText(location.href);
    } catch {
      done = false; // not allowed: the address bar has the link
    }
    this.say(this.linkButton, done ? "Copied" : "See the address bar");
  }

  say(button, text) {
    const before = button.textContent;
    button.textContent = text;
    setTimeout(() => (button.textContent = before), 1600);
  }

  /** Save the view: a title, and the frames with brightness and arrows. */
  save() {
    if (!this.first.block) return;
    const panels = this.state.two && this.second.block ? [this.first, this.second] : [this.first];
    const width = 1600;
    const parts = panels.map((panel) => {
      const canvas = document.createElement("canvas");
      panel.drawFilm(canvas, width, { color: "#16181b" });
      return canvas;
    });
    const [head, pad] = [64, 24];
    const whole = document.createElement("canvas");
    const scale = parts[0].width / width;
    whole.width = parts[0].width + 2 * pad * scale;
    whole.height = parts.reduce((sum, part) => sum + part.height + head * scale, pad * scale);
    const pen = whole.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, whole.width, whole.height);
    pen.fillStyle = "#16181b";
    pen.textBaseline = "middle";
    let y = 0;
    panels.forEach((panel, i) => {
      pen.font = `${20 * scale}px system-ui, sans-serif`;
      pen.fillText(`${panel.about.title} · layer ${panel.layer + 1} of ${panel.about.blocks.length} (${panel.block.name})${panel.evenly ? `: ${panel.remark.textContent}` : ""}`, pad * scale, y + (head / 2) * scale);
      pen.drawImage(parts[i], pad * scale, y + head * scale);
      y += parts[i].height + head * scale;
    });
    const link = make("a", { download: `${this.about.title.replace(/[^\w.-]+/g, "_") || "look"}.png`, href: whole.toDataURL("image/png") });
    link.click();
    this.redraw();
  }
}

/** Start the page of one clip, with all data in the document itself. */
export function start() {
  const about = JSON.parse(document.getElementById("about").textContent);
  const read = async (name) => {
    const text = atob(document.getElementById(name).textContent);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes.buffer;
  };
  const page = new Page(document.querySelector("main"));
  window.page = page;
  page.ready = page.show(about, read, Page.view());
}
