// Fetches tiles once for all viewers of a page and keeps the newest of them in memory.

import type { Info } from "./config";

export type Values = Uint8Array | Uint16Array | Uint32Array | Float32Array;

export interface TileData {
  values: Values;
  /** Counts the changes of its values since it was loaded. */
  version: number;
  width: number;
  height: number;
}

const MOST_BYTES = 256 * 2 ** 20;
const MOST_REQUESTS = 4;
const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };

interface Job {
  url: string;
  parse: (buffer: ArrayBuffer) => TileData;
  controller: AbortController;
  users: number;
  resolve: (tile: TileData) => void;
  reject: (error: unknown) => void;
  promise: Promise<TileData>;
}

class TileStore {
  private kept = new Map<string, TileData>();
  private bytes = 0;
  private jobs = new Map<string, Job>();
  private waiting: Job[] = [];
  private running = 0;
  fetched = 0;

  peek(url: string): TileData | undefined {
    const tile = this.kept.get(url);
    if (tile) {
      // The newest are last.
      this.kept.delete(url);
      this.kept.set(url, tile);
    }
    return tile;
  }

  /** Ask for a tile; `release` with the same address says that it is not needed any more. */
  load(url: string, dtype: Info["tile_dtype"], width: number, height: number): Promise<TileData> {
    const known = this.peek(url);
    if (known) return Promise.resolve(known);
    let job = this.jobs.get(url);
    if (!job) {
      let resolve!: Job["resolve"], reject!: Job["reject"];
      const promise = new Promise<TileData>((done, failed) => ([resolve, reject] = [done, failed]));
      promise.catch(() => undefined);
      const parse = (buffer: ArrayBuffer): TileData => {
        const values = new TYPES[dtype](buffer);
        if (values.length !== width * height) throw new Error(`a tile has ${values.length} values`);
        return { values, version: 0, width, height };
      };
      job = { url, parse, controller: new AbortController(), users: 0, resolve, reject, promise };
      this.jobs.set(url, job);
      this.waiting.push(job);
    }
    job.users += 1;
    this.next();
    return job.promise;
  }

  release(url: string): void {
    const job = this.jobs.get(url);
    if (!job || --job.users > 0) return;
    this.jobs.delete(url);
    this.waiting = this.waiting.filter((each) => each !== job);
    job.controller.abort();
    job.reject(new DOMException("not needed", "AbortError"));
  }

  private next(): void {
    while (this.running < MOST_REQUESTS && this.waiting.length) {
      // The newest first: it is what is in view now.
      const job = this.waiting.pop()!;
      this.running += 1;
      void this.fetch(job).finally(() => {
        this.running -= 1;
        this.next();
      });
    }
  }

  private async fetch(job: Job): Promise<void> {
    try {
      const answer = await fetch(job.url, { signal: job.controller.signal, credentials: "same-origin" });
      if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
      const tile = job.parse(await answer.arrayBuffer());
      this.fetched += 1;
      this.keep(job.url, tile);
      job.resolve(tile);
    } catch (error) {
      job.reject(error);
    } finally {
      if (this.jobs.get(job.url) === job) this.jobs.delete(job.url);
    }
  }

  private keep(url: string, tile: TileData): void {
    this.kept.set(url, tile);
    this.bytes += tile.values.byteLength;
    for (const [old, dropped] of this.kept) {
      if (this.bytes <= MOST_BYTES || old === url) break;
      this.kept.delete(old);
      this.bytes -= dropped.values.byteLength;
    }
  }
}

export const tiles = new TileStore();
