// Mounts a viewer in every div.viewer of the page, and in those that come later; and links tables to them.

import "./viewer.css";
import { type Config, fetchJson } from "./config";
import { make } from "./dom";
import { Viewer } from "./viewer";

type Mounted = HTMLElement & { viewer?: Viewer };

let first = true;

async function mount(root: Mounted): Promise<void> {
  if (root.dataset.mounted !== undefined) return;
  root.dataset.mounted = "";
  const where = root.dataset.config ?? "";
  try {
    const config = where.startsWith("#")
      ? (JSON.parse(document.getElementById(where.slice(1))?.textContent ?? "") as Config)
      : await fetchJson<Config>(where);
    root.viewer = new Viewer(root, config, first);
    first = false;
  } catch (error) {
    root.replaceChildren(make("p", "viewer-message", {}, `The images cannot be shown: ${(error as Error).message}.`));
  }
}

function mountAll(within: ParentNode): void {
  for (const root of within.querySelectorAll<Mounted>("div.viewer")) void mount(root);
}

function follow(event: Event): void {
  const link = (event.target as Element).closest?.<HTMLElement>("[data-viewer]");
  const root = link && document.getElementById(link.dataset.viewer ?? "");
  if (!link || !root) return;
  const { image, layer, object, x, y, z, t } = link.dataset;
  root.dispatchEvent(new CustomEvent("viewer:show", { detail: { image, layer, object, x, y, z, t } }));
  event.preventDefault();
}

document.addEventListener("click", follow);
document.addEventListener("keydown", (event) => {
  const target = event.target as HTMLElement;
  if (event.key === "Enter" && target.matches?.("[data-viewer]:not(a, button)")) follow(event);
});
document.addEventListener("htmx:load", (event) => mountAll((event.target as Element).parentNode ?? document));
mountAll(document);
