// The explorer: choose a video, a network and a part of the video; the rest is the page of one clip.

import { Page } from "look/app";
import { make } from "look/panel";

export function start() {
  window.page = new Explorer(document.querySelector("main"));
  window.page.ready = window.page.open(Page.view());
}

class Explorer extends Page {
  constructor(root) {
    super(root);
    this.root = root;
    this.videos = make("select", { ariaLabel: "Video" });
    this.file = make("input", { type: "file", accept: "video/*,.mkv,.avi,.flv,.wmv", hidden: true });
    this.pick = this.button("Open a video", "Choose a video file, or drop one anywhere", () => this.file.click());
    this.network = make("select", { ariaLabel: "Network" });
    this.other = make("select", { ariaLabel: "Network on the right" });
    this.moment = make("input", { type: "range", min: 0, max: 1, step: 0.1, value: 0.5, ariaLabel: "Part of the video" });
    this.message = make("p", { className: "message" });
    this.message.setAttribute("role", "status");
    this.source = make(
      "div",
      { className: "source" },
      this.labeled("Video", this.videos),
      this.pick,
      this.file,
      this.labeled("Network", this.network),
      this.labeled("Compared with", this.other),
      this.labeled("Part of the video", this.moment),
    );
    this.empty = make(
      "button",
      { type: "button", className: "empty" },
      make("strong", {}, "Drop a video here"),
      make("span", {}, "or click to choose one. It stays on the computer that runs the explorer."),
    );
    this.empty.addEventListener("click", () => this.file.click());
    root.prepend(this.source, this.message, this.empty);
    this.work(false);
    this.listenForFiles();
    this.videos.addEventListener("change", () => this.load());
    this.network.addEventListener("change", () => this.load());
    this.moment.addEventListener("change", () => this.load());
    this.other.addEventListener("change", () => this.loadOther());
  }

  labeled(text, field) {
    return make("label", {}, make("span", { className: "label" }, text), field);
  }

  /** Show the page, or only the place to drop a video. */
  work(shown) {
    for (const part of [this.controls, this.panels, this.help]) part.hidden = !shown;
    this.empty.hidden = shown;
  }

  async open(view) {
    let contents;
    try {
      contents = await this.ask("/api/contents");
    } catch (error) {
      return this.fail(error);
    }
    this.limit = contents.max_upload_mib;
    this.fill(this.videos, contents.videos.map((video) => [video.key, video.name]));
    this.fill(this.network, contents.networks.map((name) => [name, name]));
    this.fill(this.other, contents.networks.map((name) => [name, name]));
    const several = contents.networks.length > 1;
    this.network.parentElement.hidden = this.other.parentElement.hidden = !several;
    if (several) this.other.selectedIndex = 1;
    for (const [field, name] of [[this.videos, "video"], [this.network, "network"], [this.other, "against"], [this.moment, "moment"]]) {
      const value = view.words.get(name);
      if (value !== null) field.value = value;
      if (field.selectedIndex === -1) field.selectedIndex = 0;
    }
    if (several && view.words.has("against")) view.other ??= 0;
    this.videos.parentElement.hidden = this.moment.parentElement.hidden = !contents.videos.length;
    if (contents.videos.length) await this.load(view);
  }

  fill(field, rows) {
    field.replaceChildren(...rows.map(([value, text]) => make("option", { value }, text)));
  }

  query(network) {
    return new URLSearchParams({ video: this.videos.value, network, moment: this.moment.value });
  }

  async load(view = {}) {
    const asked = (this.asked = Symbol("asked"));
    this.report("Reading and analyzing the video …", "busy");
    try {
      const [about, read] = await this.fetch(this.network.value);
      if (asked !== this.asked) return;
      this.work(true);
      this.against = null;
      const kept = this.about ? { at: this.state.at, layer: this.first.layer } : {};
      await this.show(about, read, { ...kept, ...view });
      this.report("");
    } catch (error) {
      if (asked === this.asked) this.fail(error);
    }
  }

  async fetch(network) {
    const about = await this.ask(`/api/look?${this.query(network)}`);
    const query = this.query(network);
    const read = async (name) => {
      const answer = await fetch(`/api/parts/${name}?${query}`);
      if (!answer.ok) throw new Error((await answer.json()).error);
      return answer.arrayBuffer();
    };
    return [about, read];
  }

  /** The right panel: another network if there are several, or else another layer. */
  async showSecond(about, read, layer) {
    const name = this.other.value;
    if (this.network.options.length < 2 || name === this.network.value) return super.showSecond(about, read, layer);
    this.report("Analyzing with the other network …", "busy");
    try {
      const [other, readOther] = await this.fetch(name);
      this.against = name;
      await this.second.show(other, readOther, layer);
      this.report("");
    } catch (error) {
      this.fail(error);
    }
  }

  async loadOther() {
    await this.showSecond(this.first.about, this.first.read);
    this.set("two", true);
  }

  extra() {
    const words = { video: this.videos.value, moment: this.moment.value };
    if (this.network.options.length > 1) words.network = this.network.value;
    if (this.state.two && this.against) words.against = this.against;
    return words;
  }

  async ask(address, options) {
    let answer;
    try {
      answer = await fetch(address, options);
    } catch {
      throw new Error("The server does not answer. Is nonlocalnet explore still running?");
    }
    const said = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
    if (!answer.ok) throw new Error(said.error);
    return said;
  }

  report(text, kind = "") {
    this.message.textContent = text;
    this.message.className = `message ${kind}`;
    this.root.ariaBusy = kind === "busy";
  }

  fail(error) {
    const text = error.message || String(error);
    this.report(text.charAt(0).toUpperCase() + text.slice(1), "error");
  }

  listenForFiles() {
    this.file.addEventListener("change", () => this.send(this.file.files));
    const over = (value) => document.body.classList.toggle("dropping", value);
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      over(true);
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) over(false);
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      over(false);
      this.send(event.dataTransfer.files);
    });
  }

  async send(files) {
    const file = files[0];
    if (!file) return;
    if (file.size > this.limit * 2 ** 20) {
      return this.fail(new Error(`${file.name} is larger than ${this.limit} MiB, the largest accepted size.`));
    }
    this.report(`Uploading ${file.name} …`, "busy");
    try {
      const video = await this.ask(`/api/videos?${new URLSearchParams({ name: file.name })}`, { method: "POST", body: file });
      this.videos.append(make("option", { value: video.key }, video.name));
      this.videos.value = video.key;
      this.videos.parentElement.hidden = this.moment.parentElement.hidden = false;
      this.about = null; // the point belongs to the previous video
      await this.load();
    } catch (error) {
      this.fail(error);
    } finally {
      this.file.value = "";
    }
  }
}
