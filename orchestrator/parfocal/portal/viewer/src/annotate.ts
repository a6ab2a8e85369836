// Drawing and correcting in a viewer. What is drawn is shown at once as a sketch; the server makes labels or boxes of it.

import type { Box } from "./config";
import { make } from "./dom";
import { type Change, type DraftConfig, DraftImage, type DrawnBox, type ImageState, type Operation, patchValues, session } from "./draft";
import type { Pane } from "./pane";
import { mostBelow, type Point, round, thinned, type Tool, TOOLS } from "./tools";
import type { Viewer } from "./viewer";

const SVG = "http://www.w3.org/2000/svg";
const RENEW_MS = 60_000;
const GRIP = 8; // pixels of the screen

export const HELP: [string, string][] = [
  ...TOOLS.map(({ key, name, help }): [string, string] => [key.toUpperCase(), `${name}: ${help}`]),
  ["F", "fill the holes of the chosen object"],
  ["Delete", "remove the chosen object"],
  ["C or 1 – 9", "class of the chosen object, and of what is drawn next"],
  ["[  ]", "thinner, thicker brush"],
  ["Alt (held)", "brush erases"],
  ["Space and drag", "move the image"],
  ["Ctrl Z, Ctrl Y", "undo, do again"],
  ["N", "done: next image"],
];

interface Gesture {
  pane: Pane;
  tool: Tool;
  points: Point[];
  /** Of a box: which corners follow the pointer, and what it was. */
  box?: { drawn: DrawnBox; edges: string };
  erase: boolean;
  object: number;
}

export class Annotator {
  private tool: Tool = "select";
  private size = 8;
  private classed = 0;
  private chosen = 0;
  private place?: Point;
  private image?: DraftImage;
  private gesture?: Gesture;
  private sketches: SVGElement[] = [];
  private panning = false;
  private merging = 0;
  private explained?: DraftImage;
  private toolButtons = new Map<Tool, HTMLButtonElement>();
  private buttons: Record<string, HTMLButtonElement> = {};
  private sizeInput = make("input", "", { type: "number", min: "1", max: "500", step: "1", "aria-label": "Brush size in pixels of the image" });
  private classChoice = make("select", "", { "aria-label": "Class" });
  private protect = make("input", "", { type: "checkbox" });
  private what = make("output", "viewer-chosen");
  private saved = make("span", "viewer-saved", { role: "status" });
  private notice = make("div", "viewer-notice", { role: "alert", hidden: "" });

  constructor(
    private viewer: Viewer,
    readonly config: DraftConfig,
  ) {
    this.build();
    // Forms of the page act for this window.
    for (const field of document.querySelectorAll<HTMLInputElement>("input[data-draft-session]")) field.value = session;
    const { area } = viewer;
    area.addEventListener("pointerdown", (event) => this.onDown(event), true);
    area.addEventListener("pointermove", (event) => this.onMove(event), true);
    area.addEventListener("pointerup", (event) => this.onUp(event), true);
    area.addEventListener("pointercancel", () => this.cancel(), true);
    area.addEventListener("dblclick", (event) => this.tool !== "select" && event.stopPropagation(), true);
    viewer.root.addEventListener("keyup", (event) => event.key === " " && (this.panning = false));
    window.addEventListener("pagehide", () => this.image?.close());
    window.setInterval(() => document.visibilityState === "visible" && void this.image?.lease(""), RENEW_MS);
  }

  // The image

  /** Hear that the viewer shows an image, perhaps another one. */
  async opened(): Promise<void> {
    const { name } = this.viewer.image;
    if (this.image?.name === name) {
      this.showBoxes();
      return;
    }
    this.image?.close();
    this.cancel();
    // Sketches that wait for an answer are of the image that was shown before.
    this.sketches.splice(0).forEach((sketch) => sketch.remove());
    this.choose(0);
    const image = new DraftImage(
      this.config,
      name,
      (state, change) => {
        if (image === this.image) this.onState(state, change);
        this.mark(name, state);
      },
      () => image === this.image && this.show(),
    );
    this.image = image;
    this.show();
    try {
      await image.open();
    } catch (error) {
      if (image === this.image) this.say(`This image cannot be drawn in: ${(error as Error).message}`);
    }
  }

  private onState(state: ImageState, change?: Change): void {
    const { labels } = this.viewer;
    for (const patch of state.patches ?? [])
      labels?.change({ plane: { z: patch.z, t: patch.t }, x: patch.x, y: patch.y, width: patch.width, height: patch.height, values: patchValues(patch) });
    if (change?.operation || change?.step) this.sketches.shift()?.remove();
    const made = state.made?.[0];
    if (made && (change?.operation?.do === "draw" || change?.operation?.do === "box")) this.choose(this.config.kind === "classes" ? 0 : made);
    if (change?.operation?.do === "delete") this.choose(0);
    this.showBoxes();
    if (state.reload) void this.viewer.reload();
    else this.viewer.repaint();
    this.show();
  }

  private get boxes(): DrawnBox[] {
    return this.image?.state?.boxes ?? [];
  }

  private showBoxes(moved?: DrawnBox): void {
    if (this.config.kind !== "boxes") return;
    const shown = this.boxes.map((box) => (moved?.id === box.id ? moved : box));
    this.viewer.setBoxes(
      shown.map(({ id, corners: [x0, y0, x1, y1], class: classed }): Box => ({ id, x: x0, y: y0, width: x1 - x0, height: y1 - y0, label: this.className(classed) })),
    );
    this.viewer.select(this.chosen ? String(this.chosen) : "");
  }

  private className(number: number): string {
    return this.config.classes.find((each) => each.number === number)?.name ?? "";
  }

  private get busy(): boolean {
    return this.image?.trouble?.kind === "busy" || !this.image?.state;
  }

  private send(operation: Operation): void {
    this.image?.add({ operation });
    this.show();
  }

  // What is chosen

  /** Hear that somebody clicked an object or box; an empty id is the background. */
  selected(id: string): void {
    this.choose(Number(id) || 0);
  }

  private choose(id: number): void {
    this.chosen = id;
    this.viewer.select(id ? String(id) : "");
    const known = this.config.kind === "boxes" ? this.boxes.find((box) => box.id === id)?.class : this.config.kind === "classes" ? id : this.image?.state?.classes?.[id];
    if (id && known !== undefined && this.config.classes.length) this.classChoice.value = String(known);
    this.show();
  }

  private setClass(number: number): void {
    this.classed = number;
    this.classChoice.value = String(number);
    if (this.chosen && !this.busy) {
      const known = this.config.kind === "boxes" ? this.boxes.find((box) => box.id === this.chosen)?.class : this.image?.state?.classes?.[this.chosen];
      if (known !== number && !(this.config.kind === "classes" && this.chosen === number))
        this.send({ do: "reclassify", object: this.chosen, classed: number, ...this.at() });
    }
    this.show();
  }

  private at(): { at?: Point; z?: number; t?: number } {
    const { plane } = this.viewer;
    return { ...plane, ...(this.config.kind === "classes" && this.place ? { at: this.place } : {}) };
  }

  // Tools

  private build(): void {
    const { tools, root } = this.viewer;
    const group = (label: string, ...children: Node[]) => make("div", "viewer-group", { role: "group", "aria-label": label }, ...children);
    const button = (text: string, label: string, action: () => void) => {
      const made = make("button", "", { type: "button", title: label }, text);
      made.addEventListener("click", () => {
        action();
        root.focus({ preventScroll: true });
      });
      return made;
    };
    const choice = group("Tool");
    for (const { tool, key, name, help, kinds } of TOOLS) {
      if (!kinds.split(" ").includes(this.config.kind)) continue;
      const made = button(name, `${name} (${key.toUpperCase()}): ${help}`, () => this.take(tool));
      this.toolButtons.set(tool, made);
      choice.append(made);
    }
    const actions = group("Object");
    if (this.config.kind !== "boxes") actions.append((this.buttons.fill = button("Fill", "Fill the holes of the chosen object (F)", () => this.fill())));
    actions.append((this.buttons.remove = button("Delete", "Remove the chosen object (Delete)", () => this.remove())));
    for (const { number, name } of this.config.classes) this.classChoice.append(make("option", "", { value: String(number) }, name));
    if (this.config.kind === "labels") this.classChoice.prepend(make("option", "", { value: "0" }, "no class"));
    this.classed = this.config.kind === "labels" ? 0 : (this.config.classes[0]?.number ?? 0);
    this.classChoice.value = String(this.classed);
    this.classChoice.addEventListener("change", () => this.setClass(Number(this.classChoice.value)));
    this.sizeInput.addEventListener("change", () => this.resize(Number(this.sizeInput.value)));
    this.protect.checked = true;
    const brush = group("Brush", make("label", "viewer-group", {}, this.sizeInput, "px"));
    if (this.config.kind === "labels") brush.append(make("label", "viewer-group", { title: "Pixels of other objects stay theirs" }, this.protect, "protect others"));
    this.buttons.undo = button("Undo", "Undo (Ctrl Z)", () => this.image?.add({ step: "undo" }));
    this.buttons.redo = button("Redo", "Do again (Ctrl Y)", () => this.image?.add({ step: "redo" }));
    this.buttons.done = button("Done, next", "The image is complete: next one (N)", () => this.done());
    const parts: Node[] = [choice, actions];
    if (this.config.kind !== "boxes") parts.push(brush);
    if (this.config.classes.length) parts.push(group("Class", this.classChoice));
    tools.append(...parts, group("Steps", this.buttons.undo, this.buttons.redo, this.buttons.done));
    tools.hidden = false;
    // Words come and go below and above the image, which must stay where it is while people draw.
    this.viewer.foot.append(this.what, this.saved);
    this.viewer.area.append(this.notice);
    // A click on its buttons is none on the image below.
    for (const name of ["pointerdown", "pointerup"]) this.notice.addEventListener(name, (event) => event.stopPropagation());
    this.resize(this.size);
    this.take(this.config.kind === "boxes" ? "box" : "brush");
  }

  private take(tool: Tool): void {
    this.cancel();
    this.image?.understood();
    this.tool = tool;
    this.merging = 0;
    this.viewer.area.dataset.tool = tool;
    for (const [each, button] of this.toolButtons) button.setAttribute("aria-pressed", String(each === tool));
    this.show();
  }

  private resize(size: number): void {
    this.size = Math.min(Math.max(Math.round(size) || 1, 1), 500);
    this.sizeInput.value = String(this.size);
  }

  private fill(): void {
    if (this.chosen && !this.busy) this.send({ do: "fill", object: this.chosen, ...this.at() });
  }

  private remove(): void {
    if (this.chosen && !this.busy) this.send({ do: "delete", object: this.chosen, ...this.at() });
  }

  private done(): void {
    const { image } = this;
    if (!image?.state || this.busy) return;
    const done = !image.state.done;
    image.add({ done });
    if (done) this.viewer.step(1);
  }

  /** Undo or do again by the usual keys; return whether it was one of them. */
  step(event: KeyboardEvent): boolean {
    const key = event.key.toLowerCase();
    const step = key === "z" && !event.shiftKey ? "undo" : key === "y" || (key === "z" && event.shiftKey) ? "redo" : undefined;
    if (!step) return false;
    event.preventDefault();
    event.stopPropagation();
    if (!this.busy) this.image?.add({ step });
    return true;
  }

  /** Act on a key; return whether it was one of the tools'. */
  act(event: KeyboardEvent): boolean {
    const { key } = event;
    const within = event.target as HTMLElement;
    const polygon = this.gesture?.tool === "polygon" ? this.gesture : undefined;
    if (key === " " && within.closest("button")) return false;
    if (key === "Enter" && !polygon) return false;
    const tool = TOOLS.find((each) => each.key === key.toLowerCase());
    if (tool && this.toolButtons.has(tool.tool)) {
      this.take(tool.tool);
      return true;
    }
    const box = this.config.kind === "boxes" ? this.boxes.find((each) => each.id === this.chosen) : undefined;
    if (box && key.startsWith("Arrow")) {
      this.nudge(box, key, event.shiftKey ? 10 : 1);
      return true;
    }
    const { classes } = this.config;
    switch (key) {
      case " ": this.panning = true; return true;
      case "Enter": this.closePolygon(); return true;
      case "Escape": this.cancel(); this.choose(0); return true;
      case "Backspace":
        if (polygon) {
          polygon.points.pop();
          if (polygon.points.length) this.draw(polygon);
          else this.cancel();
        } else this.remove();
        return true;
      case "Delete": this.remove(); return true;
      case "f": case "F": this.fill(); return true;
      case "n": case "N": this.done(); return true;
      case "[": this.resize(this.size - Math.max(1, Math.round(this.size / 8))); return true;
      case "]": this.resize(this.size + Math.max(1, Math.round(this.size / 8))); return true;
      case "c": case "C":
        if (classes.length) this.setClass(classes[(classes.findIndex((each) => each.number === this.classed) + 1) % classes.length].number);
        return true;
    }
    if (/^[1-9]$/.test(key) && classes.length) {
      const chosen = classes[Number(key) - 1];
      if (chosen) this.setClass(chosen.number);
      return true;
    }
    return false;
  }

  // Gestures

  private onDown(event: PointerEvent): void {
    const pane = this.viewer.paneAt(event.clientX, event.clientY);
    const { reference } = this.viewer;
    const drawing = (event.target as HTMLElement).closest(".viewer-stage");
    if (!pane || !reference || !drawing || event.button !== 0 || this.panning || !event.isPrimary) return;
    const point = pane.placeAt(event.clientX, event.clientY, reference);
    this.place = [round(point[0]), round(point[1])];
    const grip = this.config.kind === "boxes" && this.tool !== "merge" ? this.gripAt(pane, point) : undefined;
    if (this.tool === "select" && !grip) return;
    event.stopPropagation();
    event.preventDefault();
    this.viewer.root.focus({ preventScroll: true });
    if (this.busy) return;
    const polygon = this.gesture?.tool === "polygon" ? this.gesture : undefined;
    if (polygon) {
      polygon.points.push(point);
      if (event.detail > 1) this.closePolygon();
      else this.draw(polygon);
      return;
    }
    const below = this.labelAt(...point);
    const erase = this.tool === "erase" || (this.tool === "brush" && event.altKey);
    const object = this.config.kind === "classes" ? this.classed : this.tool === "brush" && !erase ? below : 0;
    this.image?.understood();
    this.gesture = { pane, tool: grip ? "box" : this.tool, points: [point], erase, object, box: grip };
    if (grip) this.choose(grip.drawn.id);
    if (this.tool !== "polygon") this.viewer.area.setPointerCapture(event.pointerId);
    this.draw(this.gesture);
  }

  private onMove(event: PointerEvent): void {
    const { gesture } = this;
    const { reference } = this.viewer;
    if (!gesture || !reference) return;
    if (gesture.tool === "polygon") {
      this.draw(gesture, gesture.pane.placeAt(event.clientX, event.clientY, reference));
      return;
    }
    event.stopPropagation();
    // Fast movements come as one event with the places between.
    const every = event.getCoalescedEvents?.() ?? [];
    for (const each of every.length ? every : [event]) gesture.points.push(gesture.pane.placeAt(each.clientX, each.clientY, reference));
    this.draw(gesture);
  }

  private onUp(event: PointerEvent): void {
    const { gesture } = this;
    if (!gesture || gesture.tool === "polygon") {
      if (gesture) event.stopPropagation();
      return;
    }
    event.stopPropagation();
    const operation = this.operationOf(gesture);
    this.finish(operation);
  }

  private finish(operation: Operation | undefined): void {
    const { gesture } = this;
    this.gesture = undefined;
    const drawn = gesture?.pane.sketch.querySelector<SVGElement>(".drawing");
    drawn?.classList.replace("drawing", "sent");
    if (operation) {
      // The sketch stays until the labels are there.
      this.sketches.push(drawn ?? document.createElementNS(SVG, "g"));
      this.send(operation);
    } else drawn?.remove();
    this.show();
  }

  private cancel(): void {
    this.gesture?.pane.sketch.querySelector(".drawing")?.remove();
    this.gesture = undefined;
    this.showBoxes();
  }

  private closePolygon(): void {
    const { gesture } = this;
    if (!gesture) return;
    const points = thinned(gesture.points);
    this.finish(points.length > 2 ? this.drawn("polygon", points, gesture) : undefined);
  }

  private drawn(shape: "polygon" | "brush", points: Point[], gesture: Gesture): Operation {
    const { plane } = this.viewer;
    const common = { shape, points, ...plane, ...(shape === "brush" ? { size: this.size } : {}) };
    if (gesture.erase) return { do: "erase", ...common };
    const classed = this.config.kind === "labels" && !gesture.object && this.classed ? { classed: this.classed } : {};
    return { do: "draw", ...common, object: gesture.object, protect: this.config.kind === "labels" && this.protect.checked, ...classed };
  }

  private operationOf(gesture: Gesture): Operation | undefined {
    const points = thinned(gesture.points);
    const { plane } = this.viewer;
    switch (gesture.tool) {
      case "brush": case "erase": return this.drawn("brush", points, gesture);
      case "outline": return points.length > 2 ? this.drawn("polygon", points, gesture) : undefined;
      case "split": {
        const object = this.chosenBelow(points) || mostBelow(points, (x, y) => this.labelAt(x, y));
        if (!object) this.say("Draw the line across an object.");
        return object && points.length > 1 ? { do: "split", object, points, ...plane } : undefined;
      }
      case "merge": return this.merge(this.labelAt(...points[0]));
      case "box": return this.boxOf(gesture);
      default: return undefined;
    }
  }

  private merge(id: number): Operation | undefined {
    if (!id) return undefined;
    if (!this.merging || this.merging === id) {
      this.merging = id;
      this.choose(id);
      return undefined;
    }
    const object = this.merging;
    this.merging = 0;
    this.choose(object);
    return { do: "merge", object, others: [id], t: this.viewer.plane.t };
  }

  /** Return the chosen object if a line lies on it. */
  private chosenBelow(points: Point[]): number {
    return this.chosen && mostBelow(points, (x, y) => (this.labelAt(x, y) === this.chosen ? this.chosen : 0));
  }

  /** Return the label at a place of the shown plane as far as it is in memory, which it is where it is shown at full size. */
  private labelAt(x: number, y: number): number {
    const { labels, reference, plane } = this.viewer;
    if (!labels || !reference) return 0;
    const [column, row] = [Math.floor(x), Math.floor(y)];
    return labels.contains(column, row) ? (labels.peek(column, row, plane)?.[0] ?? 0) : 0;
  }

  // Boxes

  private gripAt(pane: Pane, [x, y]: Point): Gesture["box"] {
    const near = GRIP / pane.zoom;
    const box = this.boxes.find((each) => each.id === this.chosen);
    if (!box) return undefined;
    const [x0, y0, x1, y1] = box.corners;
    if (x < x0 - near || x > x1 + near || y < y0 - near || y > y1 + near) return undefined;
    const edges = `${Math.abs(x - x0) < near ? "w" : Math.abs(x - x1) < near ? "e" : ""}${Math.abs(y - y0) < near ? "n" : Math.abs(y - y1) < near ? "s" : ""}`;
    // With the tool for new boxes only edges are gripped, so that boxes can be drawn inside others.
    return !edges && this.tool === "box" ? undefined : { drawn: box, edges };
  }

  private moved({ drawn, edges }: NonNullable<Gesture["box"]>, begin: Point, end: Point): DrawnBox {
    const [dx, dy] = [end[0] - begin[0], end[1] - begin[1]];
    const corners = drawn.corners.map((value, index) => {
      const name = ["w", "n", "e", "s"][index];
      return round(value + (!edges || edges.includes(name) ? (index % 2 ? dy : dx) : 0));
    });
    return { ...drawn, corners: corners as DrawnBox["corners"] };
  }

  private boxOf(gesture: Gesture): Operation | undefined {
    const [begin, end] = [gesture.points[0], gesture.points[gesture.points.length - 1]];
    const large = Math.hypot(end[0] - begin[0], end[1] - begin[1]) * gesture.pane.zoom > 3;
    if (gesture.box) {
      if (!large) return undefined;
      return { do: "move", object: gesture.box.drawn.id, corners: this.moved(gesture.box, begin, end).corners };
    }
    if (!large) {
      const box = gesture.pane.boxAt(...begin);
      this.choose(Number(box?.id ?? 0));
      return undefined;
    }
    return { do: "box", corners: [...begin, ...end].map(round), classed: this.classed };
  }

  private nudge(box: DrawnBox, key: string, by: number): void {
    const [dx, dy] = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[key] ?? [0, 0];
    const [x0, y0, x1, y1] = box.corners;
    this.send({ do: "move", object: box.id, corners: [x0 + dx, y0 + dy, x1 + dx, y1 + dy] });
  }

  // Sketches

  private draw(gesture: Gesture, pointer?: Point): void {
    const { sketch } = gesture.pane;
    sketch.querySelector(".drawing")?.remove();
    if (gesture.box) {
      this.showBoxes(this.moved(gesture.box, gesture.points[0], gesture.points[gesture.points.length - 1]));
      return;
    }
    const path = document.createElementNS(SVG, "path");
    const points = pointer ? [...gesture.points, pointer] : gesture.points;
    let text = `M${points.map(([x, y]) => `${round(x)} ${round(y)}`).join("L")}`;
    const brush = gesture.tool === "brush" || gesture.tool === "erase";
    if (gesture.tool === "box") {
      const [[x0, y0], [x1, y1]] = [points[0], points[points.length - 1]];
      text = `M${x0} ${y0}H${x1}V${y1}H${x0}Z`;
    } else if (points.length === 1) text += `L${points[0].join(" ")}`;
    else if (gesture.tool === "polygon" || gesture.tool === "outline") text += "Z";
    path.setAttribute("d", text);
    path.setAttribute("class", `drawing ${brush ? "painted" : "lined"}${gesture.erase ? " erased" : ""}${gesture.tool === "split" ? " open" : ""}`);
    if (brush) path.setAttribute("stroke-width", String(this.size));
    sketch.append(path);
  }

  // Words

  private say(text: string, ...actions: HTMLElement[]): void {
    // A button must not be replaced while somebody presses it.
    if (!this.notice.hidden && this.notice.dataset.text === text) return;
    this.notice.dataset.text = text;
    this.notice.replaceChildren(text, ...actions);
    this.notice.hidden = !text;
  }

  private show(): void {
    const { image } = this;
    const state = image?.state;
    const classed = this.config.kind === "labels" ? this.className(state?.classes?.[this.chosen] ?? 0) : this.className(this.boxes.find((box) => box.id === this.chosen)?.class ?? 0);
    const word = this.config.kind === "boxes" ? "box" : "object";
    const area = this.className(this.chosen) || String(this.chosen);
    const chosen = this.config.kind === "classes" ? (/^\d+$/.test(area) ? `class ${area}` : area) : `${word} ${this.chosen}${classed ? `, ${classed}` : ""}`;
    this.what.textContent = this.chosen ? (this.tool === "merge" && this.merging ? `${chosen}: click another one` : chosen) : "";
    const steps = state?.applied ?? 0;
    this.buttons.undo.disabled = !steps && !image?.pending;
    this.buttons.redo.disabled = !state || steps >= state.steps;
    this.buttons.remove.disabled = !this.chosen;
    if (this.buttons.fill) this.buttons.fill.disabled = !this.chosen;
    this.buttons.done.textContent = state?.done ? "Not done" : "Done, next";
    this.saved.textContent = !state ? "" : image!.pending ? (image!.trouble ? "Kept on this computer" : "Saving…") : state.revision ? "Saved" : "";
    this.viewer.root.dataset.pending = String(image?.pending ?? 0);
    this.explain();
  }

  /** Say what stands in the way of the next change, and what can be done. */
  private explain(): void {
    const trouble = this.image?.trouble;
    const button = (text: string, action: () => void) => {
      const made = make("button", "", { type: "button" }, text);
      made.addEventListener("click", action);
      return made;
    };
    if (!trouble) return this.say("");
    const { image } = this;
    // Of another image the same words mean other actions.
    if (this.explained !== image) this.notice.hidden = true;
    this.explained = image;
    if (trouble.kind === "busy")
      return this.say(`${trouble.text} `, button("Take over", () => void image!.lease("take-over")), button("Next image", () => this.viewer.step(1)));
    if (trouble.kind === "stale") {
      const again = () => void image!.again(true).then(() => this.viewer.reload());
      const drop = () => {
        image!.drop();
        this.sketches.shift()?.remove();
        again();
      };
      return this.say(`${trouble.text} `, button("Apply my correction to it", again), button("Drop my correction", drop));
    }
    if (trouble.kind === "refused") this.sketches.shift()?.remove();
    this.say(trouble.text);
  }

  /** Show in the page's list how far the image is. */
  private mark(name: string, state: ImageState): void {
    for (const item of document.querySelectorAll<HTMLElement>(`[data-draft-image="${CSS.escape(name)}"]`)) {
      item.dataset.state = state.done ? "done" : state.applied ? "changed" : "";
      const word = item.querySelector<HTMLElement>(".draft-state");
      if (word) word.textContent = state.done ? "done" : state.applied ? "changed" : "";
    }
    const count = document.querySelectorAll('[data-draft-image][data-state="done"]').length;
    for (const shown of document.querySelectorAll("[data-draft-done]")) shown.textContent = String(count);
  }
}
