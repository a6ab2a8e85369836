// What all pages share: uploads, forms that are sent once, and pages that come back from the browser's memory.
"use strict";

document.documentElement.classList.add("js");
const token = document.querySelector('meta[name="csrf"]').content;

// A page that the browser kept may show what is no longer so.
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, .viewer")) return;
  const search = document.getElementById("search");
  if (!search) return;
  event.preventDefault();
  search.focus();
});

// The place within a page is kept while somebody signs in.
for (const link of document.querySelectorAll("[data-sign-in]")) if (location.hash) link.href += encodeURIComponent(location.hash);

// A sign-in that has ended loses nothing: the page stays, and goes on when somebody has signed in in another tab.
const ended = document.getElementById("sign-in-ended");
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.xhr) ended.hidden = event.detail.xhr.status !== 401;
});

// What scrolls sideways can be reached with the keyboard.
function reachable() {
  for (const box of document.querySelectorAll(".scroll")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else if (!box.hasAttribute("role")) box.removeAttribute("tabindex");
  }
}
reachable();
window.addEventListener("resize", reachable);
document.addEventListener("htmx:afterSettle", reachable);

const focused = document.querySelector("[data-focus]");
if (focused) focused.focus();

// A form that is sent twice is one job, because it carries its request id; the second click is not needed, though.
document.addEventListener("submit", (event) => {
  const form = event.target;
  const button = event.submitter;
  if (button && button.hasAttribute("data-free")) return;
  const words = (button && button.dataset.once) || form.dataset.once;
  if (!words) return;
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "yes";
  if (button) { button.dataset.words = button.textContent; button.textContent = words; button.setAttribute("aria-busy", "true"); }
});

// Answers to questions are part of the address.
for (const id of ["questions", "choose"]) {
  const form = document.getElementById(id);
  if (form) form.addEventListener("change", () => form.requestSubmit());
}

const training = document.getElementById("train");
if (training) {
  const changes = document.getElementById("changes");
  const begun = new Map([...training.elements].map((field) => [field, field.type === "checkbox" || field.type === "radio" ? field.checked : field.value]));
  training.addEventListener("input", () => {
    let number = 0;
    for (const [field, value] of begun) {
      if (!field.name.startsWith("p.") || (field.type === "radio" && !field.checked)) continue;
      if ((field.type === "checkbox" || field.type === "radio" ? field.checked : field.value) !== value) number += 1;
    }
    if (changes) changes.textContent = number ? `${number} ${number === 1 ? "value" : "values"} changed since.` : "";
  });
}

// The example patches follow what the form says of them.
const patches = document.getElementById("patches");
if (training && patches) {
  let waiting = 0;
  training.addEventListener("change", (event) => {
    if (!/^(dataset$|p\.(augment|patch)_)/.test(event.target.name)) return;
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const chosen = [...new FormData(training)].filter(([name]) => /^(method$|dataset$|p\.(augment|patch)_)/.test(name));
      patches.src = patches.parentElement.href = `${patches.dataset.base}?${new URLSearchParams(chosen)}`;
    }, 600);
  });
}

// Uploads: one request a file, so that one that was cut off goes on where it stopped.
const uploading = document.getElementById("upload-form");
if (uploading) {
  const drop = document.getElementById("drop");
  const shown = document.getElementById("upload-progress");
  for (const id of ["pick-files", "pick-folder"]) {
    const picked = document.getElementById(id);
    const begin = () => upload([...picked.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
    picked.addEventListener("change", begin);
    // On a slow line files may be chosen before this script has come.
    if (picked.files.length) begin();
  }
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    upload((await Promise.all(entries.map((entry) => walk(entry, "")))).flat());
  });

  async function walk(entry, above) {
    const path = above + entry.name;
    if (entry.isFile) return [{ file: await new Promise((found, failed) => entry.file(found, failed)), path }];
    const reader = entry.createReader();
    const children = [];
    for (;;) {
      const some = await new Promise((found, failed) => reader.readEntries(found, failed));
      if (!some.length) break;
      children.push(...some);
    }
    return (await Promise.all(children.map((child) => walk(child, `${path}/`)))).flat();
  }

  async function upload(items) {
    const wanted = items.filter((item) => !item.path.split("/").some((part) => part.startsWith(".")));
    if (!wanted.length) return;
    const bar = shown.querySelector("progress");
    const words = shown.querySelector("p");
    shown.hidden = false;
    drop.hidden = true;
    const total = wanted.reduce((sum, item) => sum + item.file.size, 0);
    const key = `upload ${location.pathname} ${wanted.length} ${total} ${wanted[0].path}`;
    try {
      let place = JSON.parse(localStorage.getItem(key) || "null");
      let there = place ? await fetch(`${place.url}/files`).then((answer) => (answer.ok ? answer.json() : null)) : null;
      if (!there) {
        const answer = await fetch(uploading.dataset.create, { method: "POST", headers: { "X-CSRF-Token": token, Accept: "application/json" } });
        if (!answer.ok) throw new Error(await answer.text());
        place = await answer.json();
        there = {};
        localStorage.setItem(key, JSON.stringify(place));
      }
      let sent = 0;
      let done = 0;
      const left = wanted.filter((item) => { const known = there[item.path] === item.file.size; if (known) { sent += item.file.size; done += 1; } return !known; });
      const begun = performance.now();
      const before = sent;
      const show = () => {
        bar.value = total ? (100 * sent) / total : 100;
        const seconds = (performance.now() - begun) / 1000;
        // By what has arrived since the upload began or went on.
        const left = sent > before && seconds > 5 ? (seconds * (total - sent)) / (sent - before) : 0;
        const time = left > 90 ? `, about ${Math.ceil(left / 60)} min left` : left > 0 ? `, about ${Math.ceil(left)} s left` : "";
        words.textContent = `${done} of ${wanted.length} files, ${(sent / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB${time}. If you leave this page, choose the same files again later and it goes on.`;
      };
      show();
      const work = async () => {
        for (let item = left.shift(); item; item = left.shift()) {
          await send(`${place.url}/files/${item.path.split("/").map(encodeURIComponent).join("/")}`, item.file);
          sent += item.file.size;
          done += 1;
          show();
        }
      };
      await Promise.all([work(), work(), work()]);
      localStorage.removeItem(key);
      location.href = uploading.dataset.then ? uploading.dataset.then + place.id : place.url;
    } catch (error) {
      words.textContent = `The upload was interrupted: ${error.message} What has arrived is kept. Choose the same files again and it goes on.`;
      drop.hidden = false;
    }
  }

  async function send(url, file) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        const answer = await fetch(url, { method: "PUT", body: file, headers: { "X-CSRF-Token": token, "X-File-Size": String(file.size), "Content-Type": "application/octet-stream", Accept: "text/plain" } });
        if (answer.ok) return;
        const text = await answer.text();
        const found = new DOMParser().parseFromString(text, "text/html").querySelector(".problem p");
        const why = found ? found.textContent : answer.status === 401 ? text : `${file.name} was refused.`;
        throw Object.assign(new Error(why), { refused: answer.status < 500 });
      } catch (error) {
        if (error.refused || attempt >= 4) throw error;
        await new Promise((wake) => setTimeout(wake, 1000 * 2 ** attempt));
      }
    }
  }
}

// Back after a form was sent: its values are there again under a new request id, with a link to what it started.
for (const form of document.querySelectorAll("form[data-keep]")) {
  const key = `form ${location.pathname}${location.search}`;
  const kept = JSON.parse(sessionStorage.getItem(key) || "null");
  const refused = document.querySelector("[data-focus]");
  const back = performance.getEntriesByType("navigation")[0];
  if (kept && back && back.type === "back_forward" && !refused) {
    for (const field of form.elements) {
      if (!field.name || field.type === "hidden") continue;
      if (field.type === "checkbox") field.checked = kept.values.some(([name, value]) => name === field.name && value === field.value);
      else if (field.type === "radio") field.checked = kept.values.some(([name, value]) => name === field.name && value === field.value);
      else for (const [name, value] of kept.values) if (name === field.name) field.value = value;
    }
    const note = document.createElement("p");
    note.className = "note running";
    const words = document.createElement("span");
    words.textContent = "This form was sent before. Sending it again starts another job. ";
    const link = document.createElement("a");
    link.href = `/p/${location.pathname.split("/")[2]}/jobs/${kept.request}`;
    link.textContent = "Open what it started";
    words.append(link);
    note.append(words);
    form.before(note);
  }
  form.addEventListener("submit", () => {
    const values = [...new FormData(form)].filter(([name]) => name !== "csrf");
    const request = values.find(([name]) => name === "request_id");
    sessionStorage.setItem(key, JSON.stringify({ values: values.filter(([name]) => name !== "request_id"), request: request ? request[1] : "" }));
  });
}

// What was found in the image that the viewer shows.
const objects = document.getElementById("objects");
if (objects) {
  let shown = "";
  document.addEventListener("viewer:image", (event) => {
    if (event.detail.name === shown) return;
    shown = event.detail.name;
    htmx.ajax("GET", `${objects.dataset.objects}?image=${encodeURIComponent(shown)}`, { target: objects, swap: "innerHTML" });
  });
}
