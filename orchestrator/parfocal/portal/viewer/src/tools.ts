// The tools that people draw with: what each is called, its key, and what a gesture with it becomes.

export type Tool = "select" | "brush" | "erase" | "polygon" | "outline" | "split" | "merge" | "box";
export type Point = [number, number];

export interface ToolInfo {
  tool: Tool;
  key: string;
  name: string;
  help: string;
  /** Kinds of drafts that it is for. */
  kinds: string;
}

export const TOOLS: ToolInfo[] = [
  { tool: "select", key: "v", name: "Select", help: "choose an object; drag moves the image", kinds: "labels classes boxes" },
  { tool: "brush", key: "b", name: "Brush", help: "paint; begun on an object it extends it, else it makes a new one", kinds: "labels classes" },
  { tool: "erase", key: "e", name: "Erase", help: "take pixels away", kinds: "labels classes" },
  { tool: "polygon", key: "p", name: "Polygon", help: "corner by corner; Enter closes, Backspace steps back, Esc cancels", kinds: "labels classes" },
  { tool: "outline", key: "d", name: "Outline", help: "draw around an object in one go", kinds: "labels classes" },
  { tool: "split", key: "s", name: "Split", help: "draw a line across an object; the larger part keeps the number", kinds: "labels" },
  { tool: "merge", key: "m", name: "Merge", help: "click an object, then another: they become one, which keeps the first number", kinds: "labels" },
  { tool: "box", key: "r", name: "Box", help: "draw a box around an object", kinds: "boxes" },
];

/** Leave out points that hardly move on, and digits that nobody can draw. */
export function thinned(points: Point[], least = 0.35): Point[] {
  const kept: Point[] = [];
  for (const point of points) {
    const last = kept[kept.length - 1];
    if (!last || Math.hypot(point[0] - last[0], point[1] - last[1]) >= least) kept.push(point);
  }
  const end = points[points.length - 1];
  const last = kept[kept.length - 1];
  if (end && last && (end[0] !== last[0] || end[1] !== last[1])) kept.push(end);
  return kept.slice(0, 20_000).map(([x, y]) => [round(x), round(y)]);
}

export function round(value: number): number {
  return Math.round(value * 100) / 100;
}

/** Return the object that most of a line lies on; 0 where it lies on none. */
export function mostBelow(points: Point[], at: (x: number, y: number) => number): number {
  const votes = new Map<number, number>();
  for (let index = 0; index + 1 < points.length; index++) {
    const [[x0, y0], [x1, y1]] = [points[index], points[index + 1]];
    const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0)));
    for (let step = 0; step <= steps; step++) {
      const id = at(Math.floor(x0 + ((x1 - x0) * step) / steps), Math.floor(y0 + ((y1 - y0) * step) / steps));
      if (id) votes.set(id, (votes.get(id) ?? 0) + 1);
    }
  }
  return [...votes].sort((one, other) => other[1] - one[1])[0]?.[0] ?? 0;
}
