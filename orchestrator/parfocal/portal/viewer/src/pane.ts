// One picture: a layer with what lies over it, its scale bar, caption and boxes.

import OpenSeadragon from "openseadragon";
import type { Box } from "./config";
import { make } from "./dom";
import { RawDrawer } from "./drawer";
import { Layer, type Paint, PlaneSource, type Plane } from "./layer";
import { renderer } from "./render";

const SVG = "http://www.w3.org/2000/svg";
const MOST_BOXES = 5000;
const OWN_STYLE = "data-openseadragon-mobile-css";

interface Shown {
  key: string;
  image?: OpenSeadragon.TiledImage;
  paint: Paint;
  wanted: boolean;
}

export class Pane {
  readonly element = make("div", "viewer-pane");
  readonly osd: OpenSeadragon.Viewer;
  layer?: Layer;
  private stage = make("div", "viewer-stage");
  private caption = make("div", "viewer-caption");
  private bar = make("div", "viewer-scale");
  private boxes = document.createElementNS(SVG, "svg");
  /** What is being drawn, in pixels of the reference. */
  readonly sketch = document.createElementNS(SVG, "svg");
  private boxList: Box[] = [];
  private marked = "";
  private shown: Shown[] = [];
  private reference?: Layer;

  constructor(
    area: HTMLElement,
    before: HTMLElement,
    private onView: (pane: Pane) => void,
    private onFirst: (pane: Pane) => void,
  ) {
    this.boxes.classList.add("viewer-boxes");
    this.sketch.classList.add("viewer-boxes");
    this.element.append(this.stage, this.boxes, this.sketch, this.caption, this.bar);
    // OpenSeadragon measures its element at once.
    area.insertBefore(this.element, before);
    if (!document.head.querySelector(`style[${OWN_STYLE}]`)) {
      // OpenSeadragon adds a style sheet to the page unless there is an element of this name; the policy forbids inline
      // style sheets, and this element, which is not HTML, is none.
      const none = document.createElementNS("urn:parfocal", "style");
      none.setAttribute(OWN_STYLE, "");
      document.head.append(none);
    }
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.osd = OpenSeadragon({
      element: this.stage,
      drawer: RawDrawer as any,
      showNavigationControl: false,
      animationTime: still ? 0 : 0.15,
      blendTime: 0,
      imageLoaderLimit: 4,
      tileRetryMax: 5,
      tileRetryDelay: 2000,
      maxImageCacheCount: 400,
      maxZoomPixelRatio: 64,
      minZoomImageRatio: 0.5,
      visibilityRatio: 0.2,
      minPixelRatio: 0.7,
      zoomPerScroll: 1.25,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true, flickEnabled: false },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true, flickEnabled: false },
      gestureSettingsPen: { clickToZoom: false },
      tabIndex: -1,
    } as OpenSeadragon.Options);
    // Keys are the viewer's own.
    (this.osd as any).innerTracker.keyHandler = null;
    (this.osd as any).innerTracker.keyDownHandler = null;
    this.osd.addHandler("viewport-change", () => this.onView(this));
    this.osd.addHandler("update-viewport", () => this.decorate());
    this.osd.addHandler("animation-finish", () => this.boxList.length > MOST_BOXES && this.drawBoxes());
    renderer(() => this.osd.forceRedraw());
  }

  /** Show a plane of a layer, and of those over it; what was shown stays until the new tiles are there. */
  show(layer: Layer, overlays: Layer[], plane: Plane, reference: Layer, look: (layer: Layer) => { fill: number; selected: number }): void {
    this.layer = layer;
    this.reference = reference;
    const wanted: ReturnType<Pane["entry"]>[] = [];
    let first = true;
    layer.info.channels.forEach((_, channel) => {
      if (!layer.visible[channel] && !layer.isLabels) return;
      wanted.push(this.entry(layer, channel, plane, { order: channel, additive: !first, overlay: false }));
      first = false;
    });
    overlays.forEach((overlay, index) =>
      wanted.push(this.entry(overlay, 0, plane, { order: 100 + index, additive: false, overlay: true })),
    );
    for (const each of this.shown) each.wanted = false;
    for (const { entry, source } of wanted) {
      Object.assign(entry.paint, look(entry.paint.layer));
      const known = this.shown.find((each) => each.key === entry.key);
      if (known) {
        known.wanted = true;
        Object.assign(known.paint, entry.paint);
        continue;
      }
      this.shown.push(entry);
      const width = worldWidth(entry.paint.layer, reference);
      this.osd.addTiledImage({
        tileSource: source(entry) as any,
        x: 0,
        y: 0,
        width,
        success: (event: any) => {
          entry.image = event.item;
          entry.image!.addHandler("fully-loaded-change", () => this.tidy());
          if (this.osd.world.getItemCount() === 1) this.onFirst(this);
          this.tidy();
        },
      } as any);
    }
    this.tidy();
    this.osd.forceRedraw();
    this.decorate();
  }

  private entry(layer: Layer, channel: number, plane: Plane, paint: { order: number; additive: boolean; overlay: boolean }) {
    const at = layer.at(plane);
    const key = `${layer.config.info} ${layer.info.digest} ${channel} ${at.z} ${at.t} ${paint.overlay}`;
    const entry: Shown = { key, wanted: true, paint: { layer, channel, fill: 0, selected: 0, ...paint } };
    return { entry, source: (shown: Shown) => new PlaneSource(layer, channel, at, () => shown.paint) };
  }

  /** Remove what is not wanted any more, once all that is wanted is there. */
  private tidy(): void {
    const ready = this.shown.every((each) => !each.wanted || each.image?.getFullyLoaded());
    const stale = this.shown.filter((each) => !each.wanted && each.image);
    // While people move through planes, only the last complete one stays.
    const doomed = ready ? stale : stale.filter((each) => !each.image!.getFullyLoaded());
    for (const each of stale) if (each.paint.order >= 0) each.paint.order -= 1000;
    if (!doomed.length) return;
    this.shown = this.shown.filter((each) => !doomed.includes(each));
    for (const each of doomed) this.osd.world.removeItem(each.image!);
  }

  get busy(): boolean {
    return (this.osd as any).isAnimating() || this.shown.some((each) => each.wanted && !each.image?.getFullyLoaded());
  }

  /** Place of the window on a layer, in its pixels; both may lie outside. */
  pixelAt(clientX: number, clientY: number, layer: Layer): [number, number] {
    const [x, y] = this.placeAt(clientX, clientY, layer);
    return [Math.floor(x), Math.floor(y)];
  }

  /** The same with fractions: the first pixel reaches from 0 to 1. */
  placeAt(clientX: number, clientY: number, layer: Layer): [number, number] {
    const box = this.stage.getBoundingClientRect();
    const point = this.osd.viewport.pointFromPixel(new OpenSeadragon.Point(clientX - box.left, clientY - box.top), true);
    const scale = layer.width / worldWidth(layer, this.reference ?? layer);
    return [point.x * scale, point.y * scale];
  }

  /** Place of the middle of a pixel of a layer in the window. */
  clientAt(x: number, y: number, layer: Layer): [number, number] {
    const box = this.stage.getBoundingClientRect();
    const scale = worldWidth(layer, this.reference ?? layer) / layer.width;
    const point = this.osd.viewport.pixelFromPoint(new OpenSeadragon.Point((x + 0.5) * scale, (y + 0.5) * scale), true);
    return [box.left + point.x, box.top + point.y];
  }

  /** Screen pixels for one pixel of the reference. */
  get zoom(): number {
    const width = this.reference?.width ?? 1;
    return (this.osd.viewport.getZoom(true) * this.osd.viewport.getContainerSize().x) / width;
  }

  setZoom(zoom: number): void {
    const width = this.reference?.width ?? 1;
    this.osd.viewport.zoomTo((zoom * width) / this.osd.viewport.getContainerSize().x);
    this.osd.viewport.applyConstraints();
  }

  setBoxes(boxes: Box[]): void {
    this.boxList = boxes;
    this.drawBoxes();
    this.decorate();
  }

  /** Draw the boxes; of very many only those in view, the largest first. */
  private drawBoxes(): void {
    let boxes = this.boxList;
    if (boxes.length > MOST_BOXES) {
      const view = this.osd.viewport.getBounds(true).times(this.reference?.width ?? 1);
      const [right, bottom] = [view.x + view.width, view.y + view.height];
      boxes = boxes.filter((box) => box.x < right && box.y < bottom && box.x + box.width > view.x && box.y + box.height > view.y);
      boxes = boxes.sort((one, other) => other.width * other.height - one.width * one.height).slice(0, MOST_BOXES);
    }
    this.boxes.replaceChildren();
    for (const box of boxes) {
      const group = document.createElementNS(SVG, "g");
      group.setAttribute("class", `viewer-box ${box.kind ?? ""}`);
      group.dataset.id = String(box.id);
      for (const name of ["halo", "line"]) {
        const line = document.createElementNS(SVG, "rect");
        for (const key of ["x", "y", "width", "height"] as const) line.setAttribute(key, String(box[key]));
        line.setAttribute("class", name);
        group.append(line);
      }
      const title = document.createElementNS(SVG, "title");
      title.textContent = `${box.id}${box.label ? ` ${box.label}` : ""}`;
      group.append(title);
      this.boxes.append(group);
    }
    this.markBox(this.marked);
  }

  markBox(id: string): void {
    this.marked = id;
    for (const group of this.boxes.children) group.classList.toggle("selected", (group as SVGElement).dataset.id === id);
  }

  boxAt(x: number, y: number): Box | undefined {
    const inside = this.boxList.filter((box) => x >= box.x && y >= box.y && x < box.x + box.width && y < box.y + box.height);
    return inside.sort((one, other) => one.width * one.height - other.width * other.height)[0];
  }

  showBoxes(shown: boolean): void {
    this.boxes.toggleAttribute("hidden", !shown);
  }

  /** Bring scale bar, caption and boxes to the present view. */
  decorate(): void {
    if (!this.layer || !this.reference || !this.osd.viewport) return;
    const bounds = this.osd.viewport.getBounds(true);
    const width = this.reference.width;
    const view = [bounds.x, bounds.y, bounds.width, bounds.height].map((length) => length * width).join(" ");
    for (const drawing of [this.boxes, this.sketch]) drawing.setAttribute("viewBox", view);
    const micron = this.reference.info.pixel_size_um?.[0];
    const screen = this.zoom / (micron || 1);
    // The longest of 1, 2, 5, 10, … that is not longer than 160 pixels.
    const decade = 10 ** Math.floor(Math.log10(160 / screen));
    const length = decade * ([5, 2].find((digit) => digit * decade * screen <= 160) ?? 1);
    this.bar.style.width = `${length * screen}px`;
    const unit = !micron ? "px" : length < 1 ? "nm" : length >= 1000 ? "mm" : "µm";
    const factor = unit === "nm" ? 1000 : unit === "mm" ? 0.001 : 1;
    this.bar.textContent = `${Number((length * factor).toPrecision(3)).toLocaleString("en")} ${unit}`;
    const contrast = this.layer.isLabels
      ? this.layer.isClasses
        ? "classes"
        : "objects"
      : this.layer.mappings
          .filter((_, channel) => this.layer!.visible[channel])
          .map(({ black, white, gamma }) => `${short(black)} – ${short(white)}${gamma === 1 ? "" : `, gamma ${short(gamma)}`}`)
          .join(" | ");
    this.caption.textContent = `${this.layer.config.name}  ${contrast}`;
  }

  destroy(): void {
    this.osd.destroy();
    this.element.remove();
  }
}

export function short(value: number): string {
  return Number(value.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 6 });
}

/** Width in the units of OpenSeadragon, in which the reference is 1 wide: by µm where both know theirs. */
export function worldWidth(layer: Layer, reference: Layer): number {
  const [own, other] = [layer.info.pixel_size_um?.[0], reference.info.pixel_size_um?.[0]];
  if (layer.width === reference.width || !own || !other) return 1;
  return (layer.width * own) / (reference.width * other);
}
