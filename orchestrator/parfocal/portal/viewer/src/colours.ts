// Look-up tables and the mapping from grey values to colours, the same in the shader and on the processor.

import type { Scale } from "./config";

export interface Mapping {
  black: number;
  white: number;
  gamma: number;
  lut: string;
  scale: Scale;
  clipped: boolean;
}

type Rgb = [number, number, number];

// Every 32nd colour of matplotlib's magma and cividis (CC0), between which is interpolated.
const MAGMA = "000004 1c1044 4f127b 812581 b5367a e55064 fb8761 fec287 fcfdbf";
const CIVIDIS = "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 fee838";

const ENDS: Record<string, string> = {
  gray: "000000 ffffff",
  inverted: "ffffff 000000",
  green: "000000 00ff00",
  magenta: "000000 ff00ff",
  cyan: "000000 00ffff",
  yellow: "000000 ffff00",
  red: "000000 ff0000",
  blue: "000000 0000ff",
  magma: MAGMA,
  cividis: CIVIDIS,
};

export const LUTS = Object.keys(ENDS);
/** Colours of channels that are shown together. */
export const CHANNEL_LUTS = ["magenta", "green", "cyan", "yellow"];
/** Okabe and Ito's palette, which people with any colour vision can tell apart. */
export const PALETTE: Rgb[] = [
  [230, 159, 0],
  [86, 180, 233],
  [0, 158, 115],
  [240, 228, 66],
  [0, 114, 178],
  [213, 94, 0],
  [204, 121, 167],
];

function parse(hex: string): Rgb {
  return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)) as Rgb;
}

const made = new Map<string, Uint8Array>();

/** Return 256 colours, RGBA. */
export function lutTable(name: string): Uint8Array {
  let table = made.get(name);
  if (!table) {
    const stops = (ENDS[name] ?? ENDS.gray).split(" ").map(parse);
    table = new Uint8Array(1024);
    for (let index = 0; index < 256; index++) {
      const place = (index / 255) * (stops.length - 1);
      const low = Math.min(Math.floor(place), stops.length - 2);
      for (let part = 0; part < 3; part++)
        table[4 * index + part] = Math.round(stops[low][part] + (place - low) * (stops[low + 1][part] - stops[low][part]));
      table[4 * index + 3] = 255;
    }
    made.set(name, table);
  }
  return table;
}

/** Return where a value lies between black (0) and white (1), as the shader computes it. */
export function mapped(value: number, mapping: Mapping): number {
  const span = mapping.white - mapping.black;
  let at = span > 0 ? (value - mapping.black) / span : value > mapping.black ? 1 : 0;
  at = Math.min(Math.max(at, 0), 1);
  if (mapping.scale === "root") at = Math.sqrt(at);
  return Math.pow(at, 1 / mapping.gamma);
}

/** Return the index of a colour in the palette: classes have different ones in order, neighbouring objects mostly do. */
export function paletteIndex(id: number, classes: boolean): number {
  return (classes ? Math.max(id - 1, 0) : Math.imul(id, 2654435761) >>> 16) % PALETTE.length;
}
