// Paints tiles: with WebGL2 where there is one, else on the processor; both map values in the same way.

import { lutTable, mapped, PALETTE, paletteIndex } from "./colours";
import type { Paint } from "./layer";
import type { TileData, Values } from "./tiles";

/** A tile and where it lies on the canvas, in pixels of the device. */
export interface Item {
  tile: TileData;
  paint: Paint;
  /** Coarser levels only show where finer ones are missing. */
  level: number;
  left: number;
  top: number;
  /** Device pixels for one pixel of the tile. */
  scale: number;
  /** Part of the tile that lies inside the image, in pixels of the tile. */
  width: number;
  height: number;
}

export interface Renderer {
  readonly kind: "webgl2" | "cpu";
  /** Paint one frame; items of one paint follow each other, the finest level first. */
  render(canvas: HTMLCanvasElement, items: Item[]): void;
}

const OUTLINE = 1.6; // device pixels inside an object, about 2 px
const HALO = 2;

const VERTEX = `#version 300 es
uniform vec2 canvas; uniform vec4 place; uniform vec2 extent; uniform float depth;
out vec2 at;
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  at = corner * extent;
  vec2 device = place.xy + at * place.z;
  gl_Position = vec4(2.0 * device.x / canvas.x - 1.0, 1.0 - 2.0 * device.y / canvas.y, depth, 1.0);
}`;

const GREY = (sampler: string) => `#version 300 es
precision highp float; precision highp int; precision highp ${sampler}; precision highp sampler2D;
uniform ${sampler} tile; uniform sampler2D lut; uniform float black, white, gamma; uniform bool root, clipped;
in vec2 at; out vec4 colour;
void main() {
  ivec2 size = textureSize(tile, 0);
  float value = float(texelFetch(tile, clamp(ivec2(floor(at)), ivec2(0), size - 1), 0).r);
  if (isnan(value)) { colour = vec4(0.0, 0.0, 0.0, 1.0); return; }
  float span = white - black;
  float place = clamp(span > 0.0 ? (value - black) / span : (value > black ? 1.0 : 0.0), 0.0, 1.0);
  if (root) place = sqrt(place);
  place = pow(place, 1.0 / gamma);
  colour = vec4(texture(lut, vec2((place * 255.0 + 0.5) / 256.0, 0.5)).rgb, 1.0);
  if (clipped && value <= black) colour = vec4(0.0, 0.3, 1.0, 1.0);
  if (clipped && value >= white) colour = vec4(1.0, 0.1, 0.1, 1.0);
}`;

const LABELS = `#version 300 es
precision highp float; precision highp int; precision highp usampler2D;
uniform usampler2D tile; uniform float step, fill; uniform bool overlay, classes; uniform uint selected; uniform vec3 palette[7];
in vec2 at; out vec4 colour;
uint number(vec2 place) {
  return texelFetch(tile, clamp(ivec2(floor(place)), ivec2(0), textureSize(tile, 0) - 1), 0).r;
}
void main() {
  uint id = number(at);
  bool edge = false, halo = false, chosen = id != 0u && id == selected;
  for (int turn = 0; turn < 8; turn++) {
    float angle = float(turn) * 0.78539816;
    vec2 aside = vec2(cos(angle), sin(angle));
    uint near = number(at + aside * step * ${OUTLINE.toFixed(1)});
    uint far = number(at + aside * step * ${(OUTLINE + HALO).toFixed(1)});
    uint wide = number(at + aside * step * ${(2.5 * OUTLINE).toFixed(1)});
    edge = edge || near != id || (chosen && wide != id);
    halo = halo || far != id;
  }
  vec3 own = palette[(classes ? max(id, 1u) - 1u : (id * 2654435761u) >> 16) % 7u];
  if (!overlay) { colour = id == 0u ? vec4(0.0, 0.0, 0.0, 1.0) : vec4(chosen ? vec3(1.0) : own * (edge ? 0.5 : 1.0), 1.0); return; }
  if (id != 0u && edge) colour = vec4(chosen ? vec3(1.0) : own, 1.0);
  else if (halo) colour = vec4(mix(vec3(0.0), own, id == 0u ? 0.0 : fill), id == 0u ? 0.5 : max(fill, 0.35));
  else colour = vec4(own, id == 0u ? 0.0 : fill);
  colour.rgb *= colour.a;
}`;

interface Program {
  program: WebGLProgram;
  uniforms: Map<string, WebGLUniformLocation | null>;
}

const TEXTURE_BYTES = 256 * 2 ** 20;

/** One context for all viewers of a page: browsers allow few. Each pane has a canvas of its own that is copied to. */
class GlRenderer implements Renderer {
  readonly kind = "webgl2";
  private programs = new Map<string, Program>();
  private textures = new Map<TileData, { texture: WebGLTexture; version: number }>();
  private luts = new Map<string, WebGLTexture>();
  private bytes = 0;

  constructor(
    private surface: HTMLCanvasElement,
    private gl: WebGL2RenderingContext,
    private redraw: () => void,
  ) {
    surface.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.forget();
    });
    surface.addEventListener("webglcontextrestored", () => this.redraw());
  }

  private forget(): void {
    this.programs.clear();
    this.textures.clear();
    this.luts.clear();
    this.bytes = 0;
  }

  render(canvas: HTMLCanvasElement, items: Item[]): void {
    const { gl, surface } = this;
    const context = canvas.getContext("2d");
    if (!context || gl.isContextLost() || !canvas.width || !canvas.height) return;
    if (surface.width < canvas.width) surface.width = canvas.width;
    if (surface.height < canvas.height) surface.height = canvas.height;
    gl.viewport(0, surface.height - canvas.height, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clearDepth(1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LESS);
    let last: Paint | undefined;
    const used = new Set<TileData>();
    for (const item of items) {
      const { paint, tile } = item;
      if (paint !== last) {
        // Each paint covers every pixel once, by its finest tile there.
        gl.clear(gl.DEPTH_BUFFER_BIT);
        if (paint.overlay || paint.additive) gl.enable(gl.BLEND);
        else gl.disable(gl.BLEND);
        gl.blendFunc(gl.ONE, paint.overlay ? gl.ONE_MINUS_SRC_ALPHA : gl.ONE);
        last = paint;
      }
      const { program, uniforms } = this.use(paint, tile.values);
      gl.useProgram(program);
      const place = (name: string) => uniforms.get(name) ?? null;
      used.add(tile);
      gl.activeTexture(gl.TEXTURE0);
      gl.bindTexture(gl.TEXTURE_2D, this.texture(tile));
      gl.uniform1i(place("tile"), 0);
      gl.uniform2f(place("canvas"), canvas.width, canvas.height);
      gl.uniform4f(place("place"), item.left, item.top, item.scale, 0);
      gl.uniform2f(place("extent"), item.width, item.height);
      gl.uniform1f(place("depth"), item.level / 32);
      if (paint.layer.isLabels) {
        gl.uniform1f(place("step"), thickness(item) / item.scale);
        gl.uniform1f(place("fill"), paint.fill);
        gl.uniform1i(place("overlay"), Number(paint.overlay));
        gl.uniform1i(place("classes"), Number(paint.layer.isClasses));
        gl.uniform1ui(place("selected"), paint.selected);
        gl.uniform3fv(place("palette[0]"), PALETTE.flat().map((part) => part / 255));
      } else {
        const mapping = paint.layer.mappings[paint.channel];
        gl.activeTexture(gl.TEXTURE1);
        gl.bindTexture(gl.TEXTURE_2D, this.lut(mapping.lut));
        gl.uniform1i(place("lut"), 1);
        gl.uniform1f(place("black"), mapping.black);
        gl.uniform1f(place("white"), mapping.white);
        gl.uniform1f(place("gamma"), mapping.gamma);
        gl.uniform1i(place("root"), Number(mapping.scale === "root"));
        gl.uniform1i(place("clipped"), Number(mapping.clipped));
      }
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(surface, 0, 0, canvas.width, canvas.height, 0, 0, canvas.width, canvas.height);
    for (const [tile, { texture }] of this.textures) {
      if (this.bytes <= TEXTURE_BYTES) break;
      if (used.has(tile)) continue;
      gl.deleteTexture(texture);
      this.textures.delete(tile);
      this.bytes -= tile.values.byteLength;
    }
  }

  private use(paint: Paint, values: Values): Program {
    const float = values instanceof Float32Array;
    const name = paint.layer.isLabels ? "labels" : float ? "float" : "whole";
    let found = this.programs.get(name);
    if (!found) {
      const fragment = name === "labels" ? LABELS : GREY(float ? "sampler2D" : "usampler2D");
      found = this.compile(fragment);
      this.programs.set(name, found);
    }
    return found;
  }

  private compile(fragment: string): Program {
    const { gl } = this;
    const program = gl.createProgram()!;
    for (const [kind, source] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, fragment],
    ] as const) {
      const shader = gl.createShader(kind)!;
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost())
        throw new Error(`shader: ${gl.getShaderInfoLog(shader)}`);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost())
      throw new Error(`program: ${gl.getProgramInfoLog(program)}`);
    const uniforms = new Map<string, WebGLUniformLocation | null>();
    const count = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS) as number;
    for (let index = 0; index < count; index++) {
      const { name } = gl.getActiveUniform(program, index)!;
      uniforms.set(name, gl.getUniformLocation(program, name));
    }
    return { program, uniforms };
  }

  private newTexture(): WebGLTexture {
    const { gl } = this;
    const texture = gl.createTexture()!;
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    return texture;
  }

  private texture(tile: TileData): WebGLTexture {
    const { gl } = this;
    const known = this.textures.get(tile);
    if (known && known.version === tile.version) {
      // The newest are last.
      this.textures.delete(tile);
      this.textures.set(tile, known);
      return known.texture;
    }
    const texture = known?.texture ?? this.newTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    const { values, width, height } = tile;
    const [inner, format, type] =
      values instanceof Uint8Array
        ? [gl.R8UI, gl.RED_INTEGER, gl.UNSIGNED_BYTE]
        : values instanceof Uint16Array
          ? [gl.R16UI, gl.RED_INTEGER, gl.UNSIGNED_SHORT]
          : values instanceof Uint32Array
            ? [gl.R32UI, gl.RED_INTEGER, gl.UNSIGNED_INT]
            : [gl.R32F, gl.RED, gl.FLOAT];
    gl.texImage2D(gl.TEXTURE_2D, 0, inner, width, height, 0, format, type, values);
    this.textures.set(tile, { texture, version: tile.version });
    if (!known) this.bytes += values.byteLength;
    return texture;
  }

  private lut(name: string): WebGLTexture {
    const { gl } = this;
    let texture = this.luts.get(name);
    if (!texture) {
      texture = this.newTexture();
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, lutTable(name));
      this.luts.set(name, texture);
    }
    return texture;
  }
}

/** The same picture pixel by pixel, for browsers without WebGL2. */
class CpuRenderer implements Renderer {
  readonly kind = "cpu";

  render(canvas: HTMLCanvasElement, items: Item[]): void {
    const context = canvas.getContext("2d");
    const { width, height } = canvas;
    if (!context || !width || !height) return;
    const picture = context.createImageData(width, height);
    const done = new Uint8Array(width * height);
    let last: Paint | undefined;
    for (const item of items) {
      if (item.paint !== last) done.fill(0);
      last = item.paint;
      const x1 = Math.min(width, Math.round(item.left + item.width * item.scale));
      const y1 = Math.min(height, Math.round(item.top + item.height * item.scale));
      const paint = item.paint.layer.isLabels ? this.labels(item) : this.grey(item);
      for (let y = Math.max(0, Math.round(item.top)); y < y1; y++) {
        for (let x = Math.max(0, Math.round(item.left)); x < x1; x++) {
          const at = y * width + x;
          if (done[at]) continue;
          done[at] = 1;
          paint((x + 0.5 - item.left) / item.scale, (y + 0.5 - item.top) / item.scale, picture.data, 4 * at);
        }
      }
    }
    context.putImageData(picture, 0, 0);
  }

  private grey({ tile, paint }: Item) {
    const mapping = paint.layer.mappings[paint.channel];
    const lut = lutTable(mapping.lut);
    return (x: number, y: number, out: Uint8ClampedArray, at: number) => {
      const value = number(tile, x, y);
      const index = 4 * Math.round(255 * mapped(value, mapping)) || 0;
      let colour: ArrayLike<number> = lut.subarray(index, index + 3);
      if (Number.isNaN(value)) colour = [0, 0, 0];
      else if (mapping.clipped && value <= mapping.black) colour = [0, 77, 255];
      else if (mapping.clipped && value >= mapping.white) colour = [255, 26, 26];
      for (let part = 0; part < 3; part++) out[at + part] = (paint.additive ? out[at + part] : 0) + colour[part];
      out[at + 3] = 255;
    };
  }

  private labels(item: Item) {
    const { tile, paint } = item;
    const scale = item.scale / thickness(item);
    return (x: number, y: number, out: Uint8ClampedArray, at: number) => {
      const id = number(tile, x, y);
      const reach = (id === paint.selected ? 2.5 * OUTLINE : OUTLINE) / scale;
      const edge = DIRECTIONS.some(([dx, dy]) => number(tile, x + dx * reach, y + dy * reach) !== id);
      const chosen = id !== 0 && id === paint.selected;
      const colour = chosen ? [255, 255, 255] : PALETTE[paletteIndex(id, paint.layer.isClasses)];
      const alpha = !paint.overlay ? 1 : id === 0 ? 0 : edge ? 1 : paint.fill;
      for (let part = 0; part < 3; part++)
        out[at + part] = (1 - alpha) * out[at + part] + alpha * (id === 0 ? 0 : colour[part]);
      out[at + 3] = Math.max(out[at + 3], 255 * alpha);
    };
  }
}

/** Return how thick lines are drawn: thinner where the image is much smaller than its full size. */
function thickness(item: Item): number {
  return Math.min(Math.max(item.scale / 2 ** item.level, 0.6), 1);
}

const DIRECTIONS = [0, 1, 2, 3, 4, 5, 6, 7].map((turn) => [Math.cos((turn * Math.PI) / 4), Math.sin((turn * Math.PI) / 4)]);

function number(tile: TileData, x: number, y: number): number {
  const column = Math.min(Math.max(Math.floor(x), 0), tile.width - 1);
  return tile.values[Math.min(Math.max(Math.floor(y), 0), tile.height - 1) * tile.width + column];
}

let shared: Renderer | undefined;
const redraws = new Set<() => void>();

/** Return the renderer of the page, made at the first call; `redraw` is called when all has to be painted anew. */
export function renderer(redraw?: () => void): Renderer {
  if (redraw) redraws.add(redraw);
  if (!shared) {
    const surface = document.createElement("canvas");
    const wanted = !new URLSearchParams(location.search).has("cpu");
    const gl = wanted ? surface.getContext("webgl2", { alpha: true, premultipliedAlpha: true, antialias: false }) : null;
    shared = gl ? new GlRenderer(surface, gl, () => redraws.forEach((each) => each())) : new CpuRenderer();
  }
  return shared;
}
