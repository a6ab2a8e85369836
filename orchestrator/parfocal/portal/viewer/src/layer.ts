// One layer of an image: its tiles, its contrast, and the planes of it that are shown.

import OpenSeadragon from "openseadragon";
import { CHANNEL_LUTS, type Mapping } from "./colours";
import type { Info, LayerConfig } from "./config";
import { tiles, type TileData } from "./tiles";

export const TILE_TYPE = "parfocal-tile";

export interface Plane {
  z: number;
  t: number;
}

/** Labels that have changed since the layer was opened: a part of one plane of the full size. */
export interface Change {
  plane: Plane;
  x: number;
  y: number;
  width: number;
  height: number;
  values: Uint32Array;
}

export class Layer {
  readonly mappings: Mapping[];
  readonly visible: boolean[];
  private base: string;
  private changes: Change[] = [];
  private adopted = new Map<string, WeakRef<TileData>>();

  constructor(
    readonly config: LayerConfig,
    readonly info: Info,
  ) {
    this.base = config.info.replace(/\/info(\?.*)?$/, `/${info.digest}`);
    this.mappings = info.channels.map((_, channel) => this.initial(channel));
    this.visible = info.channels.map((_, channel) => channel < 4);
  }

  get isLabels(): boolean {
    return this.info.kind === "labels";
  }

  /** Whether the values are numbers of classes. */
  get isClasses(): boolean {
    return this.isLabels && this.config.classes !== undefined;
  }

  /** The names of classes by number; none of intensities and objects. */
  get classNames(): Record<string, string> {
    return this.isLabels ? (this.config.classes ?? {}) : {};
  }

  get width(): number {
    return this.info.sizes.x;
  }

  get height(): number {
    return this.info.sizes.y;
  }

  initial(channel: number): Mapping {
    const info = this.info.channels[channel];
    const several = this.info.channels.length > 1 && !this.info.rgb;
    let [black, white] = [info.percentiles["0.1"], info.percentiles["99.9"]];
    if (this.info.rgb && this.info.dtype === "uint8") [black, white] = [0, 255];
    if (!(white > black)) [black, white] = [info.minimum, info.maximum > info.minimum ? info.maximum : info.minimum + 1];
    let lut = this.config.lut ?? "gray";
    if (this.info.rgb) lut = ["red", "green", "blue"][channel];
    else if (several) lut = CHANNEL_LUTS[channel % CHANNEL_LUTS.length];
    return { black, white, gamma: 1, lut, scale: this.config.scale ?? "linear", clipped: false };
  }

  /** The plane of this layer at a place of the viewer: a layer without depth or time is the same everywhere. */
  at(plane: Plane): Plane {
    const { z, t } = this.info.sizes;
    return { z: Math.min(plane.z, z - 1), t: Math.min(plane.t, t - 1) };
  }

  tileUrl(level: number, plane: Plane, c: number, row: number, column: number): string {
    return `${this.base}/${level}/${plane.t}/${c}/${plane.z}/${row}/${column}`;
  }

  tileSize(level: number, row: number, column: number): [number, number] {
    const [height, width] = this.info.levels[level];
    const side = this.info.tile;
    return [Math.min(side, width - column * side), Math.min(side, height - row * side)];
  }

  /** Take a tile that was loaded: what has changed since is written into it. */
  adopt(url: string, tile: TileData): TileData {
    if (this.adopted.get(url)?.deref() === tile) return tile;
    this.adopted.set(url, new WeakRef(tile));
    for (const change of this.changes) this.write(url, tile, change);
    return tile;
  }

  /** Show other labels in a part of a plane, in all tiles that are loaded or will be. */
  change(change: Change): void {
    this.changes.push(change);
    for (const [url, kept] of this.adopted) {
      const tile = kept.deref();
      if (tile) this.write(url, tile, change);
      else this.adopted.delete(url);
    }
  }

  private write(url: string, tile: TileData, change: Change): void {
    const [level, t, , z, row, column] = url.slice(this.base.length + 1).split("/").map(Number);
    if (t !== change.plane.t || z !== change.plane.z) return;
    const step = 2 ** level;
    const [top, left] = [row * this.info.tile, column * this.info.tile];
    // A smaller level has every second, fourth, … pixel of the full size.
    const [y0, x0] = [Math.ceil(change.y / step), Math.ceil(change.x / step)];
    const y1 = Math.min(top + tile.height, Math.ceil((change.y + change.height) / step));
    const x1 = Math.min(left + tile.width, Math.ceil((change.x + change.width) / step));
    for (let y = Math.max(y0, top); y < y1; y++)
      for (let x = Math.max(x0, left); x < x1; x++)
        tile.values[(y - top) * tile.width + x - left] = change.values[(y * step - change.y) * change.width + x * step - change.x];
    tile.version += 1;
  }

  private level0(x: number, y: number, plane: Plane, c: number): [string, number, number, number] {
    const side = this.info.tile;
    const [row, column] = [Math.floor(y / side), Math.floor(x / side)];
    const [width, height] = this.tileSize(0, row, column);
    return [this.tileUrl(0, this.at(plane), c, row, column), width, height, (y % side) * width + (x % side)];
  }

  contains(x: number, y: number): boolean {
    return x >= 0 && y >= 0 && x < this.width && y < this.height;
  }

  /** Return the values of all channels at a pixel of the full size if they are in memory. */
  peek(x: number, y: number, plane: Plane): number[] | undefined {
    const found = this.info.channels.map((_, c) => {
      const [url, , , at] = this.level0(x, y, plane, c);
      return tiles.peek(url)?.values[at];
    });
    return found.every((value) => value !== undefined) ? (found as number[]) : undefined;
  }

  /** Return the values of all channels at a pixel of the full size. */
  async values(x: number, y: number, plane: Plane): Promise<number[]> {
    return Promise.all(
      this.info.channels.map(async (_, c) => {
        const [url, width, height, at] = this.level0(x, y, plane, c);
        return this.adopt(url, await tiles.load(url, this.info.tile_dtype, width, height)).values[at];
      }),
    );
  }
}

/** How a tiled image is painted; read by the drawer in every frame. */
export interface Paint {
  layer: Layer;
  channel: number;
  /** Behind what it is drawn: lower first. */
  order: number;
  additive: boolean;
  overlay: boolean;
  /** Of labels: how opaque their areas are, and which is marked. */
  fill: number;
  selected: number;
}

/** One plane of one channel, as OpenSeadragon asks for it; its levels count from the smallest. */
export class PlaneSource extends OpenSeadragon.TileSource {
  constructor(
    readonly layer: Layer,
    readonly channel: number,
    readonly plane: Plane,
    readonly paint: () => Paint,
  ) {
    super({
      width: layer.width,
      height: layer.height,
      tileSize: layer.info.tile,
      tileOverlap: 0,
      minLevel: 0,
      maxLevel: layer.info.levels.length - 1,
    } as OpenSeadragon.TileSourceOptions);
  }

  parfocalLevel(level: number): number {
    return this.layer.info.levels.length - 1 - level;
  }

  override getTileUrl(level: number, x: number, y: number): string {
    return this.layer.tileUrl(this.parfocalLevel(level), this.plane, this.channel, y, x);
  }

  override getTileHashKey(level: number, x: number, y: number): string {
    return this.getTileUrl(level, x, y);
  }

  override hasTransparency(): boolean {
    return true;
  }

  override downloadTileStart(job: any): void {
    const { level, x, y } = job.tile;
    const [width, height] = this.layer.tileSize(this.parfocalLevel(level), y, x);
    tiles.load(job.src, this.layer.info.tile_dtype, width, height).then(
      (tile: TileData) => job.finish(this.layer.adopt(job.src, tile), null, TILE_TYPE),
      (error: unknown) => job.fail(String(error), null),
    );
  }

  override downloadTileAbort(job: any): void {
    tiles.release(job.src);
  }
}
