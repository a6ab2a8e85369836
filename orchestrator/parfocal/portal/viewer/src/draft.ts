// What was done to one image of a draft: sent one change after the other, kept in this browser until it is acknowledged.

export interface DraftClass {
  number: number;
  name: string;
}

export interface DraftConfig {
  url: string;
  kind: "labels" | "classes" | "boxes";
  classes: DraftClass[];
}

export interface DrawnBox {
  id: number;
  corners: [number, number, number, number];
  class: number;
}

export interface Patch {
  t: number;
  z: number;
  y: number;
  x: number;
  height: number;
  width: number;
  values: string;
}

export interface ImageState {
  revision: number;
  applied: number;
  steps: number;
  done: boolean;
  /** Names what of the image this window has seen. */
  seen: string;
  lease: { session: string; holder: string } | null;
  boxes?: DrawnBox[];
  classes?: Record<string, number>;
  patches?: Patch[];
  reload?: boolean;
  made?: number[];
  /** Names of the operations that this answer has added. */
  own?: string[];
}

export type Operation = { do: string } & Record<string, unknown>;

/** One change that waits to be sent. */
export interface Change {
  id: string;
  operation?: Operation;
  step?: "undo" | "redo";
  done?: boolean;
  /** What this window had seen of the image when the operation was made. */
  seen?: string;
}

export type Trouble =
  | { kind: "refused"; text: string }
  | { kind: "stale"; text: string }
  | { kind: "busy"; text: string }
  | { kind: "away"; text: string };

const RETRY_MS = 3000;
const OWN = 200;

export const session = (() => {
  const name = "parfocal.session";
  let id = sessionStorage.getItem(name);
  if (!id) {
    id = randomId();
    sessionStorage.setItem(name, id);
  }
  return id;
})();

function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (part) => part.toString(16).padStart(2, "0")).join("");
}

function token(): string {
  return document.querySelector<HTMLMetaElement>('meta[name="csrf"]')?.content ?? "";
}

export class DraftImage {
  state?: ImageState;
  trouble?: Trouble;
  private waiting: Change[];
  private sending = false;
  private closed = false;
  private retry = 0;
  /** Names of the operations that this window has added. */
  private own: string[] = [];

  constructor(
    readonly config: DraftConfig,
    readonly name: string,
    private onState: (state: ImageState, change?: Change) => void,
    private onTrouble: () => void,
  ) {
    this.waiting = this.kept();
  }

  private get url(): string {
    return `${this.config.url}/images/${encodeURIComponent(this.name)}`;
  }

  /** Number of changes that the server does not have yet. */
  get pending(): number {
    return this.waiting.length;
  }

  private async read(): Promise<ImageState> {
    const answer = await fetch(this.url, { headers: { Accept: "application/json" }, credentials: "same-origin" });
    const content = (await answer.json().catch(() => ({}))) as ImageState & { detail?: string };
    if (!answer.ok) throw new Error(content.detail ?? `${answer.status} ${answer.statusText}`);
    return content;
  }

  async open(): Promise<void> {
    this.state = await this.read();
    if (this.closed) return;
    this.onState(this.state);
    await this.lease("");
    void this.next();
  }

  /** Ask again for the state, where somebody else may have changed it; with `wanted` what waits is applied to it. */
  async again(wanted = false): Promise<void> {
    this.trouble = undefined;
    this.state = await this.read();
    if (wanted) for (const change of this.waiting) change.seen = this.state.seen;
    this.onState(this.state);
    void this.next();
  }

  /** Let the image go; what waits is sent first, or when the image is opened again. */
  close(): void {
    this.closed = true;
    if (!this.waiting.length) void this.release();
  }

  private async release(): Promise<void> {
    if (this.state?.lease?.session === session) await this.lease("release");
  }

  add(change: Omit<Change, "id">): void {
    this.waiting.push({ id: randomId(), seen: this.state?.seen, ...change });
    this.keep();
    void this.next();
  }

  /** Stop saying why the last change was refused: the person goes on. */
  understood(): void {
    if (this.trouble?.kind === "refused") this.trouble = undefined;
  }

  /** Give up the change that waits first. */
  drop(): Change | undefined {
    const dropped = this.waiting.shift();
    this.keep();
    return dropped;
  }

  /** Say that this window works on the image; renewed by whoever asks every minute. */
  async lease(what: "" | "take-over" | "release"): Promise<void> {
    const body = new URLSearchParams({ session, do: what, csrf: token() });
    try {
      const answer = await fetch(`${this.url}/lease`, { method: "POST", body, keepalive: true, headers: { "X-CSRF-Token": token() } });
      if (!answer.ok || this.closed || !this.state) return;
      const found = (await answer.json()) as ImageState;
      this.state.lease = found.lease;
      const other = found.lease && found.lease.session !== session;
      if (other) this.trouble = { kind: "busy", text: `${holder(found.lease!.holder)} is editing this image in another window.` };
      else if (this.trouble?.kind === "busy") this.trouble = undefined;
      this.onTrouble();
      if (what === "take-over") await this.again();
    } catch {
      // The next change says so.
    }
  }

  private async next(): Promise<void> {
    if (this.sending || !this.state) return;
    if (!this.waiting.length) {
      if (this.closed) await this.release();
      return;
    }
    if (this.trouble && this.trouble.kind !== "away" && this.trouble.kind !== "refused") return;
    this.sending = true;
    window.clearTimeout(this.retry);
    const change = this.waiting[0];
    try {
      const answer = await this.send(change);
      if (answer === undefined) {
        this.retry = window.setTimeout(() => void this.next(), RETRY_MS);
        return;
      }
      if (typeof answer === "string") return;
      this.waiting.shift();
      this.keep();
      this.trouble = undefined;
      this.own = [...this.own, ...(answer.own ?? [])].slice(-OWN);
      // Steps are only taken where nothing was missed: what was made after them has seen their outcome.
      const before = this.state.seen;
      if (change.step) for (const later of this.waiting) if (later.seen === before) later.seen = answer.seen;
      this.state = { ...this.state, ...answer };
      this.onState(this.state, change);
    } finally {
      this.sending = false;
      this.onTrouble();
    }
    void this.next();
  }

  /** Return the new state; a text where the change was not taken, undefined where nobody answered. */
  private async send(change: Change): Promise<ImageState | string | undefined> {
    const state = this.state!;
    const body: Record<string, unknown> = { change_id: change.id, session };
    if (change.operation) {
      body.operations = [change.operation];
      body.seen = change.seen ?? state.seen;
      body.own = this.own;
    }
    if (change.done !== undefined) body.done = change.done;
    if (change.step) {
      const applied = state.applied + (change.step === "undo" ? -1 : 1);
      if (applied < 0 || applied > state.steps) {
        this.drop();
        return "";
      }
      body.applied = applied;
    }
    let answer: Response;
    try {
      answer = await fetch(this.url, {
        method: "PATCH",
        body: JSON.stringify(body),
        headers: { "Content-Type": "application/json", Accept: "application/json", "If-Match": `"${state.revision}"`, "X-CSRF-Token": token() },
        credentials: "same-origin",
      });
    } catch {
      this.trouble = { kind: "away", text: "Kept on this computer: the connection was lost. It is sent as soon as it is back." };
      return undefined;
    }
    if (answer.ok) return { patches: undefined, reload: undefined, made: undefined, ...((await answer.json()) as ImageState) };
    const text = await answer.json().then((content) => String(content.detail), () => answer.statusText);
    if (answer.status === 412) this.trouble = { kind: "stale", text };
    else if (answer.status === 409) this.trouble = { kind: "busy", text };
    else if (answer.status === 422 || answer.status === 404) {
      this.trouble = { kind: "refused", text };
      this.drop();
      return text;
    } else {
      const again = answer.status === 401 || answer.status === 403;
      const cure = again ? "Sign in again in another tab; it is sent then." : "It is sent again in a moment.";
      this.trouble = { kind: "away", text: `Kept on this computer: ${text} ${cure}` };
      return undefined;
    }
    return text;
  }

  private get key(): string {
    return `parfocal.draft ${this.config.url} ${this.name}`;
  }

  private kept(): Change[] {
    try {
      const found: unknown = JSON.parse(localStorage.getItem(this.key) ?? "[]");
      return Array.isArray(found) ? (found as Change[]) : [];
    } catch {
      return [];
    }
  }

  private keep(): void {
    try {
      if (this.waiting.length) localStorage.setItem(this.key, JSON.stringify(this.waiting));
      else localStorage.removeItem(this.key);
    } catch {
      // Private windows keep nothing.
    }
  }
}

function holder(name: string): string {
  return name && name !== "unverified" ? name : "Somebody";
}

/** Return the labels of a patch. */
export function patchValues(patch: Patch): Uint32Array {
  const text = atob(patch.values);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  return new Uint32Array(bytes.buffer);
}
