// The panel for contrast: histogram, black and white, gamma, look-up table. It changes uniforms; no tile is loaded.

import { LUTS, type Mapping } from "./colours";
import { make } from "./dom";
import type { Layer } from "./layer";

const WIDTH = 256;
const HEIGHT = 64;

export class Contrast {
  readonly element = make("div", "viewer-contrast", { role: "group", "aria-label": "Contrast", hidden: "" });
  private channelChoice = make("select", "", { "aria-label": "Channel" });
  private visible = make("input", "", { type: "checkbox" });
  private histogram = make("canvas", "", { width: String(WIDTH), height: String(HEIGHT), "aria-hidden": "true" });
  private fields: Record<"black" | "white" | "gamma", HTMLInputElement>;
  private lut = make("select", "", { "aria-label": "Look-up table" });
  private clipped = make("input", "", { type: "checkbox" });
  private layer?: Layer;
  private channel = 0;

  constructor(
    private onChange: () => void,
    private onChannels: () => void,
  ) {
    const number = (name: "black" | "white" | "gamma", label: string, attributes: Record<string, string> = {}) => {
      const input = make("input", "", { type: "number", step: "any", "aria-label": label, ...attributes });
      input.addEventListener("change", () => this.set({ [name]: Number(input.value) }));
      return input;
    };
    this.fields = {
      black: number("black", "Black"),
      white: number("white", "White"),
      gamma: number("gamma", "Gamma", { min: "0.2", max: "5", step: "0.1" }),
    };
    for (const name of LUTS) this.lut.append(make("option", "", { value: name }, name));
    this.lut.addEventListener("change", () => this.set({ lut: this.lut.value }));
    this.clipped.addEventListener("change", () => this.set({ clipped: this.clipped.checked }));
    this.channelChoice.addEventListener("change", () => {
      this.channel = Number(this.channelChoice.value);
      this.write();
    });
    this.visible.addEventListener("change", () => {
      if (this.layer) this.layer.visible[this.channel] = this.visible.checked;
      this.onChannels();
    });
    const button = (text: string, action: () => void) => {
      const made = make("button", "", { type: "button" }, text);
      made.addEventListener("click", action);
      return made;
    };
    this.element.append(
      make("div", "viewer-channels", {}, this.channelChoice, make("label", "", {}, this.visible, "shown")),
      this.histogram,
      make("label", "", {}, "Black", this.fields.black),
      make("label", "", {}, "White", this.fields.white),
      make("label", "", { title: "Display only: stored values stay as they are." }, "Gamma", this.fields.gamma),
      make("label", "", {}, "Colours", this.lut),
      make("label", "", {}, this.clipped, "Mark clipped pixels"),
      button("Auto", () => this.auto()),
      button("Full range", () => this.full()),
      button("Reset", () => this.reset()),
    );
    let dragged: "black" | "white" | undefined;
    const at = (event: PointerEvent) => {
      const box = this.histogram.getBoundingClientRect();
      const info = this.layer!.info.channels[this.channel];
      return info.minimum + ((event.clientX - box.left) / box.width) * (info.maximum - info.minimum);
    };
    this.histogram.addEventListener("pointerdown", (event) => {
      if (!this.mapping) return;
      const value = at(event);
      dragged = Math.abs(value - this.mapping.black) < Math.abs(value - this.mapping.white) ? "black" : "white";
      this.histogram.setPointerCapture(event.pointerId);
      this.set({ [dragged]: value });
    });
    this.histogram.addEventListener("pointermove", (event) => dragged && this.set({ [dragged]: at(event) }));
    this.histogram.addEventListener("pointerup", () => (dragged = undefined));
  }

  private get mapping(): Mapping | undefined {
    return this.layer?.isLabels ? undefined : this.layer?.mappings[this.channel];
  }

  toggle(): void {
    this.element.hidden = !this.element.hidden;
    this.write();
  }

  of(layer: Layer | undefined): void {
    if (layer !== this.layer) {
      this.layer = layer;
      this.channel = 0;
      this.channelChoice.replaceChildren(
        ...(layer?.info.channels ?? []).map((each, index) => make("option", "", { value: String(index) }, each.name || `Channel ${index + 1}`)),
      );
    }
    this.write();
  }

  /** Return to the percentiles; gamma and colours stay. */
  auto(): void {
    const { layer } = this;
    if (!layer || layer.isLabels) return;
    layer.mappings.forEach((mapping, channel) => {
      const { black, white } = layer.initial(channel);
      Object.assign(mapping, { black, white });
    });
    this.changed();
  }

  private full(): void {
    const info = this.layer?.info.channels[this.channel];
    if (info) this.set({ black: info.minimum, white: info.maximum });
  }

  private reset(): void {
    if (this.layer && this.mapping) this.set(this.layer.initial(this.channel));
  }

  nextLut(): void {
    if (this.mapping) this.set({ lut: LUTS[(LUTS.indexOf(this.mapping.lut) + 1) % LUTS.length] });
  }

  private set(change: Partial<Mapping>): void {
    if (!this.mapping) return;
    const next = { ...this.mapping, ...change };
    if (![next.black, next.white, next.gamma].every(Number.isFinite)) return this.write();
    next.gamma = Math.min(Math.max(next.gamma, 0.2), 5);
    Object.assign(this.mapping, next);
    this.changed();
  }

  private changed(): void {
    this.write();
    this.onChange();
  }

  private write(): void {
    const { mapping, layer } = this;
    if (this.element.hidden || !layer) return;
    for (const input of this.element.querySelectorAll<HTMLInputElement>("input, button")) input.disabled = !mapping;
    (this.element.firstElementChild as HTMLElement).hidden = layer.info.channels.length < 2;
    this.visible.checked = layer.visible[this.channel];
    const context = this.histogram.getContext("2d")!;
    context.clearRect(0, 0, WIDTH, HEIGHT);
    if (!mapping) return;
    const round = (value: number) => String(Number(value.toPrecision(6)));
    this.fields.black.value = round(mapping.black);
    this.fields.white.value = round(mapping.white);
    this.fields.gamma.value = round(mapping.gamma);
    this.lut.value = mapping.lut;
    this.clipped.checked = mapping.clipped;
    const { histogram, minimum, maximum } = layer.info.channels[this.channel];
    const most = Math.log1p(Math.max(...histogram, 1));
    context.fillStyle = "#a3b0ba";
    histogram.forEach((count, bin) => {
      const height = (Math.log1p(count) / most) * HEIGHT;
      context.fillRect((bin * WIDTH) / histogram.length, HEIGHT - height, WIDTH / histogram.length, height);
    });
    context.fillStyle = "#6fb6ff";
    const span = maximum - minimum || 1;
    for (const value of [mapping.black, mapping.white])
      context.fillRect(Math.min(Math.max(((value - minimum) / span) * WIDTH - 1, 0), WIDTH - 2), 0, 2, HEIGHT);
  }
}
