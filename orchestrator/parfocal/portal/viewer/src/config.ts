// What a page says to the viewer (README.md), and what the tile routes say of an image.

import type { DraftConfig } from "./draft";

export type Scale = "linear" | "root";
export type Layout = "single" | "swipe" | "grid";

export interface LayerConfig {
  name: string;
  info: string;
  lut?: string;
  scale?: Scale;
  overlay?: boolean;
  unit?: string;
  /** Of labels that are classes: their names by number. */
  classes?: Record<string, string>;
}

export interface Box {
  id: number | string;
  x: number;
  y: number;
  width: number;
  height: number;
  label?: string;
  kind?: string;
}

export interface ImageConfig {
  name: string;
  note?: string;
  layers: LayerConfig[];
  boxes?: Box[] | string;
}

export interface Config {
  images: ImageConfig[];
  draft?: DraftConfig;
  image?: string;
  layout?: Layout;
  keep?: string;
}

export interface ChannelInfo {
  name: string;
  minimum: number;
  maximum: number;
  percentiles: Record<string, number>;
  histogram: number[];
}

export interface Info {
  state: "ready";
  digest: string;
  kind: "intensities" | "labels";
  dtype: string;
  tile_dtype: "uint8" | "uint16" | "uint32" | "float32";
  tile: number;
  sizes: { t: number; c: number; z: number; y: number; x: number };
  levels: [number, number][];
  pixel_size_um: [number | null, number | null, number | null] | null;
  rgb: boolean;
  channels: ChannelInfo[];
}

export interface Unready {
  state: "building" | "failed";
  thumbnail?: boolean;
  reason?: string;
}

export async function fetchJson<T>(url: string): Promise<T> {
  const answer = await fetch(url, { headers: { Accept: "application/json" }, credentials: "same-origin" });
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return (await answer.json()) as T;
}
