// The console: one look tells whether work flows, whether anything is stuck, and why.
// All that comes from outside is put in place as text; nothing is ever parsed as HTML.

const REFRESH_MS = 1500;
const REFRESH_SLOWEST_MS = 12000;
const RATE_OVER_MS = 15000;
const RUN_STATES = ["accepted", "expanding", "running", "settled", "closing", "completed", "failed", "cancelled"];
const FILE_STATES = ["ready", "queued", "running", "done", "failed", "dead", "cancelled"];

const $ = (id) => document.getElementById(id);

// ---- elements and words

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

// Control characters, half surrogates and those that turn text around are shown as what they are.
const ODD = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|\p{Cs}/gu;
const shown = (text) => String(text ?? "").replace(ODD, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
const name = (text) => el("bdi", { class: "name" }, shown(text));

const whole = new Intl.NumberFormat("en");
const count = (number) => whole.format(number);

function bytes(number) {
  if (number === null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const step = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, number)) / 10));
  return `${step ? (number / 1024 ** step).toFixed(1) : number} ${units[step]}`;
}

function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86400)} days`;
}

const time = (moment) => el("time", { datetime: moment, title: moment }, new Date(moment).toLocaleString());
const badge = (state) => el("span", { class: "badge", "data-state": state }, state);
const fact = (term, ...value) => el("div", {}, el("dt", {}, term), el("dd", {}, ...value));

function bar(label, done, total, said) {
  return [
    el("span", {}, el("b", {}, said), total ? `${Math.floor((100 * Math.min(done, total)) / total)} %` : ""),
    el("progress", { "aria-label": label, max: total || 1, value: Math.min(done, total || 1) }),
  ];
}

function progress(run) {
  const { files_total, files_open, bytes_total, bytes_done } = run.progress;
  if (!files_total) return el("span", { class: "quiet" }, run.expanded_at ? "no files" : "files not listed yet");
  const ended = files_total - files_open;
  return el("div", { class: "progress" },
    bar("files", ended, files_total, `${count(ended)} of ${count(files_total)} files`),
    bar("bytes", bytes_done, Math.max(bytes_total, bytes_done), `${bytes(bytes_done)} of ${bytes(Math.max(bytes_total, bytes_done))}`));
}

function table(heads, rows, none) {
  if (!rows.length) return el("p", { class: "none" }, none);
  const cell = ([text, style]) => el("th", { scope: "col", class: style }, text);
  return el("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "Table" },
    el("table", {}, el("thead", {}, el("tr", {}, heads.map(cell))), el("tbody", {}, rows)));
}

const row = (...cells) => el("tr", {}, cells.map((cell) => (cell instanceof Element && cell.tagName === "TD" ? cell : el("td", {}, cell))));
const td = (style, ...inside) => el("td", { class: style }, ...inside);

// Puts what `build` makes in place when `data` changed; keeps the focus, and leaves alone what is being selected.
const drawn = new WeakMap();
function put(place, data, build) {
  const text = JSON.stringify(data);
  const selection = getSelection();
  if (drawn.get(place) === text || (!selection.isCollapsed && place.contains(selection.anchorNode))) return;
  const key = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  place.replaceChildren(...[build(data)].flat().filter((made) => made !== null));
  drawn.set(place, text);
  if (key) place.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

// ---- asking the door

class Locked extends Error {}

async function ask(path, body) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store" });
  if (answer.status === 401) throw new Locked();
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.detail);
  return told;
}

function unlock() {
  if ($("locked").open) return;
  if (sessionStorage.getItem("token")) $("locked-why").textContent = "That token was not the right one.";
  sessionStorage.removeItem("token");
  $("token").value = "";
  $("locked").showModal();
}

$("locked").addEventListener("cancel", (event) => event.preventDefault());
$("locked-form").addEventListener("submit", () => {
  sessionStorage.setItem("token", $("token").value.trim());
  refresh();
});

// ---- health

const samples = [];
function rates(seen) {
  const now = { at: performance.now(), files: seen.files.done + seen.files.failed, bytes: seen.bytes_done };
  samples.push(now);
  while (samples[0].at < now.at - RATE_OVER_MS) samples.shift();
  const seconds = (now.at - samples[0].at) / 1000;
  if (seconds < 1) return null;
  // A replay takes counts back; that is no negative speed.
  const per = (key) => Math.max(0, now[key] - samples[0][key]) / seconds;
  return { files: per("files"), bytes: per("bytes") };
}

function showVerdict(worries) {
  put($("verdict"), worries, () => (worries.length ? worries.map((worry) => el("p", { class: "bad" }, worry)) : el("p", { class: "good" }, "Work flows; nothing is stuck.")));
}

function showHealth(seen) {
  showVerdict(seen.worries);
  const rate = rates(seen);
  const moving = rate && (rate.files || rate.bytes) ? `${rate.files.toFixed(1)} files/s · ${bytes(Math.round(rate.bytes))}/s` : "–";
  const age = (seconds) => (seconds !== null && seconds > 60 ? el("span", { class: "bad" }, duration(seconds)) : duration(seconds));
  put($("health"), [seen, moving], () => el("dl", {},
    fact("Ledger", seen.ledger),
    fact("Broker", seen.broker.state === "ok" ? "ok" : el("span", { class: "bad" }, seen.broker.state)),
    fact("Leader", seen.leader ? name(seen.leader.process) : el("span", { class: "busy" }, "nobody")),
    fact("Workers", `${count(seen.processes)} with ${count(seen.slots)} slots`),
    fact("S3 servers away", seen.storages_away.length ? el("span", { class: "bad" }, count(seen.storages_away.length)) : "none"),
    fact("On trial", count(seen.on_trial)),
    fact("Speed", moving),
    fact("Files ready", count(seen.files.ready)),
    fact("In tickets", count(seen.files.queued)),
    fact("Being read", count(seen.files.running)),
    fact("Oldest ready file", age(seen.oldest_ready_s)),
    fact("Reports owed", count(seen.reports_owed)),
    fact("Oldest owed report", age(seen.oldest_owed_s)),
    fact("Reports set aside", count(seen.reports_dead))));
}

// ---- views: each makes its frame once, and fills it again and again

function route() {
  const [path, query] = location.hash.replace(/^#/, "").split("?");
  const run = /^\/runs\/([0-9a-f-]{36})$/.exec(path);
  return { run: run && run[1], query: new URLSearchParams(query) };
}

const here = (changes) => {
  const at = route();
  for (const [key, value] of Object.entries(changes)) value ? at.query.set(key, value) : at.query.delete(key);
  const query = at.query.toString();
  return `#/${at.run ? `runs/${at.run}` : ""}${query ? `?${query}` : ""}`;
};

const cursorOf = (page, key) => page.next && new URLSearchParams(page.next.split("?")[1]).get(key);

function pager(page, cursor, first, what) {
  const next = cursorOf(page, cursor);
  return el("nav", { class: "pager", "aria-label": `Pages of ${what}` },
    first ? el("a", { href: here(first), "data-key": `first ${what}` }, "First page") : null,
    next ? el("a", { href: here({ [page.key ?? cursor]: next }), "data-key": `next ${what}` }, "Next page") : null);
}

function choice(label, key, values, query) {
  const select = el("select", { onchange: (event) => { location.hash = here({ [key]: event.target.value, before: "", after: "" }); } },
    el("option", { value: "" }, "any"),
    values.map((value) => el("option", { value, selected: query.get(key) === value ? "" : null }, value)));
  return el("label", {}, label, select);
}

function runsView(query) {
  const list = el("section", { "aria-label": "Runs" });
  const field = (label, key) => el("label", {}, label, el("input", { name: key, value: query.get(key) ?? "", autocomplete: "off" }));
  const search = (event) => {
    event.preventDefault();
    location.hash = here({ before: "", ...Object.fromEntries(new FormData(event.currentTarget)) });
  };
  const form = el("form", { class: "filter", onsubmit: search },
    choice("State", "state", RUN_STATES, query), field("LABDRIVE job", "job_id"), field("Container", "container_id"),
    field("Tenant", "tenant_id"), field("Error class", "error_class"), el("button", {}, "Find"));
  const heads = [["State"], ["Accepted"], ["Job"], ["Container"], ["Progress"], ["Failed", "number"], ["Owed", "number"], ["ETA", "number"], ["Why"]];
  return {
    title: "Runs",
    frame: [el("h1", {}, "Runs"), form, list],
    load: () => ask(`v1/runs?${query}`),
    fill: (page) => put(list, page, () => [
      table(heads, page.items.map((run) => row(
        badge(run.state),
        td("tight", el("a", { href: `#/runs/${run.run_id}`, "data-key": run.run_id }, time(run.created_at))),
        name(run.job_id), name(run.container_id), progress(run),
        td(run.progress.files_failed ? "number bad" : "number", count(run.progress.files_failed)),
        td("number", count(run.outbox.owed) + (run.outbox.dead ? ` +${count(run.outbox.dead)} dead` : "")),
        td("number", duration(run.eta_s)),
        why(run))), "No run fits."),
      pager(page, "before", query.get("before") && { before: "" }, "runs"),
    ]),
  };
}

const why = (what) => (what.error_class ? el("span", {}, el("b", { class: "bad" }, what.error_class), " ", name(what.error_detail)) : "");

function held(hold) {
  const since = hold.for_s === null ? "" : ` for ${duration(hold.for_s)}`;
  const next = hold.next_try_in_s === null ? "" : `, next try ${hold.next_try_in_s ? `in ${duration(hold.next_try_in_s)}` : "now"}`;
  return el("p", {}, el("b", { class: "bad" }, "Held back"), " ", name(hold.what), `${since}${next}`, hold.reason ? [": ", name(hold.reason)] : null,
    el("span", { class: "quiet" }, ` – ${hold.to_do}`));
}

function runView(id, query) {
  const [head, failures, files, entries] = ["Run", "Failures", "Files", "Ledger entries"].map((label) => el("section", { "aria-label": label }));
  const fileQuery = new URLSearchParams({ limit: "50" });
  for (const key of ["state", "error_class", "after"]) if (query.get(key)) fileQuery.set(key, query.get(key));
  const entryQuery = new URLSearchParams({ limit: "25" });
  if (query.get("entries_after")) entryQuery.set("after", query.get("entries_after"));
  const filter = el("form", { class: "filter", onsubmit: (event) => event.preventDefault() }, choice("Files in state", "state", FILE_STATES, query));
  const dryRuns = {};
  const open = new Set();

  async function dryRun(error_class) {
    const asked = { run_id: id, reason: "dry run from the console", dry_run: true, ...(error_class && { error_class }) };
    try {
      const told = await ask("v1/replays", asked);
      dryRuns[error_class] = `Would read again ${count(told.files)} files, ${bytes(told.size_bytes)}.`;
    } catch (error) {
      if (error instanceof Locked) return unlock();
      dryRuns[error_class] = error.message;
    }
    refresh();
  }

  // Both parts are of a closed alphabet, so that the line can be pasted into a shell.
  const command = (error_class) => `hashmill replay --run ${id}${error_class ? ` --error-class ${error_class}` : ""} --reason "why"`;
  const replay = (error_class) => [
    el("code", { class: "command" }, command(error_class)),
    el("button", { type: "button", "data-key": `dry ${error_class}`, onclick: () => dryRun(error_class) }, "Dry run"),
    el("output", {}, dryRuns[error_class] ?? ""),
  ];

  const showHead = (run) => [
    el("dl", {},
      fact("State", badge(run.state)), fact("LABDRIVE job", name(run.job_id)), fact("Container", name(run.container_id)),
      fact("Platform", name(run.api_url)), fact("Tenant", name(run.tenant_id)), fact("Mode", run.function ? [`${run.mode} `, el("b", {}, name(run.function.name)), ` ${run.function.sha256.slice(0, 12)}`] : run.mode), fact("Algorithms", run.algorithms.join(", ")),
      fact("Priority", String(run.priority)), fact("Replays", count(run.generation)), fact("ETA", duration(run.eta_s)),
      fact("Reports owed", count(run.outbox.owed)), fact("Set aside", count(run.outbox.dead)),
      ...Object.entries(run.files).map(([state, number]) => fact(`Files ${state}`, count(number)))),
    progress(run),
    ...run.held_back.map(held),
    run.large_files.length ? table([["Large file"], ["State"], ["Hashed", "number"], ["Of", "number"], ["Slices", "number"], ["Saved"]], run.large_files.map((file) => row(
      name(file.path), badge(file.state), td("number", bytes(file.offset_bytes)), td("number", bytes(file.size_bytes)), td("number", count(file.slices)),
      td("tight", time(file.saved_at)))), "") : null,
    run.error_class ? el("p", {}, why(run)) : null,
    el("ol", { class: "timeline" }, [["Accepted", run.created_at], ["All files listed", run.expanded_at], ["Last file ended", run.settled_at], ["Last report delivered", run.finished_at]]
      .map(([what, at]) => el("li", { class: at ? "past" : "" }, what, at ? time(at) : el("time", {}, "not yet")))),
  ];

  const showFailures = (run) => [
    el("h2", {}, "What failed, and how to read it again"),
    table([["Class"], ["Files", "number"], ["For example"], ["Replay"]], [
      ...run.failures.map((group) => row(
        el("b", { class: "bad" }, group.error_class), td("number", count(group.files)),
        td("", name(group.sample_path || group.sample_file_id), el("p", { class: "quiet" }, name(group.sample_error_detail))),
        td("", ...replay(group.error_class)))),
      ...(run.failures.length || run.outbox.dead || run.state === "failed" ? [row("all of it", td("number", count(run.progress.files_failed)),
        run.outbox.dead ? `${count(run.outbox.dead)} reports were set aside` : "", td("", ...replay("")))] : []),
    ], "Nothing failed."),
    run.failures_complete ? null : el("p", { class: "quiet" }, "Not every failed file was counted by class."),
  ];

  const showFiles = (page) => [
    table([["No.", "number"], ["Path"], ["Size", "number"], ["State"], ["Verdict"], ["Digests"], ["Tries", "number"], ["Why"]], page.items.map((file) => row(
      td("number", count(file.file_no)), name(file.path || file.file_id), td("number", bytes(file.size_bytes)), badge(file.state),
      file.verdict ?? "", el("ul", { class: "digests" }, Object.entries(file.digests).map(([algorithm, hex]) => el("li", {}, el("b", {}, algorithm), el("code", {}, hex))), file.provider_checksums.map((one) => el("li", { class: one.comparison === "different" ? "bad" : "quiet" }, `S3's ${one.algorithm}: ${one.comparison}`, one.reason ? el("p", { class: "quiet" }, name(one.reason)) : null))),
      td("number", count(file.attempts)), why(file))), "No file fits."),
    pager(page, "after", query.get("after") && { after: "" }, "files"),
  ];

  const showEntries = (page) => [
    el("h2", {}, "Ledger entries"),
    table([["Number", "number"], ["Recorded"], ["Kind"], ["Leaf hash"], ["Entry"]], page.items.map((entry) => row(
      td("number", entry.leaf_index === null ? "–" : count(entry.leaf_index)), td("tight", time(entry.recorded_at)), entry.kind, el("code", {}, entry.leaf_hash),
      el("details", { open: open.has(entry.entry_id) ? "" : null, ontoggle: (event) => (event.target.open ? open.add(entry.entry_id) : open.delete(entry.entry_id)) },
        el("summary", { "data-key": entry.entry_id }, "show"), el("pre", {}, JSON.stringify(entry.body, null, 1).split("\n").map(shown).join("\n"))))), "No entry yet."),
    pager({ ...page, key: "entries_after" }, "after", query.get("entries_after") && { entries_after: "" }, "entries"),
  ];

  const fileList = el("div");
  files.append(el("h2", {}, "Files"), filter, fileList);
  return {
    title: `Run ${id}`,
    frame: [el("h1", {}, `Run ${id}`), head, failures, files, entries],
    load: () => Promise.all([ask(`v1/runs/${id}`), ask(`v1/runs/${id}/files?${fileQuery}`), ask(`v1/runs/${id}/entries?${entryQuery}`)]),
    fill: ([run, filePage, entryPage]) => {
      put(head, run, showHead);
      put(failures, [run, dryRuns], () => showFailures(run));
      put(fileList, filePage, showFiles);
      put(entries, entryPage, showEntries);
    },
  };
}

// ---- the loop: one question at a time, only while somebody looks

let view = null;
let viewed = null;
let asking = false;
let again = false;
let timer = 0;
let pause_ms = REFRESH_MS;

function openView() {
  if (viewed === location.hash) return;
  const moved = viewed !== null;
  viewed = location.hash;
  const at = route();
  view = at.run ? runView(at.run, at.query) : runsView(at.query);
  document.title = `${view.title} · Hashmill`;
  $("main").replaceChildren(...view.frame);
  if (moved) $("main").focus();
}

async function look() {
  openView();
  const asked = view;
  const [overview, body] = await Promise.allSettled([ask("v1/overview"), asked.load()]);
  const wrong = [overview, body].find((part) => part.status === "rejected")?.reason;
  if (wrong instanceof Locked) return unlock();
  if (overview.status === "fulfilled") showHealth(overview.value);
  if (body.status === "fulfilled" && asked === view) asked.fill(body.value);
  if (wrong) showVerdict([overview.status === "rejected" && wrong instanceof TypeError ? "The server does not answer; trying again." : wrong.message]);
  $("main").dataset.stale = body.status === "fulfilled" ? "no" : "yes";
  $("health").dataset.stale = overview.status === "fulfilled" ? "no" : "yes";
  pause_ms = wrong ? Math.min(2 * pause_ms, REFRESH_SLOWEST_MS) : REFRESH_MS;
}

async function refresh() {
  again = asking;
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  try {
    await look();
  } finally {
    asking = false;
    if (again) refresh();
    else if (!document.hidden && !$("locked").open) timer = setTimeout(refresh, pause_ms);
  }
}

addEventListener("hashchange", refresh);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
refresh();
