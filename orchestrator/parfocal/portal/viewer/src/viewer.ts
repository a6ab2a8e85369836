// The viewer of a page: panes that move together, layers, planes, readout, keys.

import { Annotator, HELP as ANNOTATE_HELP } from "./annotate";
import { PALETTE, paletteIndex } from "./colours";
import { Contrast } from "./contrast";
import { type Box, type Config, fetchJson, type ImageConfig, type Info, type Layout, type Unready } from "./config";
import { make } from "./dom";
import { Layer, type Plane } from "./layer";
import { Pane, short } from "./pane";
import { renderer } from "./render";

const REST_MS = 150;
const POLL_MS = 3000;
const CLASS_FILL = 0.3;

const HELP: [string, string][] = [
  ["Arrow keys", "move"],
  ["+  −", "zoom"],
  ["0", "fit the image"],
  ["9", "100 %: one pixel of the image is one of the screen"],
  [",  .", "plane below, above (with Shift: time)"],
  ["J  K", "next, previous image"],
  ["1 – 4", "layer"],
  ["W", "swipe: a line between the first two layers"],
  ["G", "grid: four layers side by side"],
  ["X (held)", "blink: show the next layer"],
  ["A", "contrast of the beginning"],
  ["L", "next look-up table"],
  ["O", "outlines and boxes on or off"],
  ["I", "read the value under the cursor aloud"],
  ["Shift or Alt and wheel", "plane or time"],
];

interface State {
  image: number;
  layer: number;
  layout: Layout;
  z: number;
  t: number;
  overlays: boolean;
  /** How opaque areas of labels are; unless somebody has said so those of classes are, and objects are not. */
  fill?: number;
  swipe: number;
}

export class Viewer {
  private bar = make("div", "viewer-bar", { role: "toolbar", "aria-label": "View" });
  private layerButtons = make("div", "viewer-group", { role: "group", "aria-label": "Layer" });
  private layoutButtons = make("div", "viewer-group", { role: "group", "aria-label": "Layout" });
  readonly tools = make("div", "viewer-bar", { role: "toolbar", "aria-label": "Tools", hidden: "" });
  readonly area = make("div", "viewer-area");
  readonly foot = make("div", "viewer-foot");
  private annotator?: Annotator;
  private swipe = make("input", "viewer-swipe", { type: "range", min: "0", max: "100", step: "1", "aria-label": "Swipe line, percent from the left" });
  private line = make("div", "viewer-line");
  private sliders = make("div", "viewer-sliders");
  private readout = make("div", "viewer-readout");
  private title = make("span", "viewer-title");
  private live = make("div", "viewer-hidden", { "aria-live": "polite" });
  private message = make("div", "viewer-message", { role: "status" });
  private legend = make("ul", "viewer-legend", { "aria-label": "Classes" });
  private hint = make("div", "viewer-hint", { hidden: "" }, "Ctrl and wheel zoom the image.");
  private help = make("dialog", "viewer-help", { "aria-label": "Keys" });
  private contrast: Contrast;
  private panes: Pane[] = [];
  private layers: (Layer | Unready)[] = [];
  private leader?: Pane;
  private pointer?: { pane: Pane; x: number; y: number };
  private rest = 0;
  private poll = 0;
  private blink = false;
  private opacity!: HTMLInputElement;
  private loading = 0;
  private marked?: { layer: string; id: number };
  private state: State;
  private linked: boolean;

  constructor(
    readonly root: HTMLElement,
    readonly config: Config,
    first: boolean,
  ) {
    this.linked = first;
    const image = Math.max(0, config.images.findIndex((each) => each.name === config.image));
    this.state = { image, layer: 0, layout: config.layout ?? "single", z: -1, t: 0, overlays: true, swipe: 50 };
    this.contrast = new Contrast(() => {
      this.panes.forEach((pane) => (pane.osd.forceRedraw(), pane.decorate()));
      this.keep();
    }, () => void this.update());
    this.build();
    if (config.draft) this.annotator = new Annotator(this, config.draft);
    void this.open(image);
  }

  private get images(): ImageConfig[] {
    return this.config.images;
  }

  private get pictures(): Layer[] {
    return this.ready.filter((layer) => !layer.config.overlay);
  }

  private get overlays(): Layer[] {
    return this.state.overlays ? this.ready.filter((layer) => layer.config.overlay && layer.isLabels) : [];
  }

  private get ready(): Layer[] {
    return this.layers.filter((layer): layer is Layer => layer instanceof Layer);
  }

  /** The labels that people change. */
  get labels(): Layer | undefined {
    return this.ready.find((layer) => layer.config.overlay && layer.isLabels);
  }

  /** The image that places are told by. */
  get reference(): Layer | undefined {
    return this.pictures[0];
  }

  get image(): ImageConfig {
    return this.images[this.state.image];
  }

  get plane(): Plane {
    return { z: Math.max(0, this.state.z), t: this.state.t };
  }

  // Building

  private button(text: string, label: string, action: () => void): HTMLButtonElement {
    const button = make("button", "", { type: "button", title: label }, text);
    button.addEventListener("click", action);
    return button;
  }

  private build(): void {
    const { root } = this;
    root.tabIndex = 0;
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", "Image viewer. Press ? for its keys.");
    for (const [layout, label] of [["single", "Single"], ["swipe", "Swipe"], ["grid", "Grid"]] as const) {
      const button = this.button(label, `${label} view`, () => this.setLayout(layout));
      button.dataset.layout = layout;
      this.layoutButtons.append(button);
    }
    this.opacity = make("input", "", { type: "range", min: "0", max: "0.6", step: "0.05", value: "0", "aria-label": "Fill of objects" });
    this.opacity.addEventListener("input", () => {
      this.state.fill = Number(this.opacity.value);
      void this.update();
    });
    const outlines = this.button("Outlines", "Outlines and boxes (O)", () => this.toggleOverlays());
    outlines.dataset.role = "overlays";
    const contrast = this.button("Contrast", "Contrast, look-up table, gamma", () => this.contrast.toggle());
    contrast.dataset.role = "contrast";
    this.bar.append(
      this.layerButtons,
      ...(this.config.draft ? [] : [this.layoutButtons]),
      make("div", "viewer-group", { role: "group", "aria-label": "Zoom" },
        this.button("Fit", "Fit the image (0)", () => this.fit()),
        this.button("100 %", "One pixel of the image on one of the screen (9)", () => this.active?.setZoom(1)),
      ),
      make("div", "viewer-group viewer-objects", { role: "group", "aria-label": "Objects" }, outlines, this.opacity),
      contrast,
      this.button("?", "Keys (?)", () => this.help.showModal()),
    );
    const table = make("table");
    for (const [key, meaning] of [...(this.config.draft ? ANNOTATE_HELP : []), ...HELP])
      table.append(make("tr", "", {}, make("th", "", { scope: "row" }, key), make("td", "", {}, meaning)));
    const close = this.button("Close", "Close (Esc)", () => this.help.close());
    this.help.append(make("h2", "", {}, "Keys of the viewer"), table, close);
    this.swipe.value = String(this.state.swipe);
    this.swipe.addEventListener("input", () => {
      this.state.swipe = Number(this.swipe.value);
      this.clip();
    });
    this.foot.append(this.title, this.readout);
    root.replaceChildren(
      this.bar,
      this.tools,
      this.area,
      this.sliders,
      this.foot,
      this.contrast.element,
      this.message,
      this.live,
      this.help,
    );
    this.area.append(this.line, this.swipe, this.hint, this.legend);
    root.addEventListener("keydown", (event) => this.onKey(event), true);
    root.addEventListener("keyup", (event) => {
      if (event.key.toLowerCase() === "x" && this.blink) {
        this.blink = false;
        void this.update();
      }
    });
    this.area.addEventListener("wheel", (event) => this.onWheel(event), { capture: true, passive: false });
    this.area.addEventListener("pointermove", (event) => this.onPointer(event));
    this.area.addEventListener("pointerleave", () => {
      this.pointer = undefined;
      this.readout.textContent = "";
    });
    let down: [number, number] | undefined;
    this.area.addEventListener("pointerdown", (event) => {
      down = [event.clientX, event.clientY];
      this.root.focus({ preventScroll: true });
    });
    this.area.addEventListener("pointerup", (event) => {
      if (down && Math.hypot(event.clientX - down[0], event.clientY - down[1]) < 4) this.onClick(event);
      down = undefined;
    });
    new ResizeObserver(() => this.clip()).observe(this.area);
    root.addEventListener("viewer:show", (event) => void this.show((event as CustomEvent).detail));
    root.addEventListener("viewer:refresh", () => void this.reload());
    root.dataset.renderer = renderer().kind;
  }

  // Images and layers

  private async open(index: number): Promise<void> {
    const image = this.images[index];
    if (!image) return this.say("There are no images to show.");
    const number = ++this.loading;
    const known = this.ready;
    this.state.image = index;
    this.marked = undefined;
    window.clearTimeout(this.poll);
    let layers: (Layer | Unready)[];
    try {
      layers = await Promise.all(
        image.layers.map(async (config) => {
          const info = await fetchJson<Info | Unready>(config.info);
          if (info.state !== "ready") return info;
          const layer = new Layer(config, info);
          this.restore(layer);
          return layer;
        }),
      );
    } catch (error) {
      if (number !== this.loading) return;
      return this.say(`${image.name} cannot be shown: ${(error as Error).message}.`);
    }
    const boxes = typeof image.boxes === "string" ? await fetchJson<Box[]>(image.boxes).catch(() => []) : (image.boxes ?? []);
    if (number !== this.loading) return;
    this.layers = layers;
    const unready = layers.filter((layer): layer is Unready => !(layer instanceof Layer));
    const failed = unready.find((layer) => layer.state === "failed");
    const waiting = unready.some((layer) => layer.state === "building");
    this.say(failed ? (failed.reason ?? "This image cannot be shown.") : waiting ? "The tiles of this image are being made…" : "");
    if (waiting) {
      this.thumbnails(image);
      this.poll = window.setTimeout(() => void this.reload(), POLL_MS);
    }
    const depth = Math.max(1, ...this.ready.map((layer) => layer.info.sizes.z));
    const times = Math.max(1, ...this.ready.map((layer) => layer.info.sizes.t));
    if (depth !== this.depth) this.state.z = Math.floor(depth / 2);
    this.depth = depth;
    this.state.t = Math.min(this.state.t, times - 1);
    this.state.layer = Math.min(this.state.layer, Math.max(0, this.pictures.length - 1));
    this.buildSliders(depth, times);
    // Images of another size begin as a whole; those of the same size keep the place, for comparing.
    const [before, after] = [known[0], this.ready[0]];
    const same = before && after && before.width === after.width && before.height === after.height;
    if (!same) this.panes.splice(0).forEach((pane) => pane.destroy());
    await this.update();
    this.panes.forEach((pane) => pane.setBoxes(boxes));
    this.root.classList.toggle("has-objects", boxes.length > 0 || this.ready.some((layer) => layer.config.overlay));
    if (this.state.fill === undefined) this.opacity.value = String(this.ready.some((layer) => layer.isClasses) ? CLASS_FILL : 0);
    this.nameClasses();
    const note = image.note ? `, ${image.note}` : "";
    const place = this.images.length > 1 ? `${index + 1} of ${this.images.length}: ` : "";
    this.title.textContent = `${place}${image.name}${note}`;
    this.root.dispatchEvent(new CustomEvent("viewer:image", { bubbles: true, detail: { name: image.name } }));
    void this.annotator?.opened();
  }

  /** Say which colour is which class, where classes have names. */
  private nameClasses(): void {
    const names = Object.assign({}, ...this.ready.map((layer) => layer.classNames)) as Record<string, string>;
    this.legend.replaceChildren(
      ...Object.entries(names)
        .filter(([value]) => value !== "0")
        .map(([value, name]) => {
          const patch = make("canvas", "", { width: "12", height: "12", "aria-hidden": "true" });
          const brush = patch.getContext("2d")!;
          brush.fillStyle = `rgb(${PALETTE[paletteIndex(Number(value), true)].join(" ")})`;
          brush.fillRect(0, 0, 12, 12);
          return make("li", "", {}, patch, name);
        }),
    );
  }

  /** Ask again for the layers, where what they show was changed as a whole. */
  async reload(): Promise<void> {
    await this.open(this.state.image);
  }

  private thumbnails(image: ImageConfig): void {
    const config = image.layers.find((_, index) => !(this.layers[index] instanceof Layer) && (this.layers[index] as Unready).thumbnail);
    if (config) this.message.append(make("img", "", { src: config.info.replace(/info(\?.*)?$/, "thumbnail"), alt: `${image.name}, ${config.name}, small` }));
  }

  private say(text: string): void {
    this.message.textContent = text;
  }

  private shownLayers(): Layer[] {
    const { pictures } = this;
    const { layout, layer } = this.state;
    if (layout === "swipe" && pictures.length > 1) return pictures.slice(0, 2);
    if (layout === "grid" && pictures.length > 1) return pictures.slice(0, 4);
    const chosen = this.blink ? (layer + 1) % pictures.length : layer;
    return pictures[chosen] ? [pictures[chosen]] : [];
  }

  private async update(): Promise<void> {
    const shown = this.shownLayers();
    while (this.panes.length > shown.length) this.panes.pop()!.destroy();
    while (this.panes.length < shown.length) {
      const pane = new Pane(this.area, this.line, (moved) => (this.follow(moved), this.readPointer()), (made) => this.begin(made));
      pane.element.addEventListener("pointerenter", () => (this.leader = pane));
      this.panes.push(pane);
    }
    this.area.dataset.layout = shown.length > 1 ? this.state.layout : "single";
    const reference = this.pictures[0];
    const look = (layer: Layer) => ({
      fill: this.state.fill ?? (layer.isClasses ? CLASS_FILL : 0),
      selected: this.marked?.layer === layer.config.name ? this.marked.id : 0,
    });
    shown.forEach((layer, index) => this.panes[index].show(layer, this.overlays, this.plane, reference, look));
    this.panes.forEach((pane) => pane.showBoxes(this.state.overlays));
    this.layerButtons.replaceChildren(
      ...this.pictures.map((layer, index) => {
        const button = this.button(layer.config.name, `${layer.config.name} (${index + 1})`, () => this.setLayer(index));
        button.setAttribute("aria-pressed", String(shown.includes(layer)));
        return button;
      }),
    );
    for (const button of this.layoutButtons.children as HTMLCollectionOf<HTMLButtonElement>) {
      button.setAttribute("aria-pressed", String(button.dataset.layout === this.state.layout));
      button.disabled = button.dataset.layout !== "single" && this.pictures.length < 2;
    }
    this.bar.querySelector("[data-role=overlays]")?.setAttribute("aria-pressed", String(this.state.overlays));
    this.contrast.of(this.active?.layer);
    this.clip();
    this.write();
    this.readPointer();
  }

  /** Paint again what has changed. */
  repaint(): void {
    this.panes.forEach((pane) => pane.osd.forceRedraw());
    this.readPointer();
  }

  setBoxes(boxes: Box[]): void {
    this.panes.forEach((pane) => pane.setBoxes(boxes));
    this.root.classList.toggle("has-objects", boxes.length > 0);
  }

  /** Outline an object or box in white; nothing where the id is empty. */
  select(id: string): void {
    this.mark(this.labels?.config.name ?? "", id, false);
  }

  get active(): Pane | undefined {
    return this.leader && this.panes.includes(this.leader) ? this.leader : this.panes[0];
  }

  private clip(): void {
    const swiping = this.area.dataset.layout === "swipe" && this.panes.length === 2;
    const place = this.state.swipe;
    this.swipe.hidden = this.line.hidden = !swiping;
    this.panes.forEach((pane, index) => (pane.element.style.clipPath = swiping && index === 0 ? `inset(0 ${100 - place}% 0 0)` : ""));
    this.panes.forEach((pane, index) => (pane.element.style.zIndex = swiping && index === 0 ? "1" : ""));
    this.line.style.left = `${place}%`;
    this.swipe.value = String(place);
    this.swipe.setAttribute("aria-valuetext", `${place} percent`);
  }

  private buildSliders(depth: number, times: number): void {
    this.sliders.replaceChildren();
    for (const [axis, count, label] of [["z", depth, "Plane"], ["t", times, "Time"]] as const) {
      if (count < 2) continue;
      const input = make("input", "", { type: "range", min: "0", max: String(count - 1), step: "1", "aria-label": label });
      input.dataset.axis = axis;
      const text = make("output");
      input.value = String(this.state[axis]);
      text.textContent = `${axis} ${this.state[axis]} of ${count - 1}`;
      input.addEventListener("input", () => this.setPlane(axis, Number(input.value)));
      this.sliders.append(make("label", "", {}, label, input, text));
    }
  }

  private setPlane(axis: "z" | "t", value: number): void {
    const input = this.sliders.querySelector<HTMLInputElement>(`[data-axis=${axis}]`);
    if (!input) return;
    this.state[axis] = Math.min(Math.max(value, 0), Number(input.max));
    input.value = String(this.state[axis]);
    const text = `${axis} ${this.state[axis]} of ${input.max}`;
    input.setAttribute("aria-valuetext", text);
    input.nextElementSibling!.textContent = text;
    void this.update();
  }

  private setLayer(index: number): void {
    if (!this.pictures[index]) return;
    this.state.layer = index;
    if (this.state.layout !== "single") this.state.layout = "single";
    void this.update();
  }

  private setLayout(layout: Layout): void {
    const bounds = this.active?.osd.viewport.getBounds(true);
    this.state.layout = this.pictures.length < 2 ? "single" : layout;
    void this.update().then(() => {
      // Panes of another shape show the same middle.
      requestAnimationFrame(() => bounds && this.panes.forEach((pane) => pane.osd.viewport.fitBounds(bounds, true)));
    });
  }

  private toggleOverlays(): void {
    this.state.overlays = !this.state.overlays;
    void this.update();
  }

  private fit(): void {
    this.active?.osd.viewport.goHome();
  }

  /** Show in a new pane what the others show; in the first of all what the address says. */
  private begin(made: Pane): void {
    const other = this.panes.find((pane) => pane !== made && pane.osd.world.getItemCount());
    if (other) this.copyView(other, made);
    else if (this.linked && !this.addressed) this.readAddress();
    this.addressed = true;
  }

  private copyView(from: Pane, to: Pane): void {
    to.osd.viewport.zoomTo(from.osd.viewport.getZoom(true), undefined, true);
    to.osd.viewport.panTo(from.osd.viewport.getCenter(true), true);
  }

  /** Bring the other panes to where one has moved. */
  private follow(moved: Pane): void {
    if (moved !== this.active || !moved.osd.world.getItemCount()) return;
    for (const pane of this.panes) if (pane !== moved && pane.osd.world.getItemCount()) this.copyView(moved, pane);
    this.write();
  }

  // Contrast that is kept

  private keyOf(layer: Layer): string {
    return `parfocal.contrast ${this.config.keep} ${layer.config.name}`;
  }

  private restore(layer: Layer): void {
    const earlier = this.ready.find((each) => each.config.name === layer.config.name && each.info.channels.length === layer.info.channels.length);
    let kept: unknown;
    try {
      kept = this.config.keep ? JSON.parse(localStorage.getItem(this.keyOf(layer)) ?? "null") : null;
    } catch {
      kept = null;
    }
    if (Array.isArray(kept) && kept.length === layer.mappings.length) kept.forEach((each, c) => Object.assign(layer.mappings[c], each));
    else if (earlier && earlier.config.info === layer.config.info) earlier.mappings.forEach((each, c) => Object.assign(layer.mappings[c], each));
  }

  private keep(): void {
    const layer = this.active?.layer;
    if (!layer || !this.config.keep) return;
    try {
      localStorage.setItem(this.keyOf(layer), JSON.stringify(layer.mappings));
    } catch {
      // Private windows keep nothing.
    }
  }

  // Readout

  private onPointer(event: PointerEvent): void {
    const pane = this.paneAt(event.clientX, event.clientY);
    if (!pane) return;
    this.pointer = { pane, x: event.clientX, y: event.clientY };
    this.readPointer();
  }

  paneAt(x: number, y: number): Pane | undefined {
    if (this.area.dataset.layout === "swipe" && this.panes.length === 2) {
      const box = this.area.getBoundingClientRect();
      return this.panes[(x - box.left) / box.width <= this.state.swipe / 100 ? 0 : 1];
    }
    return this.panes.find(({ element }) => {
      const box = element.getBoundingClientRect();
      return x >= box.left && x < box.right && y >= box.top && y < box.bottom;
    });
  }

  private readPointer(): void {
    window.clearTimeout(this.rest);
    if (!this.pointer || !this.ready.length) return;
    const { pane, x, y } = this.pointer;
    const missing = this.ready.filter((layer) => {
      const place = pane.pixelAt(x, y, layer);
      return layer.contains(...place) && !layer.peek(...place, this.plane);
    });
    this.writeReadout(pane, x, y);
    if (missing.length)
      this.rest = window.setTimeout(() => {
        const pointer = this.pointer;
        void Promise.allSettled(missing.map((layer) => layer.values(...pane.pixelAt(x, y, layer), this.plane))).then(() => {
          if (pointer === this.pointer) this.writeReadout(pane, x, y);
        });
      }, REST_MS);
  }

  private writeReadout(pane: Pane, x: number, y: number): void {
    const main = pane.layer;
    if (!main) return;
    const [column, row] = pane.pixelAt(x, y, main);
    if (!main.contains(column, row)) {
      this.readout.textContent = "";
      return;
    }
    const z = this.ready.some((layer) => layer.info.sizes.z > 1) ? ` z ${this.plane.z}` : "";
    const t = this.ready.some((layer) => layer.info.sizes.t > 1) ? ` t ${this.plane.t}` : "";
    const parts = [`y ${row} x ${column}${z}${t}`];
    for (const layer of this.ready) {
      const place = pane.pixelAt(x, y, layer);
      if (!layer.contains(...place)) continue;
      const values = layer.peek(...place, this.plane);
      const unit = layer.config.unit ? ` ${layer.config.unit}` : "";
      parts.push(`${layer.config.name} ${values ? values.map((value) => exact(value, layer)).join(", ") + unit : "…"}`);
    }
    this.readout.textContent = parts.join(" | ");
  }

  /** Say the values under the cursor, or in the middle of the view where it is elsewhere. */
  private async announce(): Promise<void> {
    const pane = this.pointer?.pane ?? this.active;
    if (!pane) return;
    const box = pane.element.getBoundingClientRect();
    const [x, y] = this.pointer ? [this.pointer.x, this.pointer.y] : [box.left + box.width / 2, box.top + box.height / 2];
    const inside = this.ready.filter((layer) => layer.contains(...pane.pixelAt(x, y, layer)));
    await Promise.allSettled(inside.map((layer) => layer.values(...pane.pixelAt(x, y, layer), this.plane)));
    this.writeReadout(pane, x, y);
    this.live.textContent = this.readout.textContent || "There is no image at this place.";
  }

  // Objects

  private onClick(event: PointerEvent): void {
    const pane = this.paneAt(event.clientX, event.clientY);
    if (!pane?.layer) return;
    const reference = this.pictures[0];
    const box = this.state.overlays ? pane.boxAt(...pane.pixelAt(event.clientX, event.clientY, reference)) : undefined;
    if (box) return this.mark("", String(box.id), true);
    for (const layer of [...this.overlays, ...this.ready.filter((each) => each.isLabels && !each.config.overlay)]) {
      const place = pane.pixelAt(event.clientX, event.clientY, layer);
      if (!layer.contains(...place)) continue;
      void layer.values(...place, this.plane).then(([id]) => this.mark(layer.config.name, id ? String(id) : "", true));
      return;
    }
  }

  private mark(layer: string, id: string, tell: boolean): void {
    if (tell) this.annotator?.selected(id);
    this.marked = id && layer ? { layer, id: Number(id) } : undefined;
    this.panes.forEach((pane) => pane.markBox(layer ? "" : id));
    void this.update();
    for (const element of document.querySelectorAll<HTMLElement>(`[data-viewer="${CSS.escape(this.root.id)}"][data-object]`)) {
      const same = element.dataset.object === id && (!element.dataset.layer || element.dataset.layer === layer);
      if (same) element.setAttribute("aria-current", "true");
      else element.removeAttribute("aria-current");
      if (same && tell) element.scrollIntoView({ block: "nearest" });
    }
    if (tell && id) this.root.dispatchEvent(new CustomEvent("viewer:object", { bubbles: true, detail: { layer, id: Number(id) } }));
  }

  /** Show an image, layer, object or place; what is not said stays as it is. */
  async show(wanted: { image?: string; layer?: string; object?: string | number; x?: string | number; y?: string | number; z?: string | number; t?: string | number }): Promise<void> {
    if (wanted.image !== undefined) {
      const index = this.images.findIndex((each) => each.name === wanted.image);
      if (index >= 0 && index !== this.state.image) await this.open(index);
    }
    if (wanted.layer !== undefined) {
      const index = this.pictures.findIndex((layer) => layer.config.name === wanted.layer);
      if (index >= 0) this.setLayer(index);
    }
    if (wanted.z !== undefined) this.setPlane("z", Number(wanted.z));
    if (wanted.t !== undefined) this.setPlane("t", Number(wanted.t));
    if (wanted.object !== undefined) {
      const layer = this.ready.find((each) => each.isLabels && (!wanted.layer || each.config.name === wanted.layer));
      this.mark(layer?.config.name ?? "", String(wanted.object), false);
    }
    const { active } = this;
    const reference = this.pictures[0];
    if (wanted.x !== undefined && wanted.y !== undefined && active && reference) {
      const [x, y] = [Number(wanted.x), Number(wanted.y)];
      const view = active.osd.viewport;
      const point = view.getCenter().clone();
      point.x = (x + 0.5) / reference.width;
      point.y = (y + 0.5) / reference.width;
      view.panTo(point);
      // By where a movement that has begun will end.
      if ((view.getZoom() * view.getContainerSize().x) / reference.width < 1) active.setZoom(2);
    }
  }

  /** Place of a pixel in the window, for tests and scripts of the page. */
  clientPoint(x: number, y: number): [number, number] | undefined {
    return this.active && this.pictures[0] ? this.active.clientAt(x, y, this.pictures[0]) : undefined;
  }

  get busy(): boolean {
    return !this.panes.length || this.panes.some((pane) => pane.busy);
  }

  // The address

  private readAddress(): void {
    const said = new URLSearchParams(location.hash.slice(1).replaceAll(",", "&"));
    const at = (name: string) => (said.has(name) ? Number(said.get(name)) : undefined);
    const layout = said.get("layout");
    if ((layout === "single" || layout === "swipe" || layout === "grid") && this.pictures.length > 1) {
      this.state.layout = layout;
      void this.update();
    }
    const [x, y, zoom] = [at("x"), at("y"), at("zoom")];
    void this.show({ z: at("z"), t: at("t") });
    if (x === undefined || y === undefined || !zoom) return;
    this.active?.setZoom(zoom);
    void this.show({ x, y });
  }

  private write(): void {
    if (!this.linked || !this.active?.osd.world.getItemCount()) return;
    const reference = this.pictures[0];
    const centre = this.active.osd.viewport.getCenter(true);
    const parts = [`x=${Math.round(centre.x * reference.width)}`, `y=${Math.round(centre.y * reference.width)}`];
    parts.push(`zoom=${Number(this.active.zoom.toPrecision(4))}`, `z=${this.plane.z}`, `t=${this.plane.t}`, `layout=${this.state.layout}`);
    const hash = `#${parts.join(",")}`;
    window.clearTimeout(this.writing);
    this.writing = window.setTimeout(() => history.replaceState(history.state, "", hash), 300);
  }

  private writing = 0;
  private depth = 0;
  private hinting = 0;
  private addressed = false;

  // Input

  private onWheel(event: WheelEvent): void {
    const steps = Math.sign(event.deltaY || event.deltaX);
    if (event.shiftKey || event.altKey) {
      event.preventDefault();
      event.stopPropagation();
      const axis = event.altKey ? "t" : "z";
      this.setPlane(axis, this.state[axis] + steps);
      return;
    }
    const page = document.scrollingElement;
    // On pages that scroll the wheel scrolls them.
    if (page && page.scrollHeight > page.clientHeight + 1 && !event.ctrlKey) {
      event.stopPropagation();
      this.hint.hidden = false;
      window.clearTimeout(this.hinting);
      this.hinting = window.setTimeout(() => (this.hint.hidden = true), 1500);
    }
  }

  private onKey(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if ((event.ctrlKey || event.metaKey) && !this.help.open && this.annotator?.step(event)) return;
    if (event.ctrlKey || event.metaKey || this.help.open) return;
    const typing = target instanceof HTMLSelectElement || (target instanceof HTMLInputElement && target.type !== "range");
    if (typing) return;
    const slider = target instanceof HTMLInputElement;
    if (slider && event.key.startsWith("Arrow")) return;
    if (this.annotator?.act(event) || this.act(event.key, event.shiftKey)) {
      event.preventDefault();
      event.stopPropagation();
    }
  }

  private act(key: string, shift: boolean): boolean {
    const view = this.active?.osd.viewport;
    const pan = (x: number, y: number) => {
      if (!view) return;
      const centre = view.getCenter().clone();
      const bounds = view.getBounds();
      centre.x += x * bounds.width;
      centre.y += y * bounds.height;
      view.panTo(centre);
      view.applyConstraints();
    };
    switch (key.length === 1 ? key.toLowerCase() : key) {
      case "ArrowLeft": pan(-0.1, 0); break;
      case "ArrowRight": pan(0.1, 0); break;
      case "ArrowUp": pan(0, -0.1); break;
      case "ArrowDown": pan(0, 0.1); break;
      case "+": case "=": view?.zoomBy(1.5); view?.applyConstraints(); break;
      case "-": view?.zoomBy(1 / 1.5); view?.applyConstraints(); break;
      case "0": this.fit(); break;
      case "9": this.active?.setZoom(1); break;
      case ",": case "<": case ";": { const axis = shift ? "t" : "z"; this.setPlane(axis, this.state[axis] - 1); break; }
      case ".": case ">": case ":": { const axis = shift ? "t" : "z"; this.setPlane(axis, this.state[axis] + 1); break; }
      case "j": this.step(1); break;
      case "k": this.step(-1); break;
      case "1": case "2": case "3": case "4": this.setLayer(Number(key) - 1); break;
      case "w": this.setLayout(this.state.layout === "swipe" ? "single" : "swipe"); break;
      case "g": this.setLayout(this.state.layout === "grid" ? "single" : "grid"); break;
      case "x": if (!this.blink) { this.blink = true; void this.update(); } break;
      case "a": this.contrast.auto(); break;
      case "l": this.contrast.nextLut(); break;
      case "o": this.toggleOverlays(); break;
      case "i": void this.announce(); break;
      case "?": this.help.showModal(); break;
      default: return false;
    }
    return true;
  }

  /** Show another image: so many further, where there is one. */
  step(by: number): void {
    const index = this.state.image + by;
    if (this.images[index]) void this.open(index);
  }
}

function exact(value: number, layer: Layer): string {
  if (!Number.isFinite(value)) return String(value);
  const name = layer.classNames[value];
  if (name) return name === `class ${value}` ? name : `${value} ${name}`;
  return layer.info.tile_dtype === "float32" ? short(value) : value.toLocaleString("en");
}
