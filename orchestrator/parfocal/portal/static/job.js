// A job while it works: its state, and the loss of a training as it falls.
"use strict";

(() => {
  const job = document.getElementById("job");
  if (!job) return;
  const offline = job.querySelector(".offline");
  const rows = [];
  let plot = null;
  let source = null;
  let last = 0;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const box = document.getElementById("curve");
  const logarithmic = document.getElementById("log-scale");

  function columns() {
    const epochs = [];
    const loss = [];
    const validation = [];
    let attempt = null;
    for (const row of rows) {
      // A gap where the training was taken up again.
      if (attempt !== null && row.attempt !== attempt) { epochs.push(row.epoch - 0.5); loss.push(null); validation.push(null); }
      attempt = row.attempt;
      epochs.push(row.epoch);
      loss.push(row.metrics.loss ?? null);
      validation.push(row.metrics.val_loss ?? null);
    }
    return [epochs, loss, validation];
  }

  function draw() {
    if (!box || !rows.length) return;
    const empty = document.getElementById("curve-empty");
    if (empty) empty.hidden = true;
    scale();
    if (plot) { plot.setData(columns()); return; }
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, font: "13px system-ui, sans-serif" };
    plot = new uPlot({
      width: box.clientWidth - 12,
      height: 300,
      // The whole training from the beginning, so that the curve shows how far it is.
      scales: { x: { time: false, range: (_, first, last) => [Math.min(1, first ?? 1), Math.max(last ?? 1, job.dataset.final === "yes" ? 1 : Number(job.dataset.epochs), 2)] }, y: { distr: logarithmic && logarithmic.checked ? 3 : 1 } },
      axes: [
        { ...axis, label: "Epoch", labelSize: 22, space: 60, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] },
        { ...axis, size: 72, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : String(Number(tick.toPrecision(3))))) },
      ],
      series: [
        { label: "Epoch" },
        { label: "Training", stroke: colour("--accent"), width: 2, points: { show: rows.length < 60 }, value: (_, value) => (value === null ? "" : value.toPrecision(4)) },
        { label: "Validation", stroke: colour("--warning"), width: 2, dash: [6, 4], points: { show: rows.length < 60 }, value: (_, value) => (value === null ? "" : value.toPrecision(4)) },
      ],
    }, columns(), box);
  }

  function scale() {
    // Some losses are logarithms already and fall below zero.
    const possible = rows.every((row) => [row.metrics.loss, row.metrics.val_loss].every((value) => value === undefined || value > 0));
    if (logarithmic) { logarithmic.disabled = !possible; if (!possible) logarithmic.checked = false; logarithmic.closest("label").hidden = !possible; }
  }

  function redraw() { if (plot) { plot.destroy(); plot = null; } draw(); }
  if (logarithmic) logarithmic.addEventListener("change", redraw);
  let width = 0;
  if (box) new ResizeObserver(() => { if (plot && Math.abs(box.clientWidth - width) > 4) { width = box.clientWidth; plot.setSize({ width: width - 12, height: 300 }); } }).observe(box);

  function refresh() { htmx.trigger("#job-state", "refresh"); }

  let known = null;
  function state(now) {
    const bar = document.getElementById("job-progress");
    const words = document.getElementById("job-words");
    if (known && (known.word !== now.word || known.stage !== now.stage)) refresh();
    else if (bar && words) {
      bar.value = now.percent;
      if (now.epochs) job.dataset.epochs = now.epochs;
      const epoch = now.epochs && !/^epoch/i.test(now.message) ? `Epoch ${now.epoch} of ${now.epochs}${now.left ? `, about ${now.left} left` : ""}. ` : "";
      const doing = now.message || now.stage;
      words.textContent = epoch + doing.charAt(0).toUpperCase() + doing.slice(1) + (!epoch && now.left ? `, about ${now.left} left` : "");
    }
    known = now;
  }

  function open() {
    if (source) return;
    source = new EventSource(`${job.dataset.events}?after=${last}`);
    const listen = (name, act) => source.addEventListener(name, (event) => {
      if (event.lastEventId) last = Math.max(last, Number(event.lastEventId));
      act(JSON.parse(event.data));
    });
    source.addEventListener("open", () => { offline.hidden = true; });
    source.addEventListener("error", () => {
      if (!offline.hidden) return;
      const time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
      offline.querySelector("span").textContent = `Connection lost at ${time}. The work continues without this page. Reconnecting…`;
      offline.hidden = false;
    });
    listen("epoch", (row) => {
      if (rows.length && row.epoch <= rows[rows.length - 1].epoch) {
        // After a resume epochs since the checkpoint are done again.
        while (rows.length && rows[rows.length - 1].epoch >= row.epoch) rows.pop();
      }
      rows.push(row);
      draw();
    });
    listen("state", state);
    listen("warning", refresh);
    // Somebody who looks at an earlier epoch goes on looking at it.
    listen("pictures", () => {
      const chosen = document.querySelector("#pictures [aria-current]");
      if (!chosen || chosen === chosen.parentElement.lastElementChild) htmx.trigger("#pictures", "refresh");
    });
    listen("output", refresh);
    listen("end", () => { close(); offline.hidden = true; if (job.dataset.final !== "yes") refresh(); });
    listen("lost", (why) => { close(); offline.hidden = false; offline.querySelector("span").textContent = why.text; });
  }

  /** The epochs that the curve shows, for tests. */
  job.epochs = () => rows.map((row) => row.epoch);

  function close() { if (source) { source.close(); source = null; } }

  if (job.dataset.training === "yes" || job.dataset.final !== "yes") open();
  // A hidden tab holds no stream: browsers allow six.
  document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else if (!known || !["Finished", "Failed", "Cancelled"].includes(known.word)) open(); });
})();
