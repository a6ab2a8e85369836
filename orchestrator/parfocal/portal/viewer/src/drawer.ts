// OpenSeadragon decides which tiles are shown where; this drawer hands them to the renderer as they are.

import OpenSeadragon from "openseadragon";
import { PlaneSource, TILE_TYPE } from "./layer";
import { renderer, type Item } from "./render";
import type { TileData } from "./tiles";

export class RawDrawer extends OpenSeadragon.DrawerBase {
  static override isSupported(): boolean {
    return true;
  }

  override getType(): string {
    return "parfocal";
  }

  override getSupportedDataFormats(): string[] {
    return [TILE_TYPE];
  }

  override canRotate(): boolean {
    return false;
  }

  override setImageSmoothingEnabled(): void {
    // Pixels are shown as they are.
  }

  _createDrawingElement(): HTMLCanvasElement {
    return document.createElement("canvas");
  }

  override destroy(): void {
    super.destroy();
    this.canvas.remove();
  }

  draw(images: OpenSeadragon.TiledImage[]): void {
    const ratio = OpenSeadragon.pixelDensityRatio;
    const size = this.viewport.getContainerSize();
    const [width, height] = [Math.round(size.x * ratio), Math.round(size.y * ratio)];
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const ordered = images
      .map((image) => ({ image, source: image.source as unknown as PlaneSource }))
      .map((each) => ({ ...each, paint: each.source.paint() }))
      .sort((one, other) => one.paint.order - other.paint.order);
    const items: Item[] = [];
    for (const { image, source, paint } of ordered) {
      const { layer } = source;
      const bounds = image.getBoundsNoRotate(true);
      const origin = this.viewport.pixelFromPointNoRotate(bounds.getTopLeft(), true);
      const pixel = (this.viewport.deltaPixelsFromPointsNoRotate(bounds.getSize(), true).x * ratio) / layer.width;
      const shown = (image as any).getTilesToDraw().map((each: any) => each.tile);
      shown.sort((one: any, other: any) => other.level - one.level);
      for (const tile of shown) {
        const data = this.getDataToDraw(tile) as TileData | undefined;
        if (!data) continue;
        const level = source.parfocalLevel(tile.level);
        const factor = 2 ** level;
        const [left, top] = [tile.x * layer.info.tile * factor, tile.y * layer.info.tile * factor];
        items.push({
          tile: data,
          paint,
          level,
          left: origin.x * ratio + left * pixel,
          top: origin.y * ratio + top * pixel,
          scale: pixel * factor,
          // The last pixel of a smaller level may stand for fewer than all of its pixels.
          width: Math.min(data.width, (layer.width - left) / factor),
          height: Math.min(data.height, (layer.height - top) / factor),
        });
      }
    }
    renderer().render(this.canvas, items);
  }
}
