"use strict";
// The page over the interface of the server: what happens comes as events, what is wanted is a request.

const byId = id => document.getElementById(id);
const LEASE = "X-Semfocus-Lease", CLIENT = "X-Semfocus-Client";
const HEARTBEAT = 10000, PAUSE = 100, LOOK_EVERY = 700, TILES_EVERY = 5000;
const newName = () => sessionStorage.client = `browser ${Math.random().toString(36).slice(2, 6)}`;
let me = sessionStorage.client || newName();
const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.has("token")) { sessionStorage.token = fragment.get("token"); history.replaceState(null, "", location.pathname); }

let status = null, run = null, live = false, inControl = false, wantedFrame = null, fetching = false, lastLook = 0, lookTimer = 0, newest = 0, lastOfRun = 0;

// Requests

// Read every answer: Chromium keeps the memory of one that nobody reads, 30 KB each.
const ask = async (method, path, body, signal) => {
  const headers = { [CLIENT]: me };
  if (sessionStorage.token) headers.Authorization = `Bearer ${sessionStorage.token}`;
  if (sessionStorage.lease) headers[LEASE] = sessionStorage.lease;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ message: `HTTP status ${answer.status}` }));
  if (answer.status === 401) showLogin();
  if (answer.status === 423) setControl(false);
  throw Object.assign(new Error(problem.message), { status: answer.status });
};
const json = async (...request) => (await ask(...request)).json();
const tell = (text, bad = false) => { byId("message").textContent = text; byId("message").classList.toggle("bad", bad); };
const attempt = action => async event => {
  event?.preventDefault?.();
  try { await action(event); } catch (error) { tell(error.message, true); }
  refresh();
};

// Control

const setControl = mine => { inControl = mine; if (!mine) { live = false; delete sessionStorage.lease; } refresh(); };
const takeControl = async force => {
  sessionStorage.lease = (await json("POST", "api/lease", { force })).lease;
  setControl(true);
};
const keepControl = async () => {
  if (!sessionStorage.lease) return;
  try { await json("PUT", "api/lease"); setControl(true); } catch (error) { if (error.status === 423) setControl(false); }
};
setInterval(keepControl, HEARTBEAT);

// A tab that was duplicated has the name and the lease of the first in its storage. Of two, the one that was there keeps them.
const tabs = new BroadcastChannel("semfocus"), thisTab = Math.random();
tabs.onmessage = ({ data }) => {
  if (data.client !== me) return;
  if (data.asks) tabs.postMessage({ client: me, copy: data.asks });
  else if (data.copy === thisTab) { setControl(false); me = newName(); }
};
const isAlone = async () => {
  tabs.postMessage({ client: me, asks: thisTab });
  await new Promise(wait => setTimeout(wait, 150));
};

const showLogin = () => { byId("login").hidden = false; document.querySelector("main").hidden = true; };
byId("login").onsubmit = event => {
  event.preventDefault();
  sessionStorage.token = byId("token").value;
  location.reload();
};

// Events

const handlers = {
  status: async data => {
    status = data;
    run = data.run;
    lastOfRun = 0;
    fillIn();
    if (data.frame) showFrame(data.frame);
    drawRun();
    byId("history").replaceChildren();
    data.runs.forEach(addToHistory);
    if (sessionStorage.lease) await keepControl();
    if (!inControl && data.control.free) await takeControl(false).catch(() => setControl(false));
  },
  control: data => { status.control = data; if (data.client !== me) setControl(false); },
  place: data => showPlace(data),
  frame: data => { showPlace(data); showFrame(data); },
  run: data => { run = data; drawRun(); tell(`focusing, asked by ${data.client}`); },
  step: data => { if (run && run.number === data.run) { run.steps.push(data); setScore(data.score); drawRun(); } },
  ended: data => {
    run = data;
    lastOfRun = newest;
    showPlace(data);
    drawRun();
    addToHistory({ ...data });
    const end = data.result;
    if (end) tell(`${end.status} at ${end.working_distance.toFixed(3)} mm: ${end.reason}`, end.status === "refused");
    else tell(data.error.message, true);
    readMembers();
  },
  stopped: data => { live = false; tell(data.keep_beam ? "the scan was stopped" : "stopped, and the beam is off", true); readMembers(); },
  lost: data => { status.problem = data.problem; live = false; },
  found: () => { status.problem = null; },
};
const listen = async () => {
  for (;;) {
    try {
      const reader = (await ask("GET", "api/events")).body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
          const event = /^event: (.*)\ndata: (.*)$/.exec(text.slice(0, end));
          if (event && handlers[event[1]]) { await handlers[event[1]](JSON.parse(event[2])); refresh(); }
        }
      }
    } catch (error) {
      if (error.status === 401) return;
    }
    byId("state").textContent = "the server does not answer";
    byId("state").className = "badge bad";
    live = false;
    await new Promise(wait => setTimeout(wait, 1000));
  }
};

// What is shown

const running = () => run !== null && !run.ended;
const refresh = () => {
  if (!status) return;
  const lost = status.problem !== null, free = inControl && !lost && !running();
  byId("state").textContent = lost ? "link lost" : running() ? "focusing" : live ? "live" : "ready";
  byId("state").className = `badge ${lost ? "bad" : "good"}`;
  byId("control").textContent = inControl ? "you control" : `watching; ${status.control.client ?? "nobody"} controls`;
  byId("control").className = `badge ${inControl ? "good" : ""}`;
  byId("take").hidden = inControl;
  byId("lost").hidden = !lost;
  byId("problem").textContent = status.problem ?? "";
  byId("reconnect").disabled = !inControl;
  for (const id of ["autofocus", "stigmate", "live", "snap"]) byId(id).disabled = !free;
  byId("cancel").disabled = !(inControl && running());
  byId("live").setAttribute("aria-pressed", live);
  for (const field of document.querySelectorAll(".fields input, .fields select, .fields button")) field.disabled = !free;
};
const fillIn = () => {
  const about = status.capabilities, focused = document.activeElement;
  byId("instrument").textContent = [about.model, about.serial].filter(Boolean).join(" ") || status.address;
  byId("login").hidden = true;
  document.querySelector("main").hidden = false;
  const offer = (select, names, first) => {
    const chosen = select.value;
    select.replaceChildren(...first, ...names.map(name => new Option(name, name)));
    if (names.includes(chosen)) select.value = chosen;
  };
  offer(byId("method"), Object.keys(status.methods), [new Option("the default", "")]);
  for (const id of ["low", "high"]) {
    byId(id).placeholder = about.working_distance[id === "low" ? "minimum" : "maximum"];
  }
  byId("emulator").hidden = status.emulator === null;
  if (status.emulator) {
    offer(byId("specimen"), status.emulator.specimens, []);
    for (const name of ["specimen", "seed", "faults"]) byId(name).value = status.emulator[name];
  }
  const has = name => status.offers.includes(name);
  for (const element of document.querySelectorAll(".of-stigmator")) element.hidden = !has("stigmator");
  byId("beam-label").hidden = !has("beam_on");
  byId("stop").hidden = !has("stop");
  showPlace(status);
  byId("label-page").hidden = !status.labels;
  showTiles();
  readMembers();
  focused?.focus();
};
const readMembers = async () => {
  try {
    if (status.offers.includes("stigmator")) {
      showPlace({ stigmator: (await json("GET", "api/stigmator")).value });
    }
    if (status.offers.includes("beam_on")) byId("beam").checked = (await json("GET", "api/beam_on")).value;
  } catch (error) { tell(error.message, true); }
};
const showPlace = data => {
  for (const [name, id, text] of [["working_distance", "distance", value => `${value.toFixed(3)} mm`],
    ["magnification", "magnification", value => `${Math.round(value).toLocaleString("en")}×`]]) {
    if (typeof data[name] !== "number") continue;
    status[name] = data[name];
    byId(id).textContent = text(data[name]);
    const field = byId(`set-${id}`);
    if (document.activeElement !== field) field.value = +data[name].toPrecision(7);
  }
  for (const [k, axis] of ["x", "y"].entries()) {
    const field = byId(`stigmator-${axis}`);
    if (data.stigmator && document.activeElement !== field) field.value = +data.stigmator[k].toPrecision(7);
  }
};
const showFrame = data => { wantedFrame = data; newest = data.number; fetchFrame(); };
const fetchFrame = async () => {
  if (fetching || wantedFrame === null) return;
  fetching = true;
  const frame = wantedFrame;
  wantedFrame = null;
  try {
    const image = byId("frame"), picture = await createImageBitmap(await (await ask("GET", `api/frames/${frame.number}.jpg`)).blob());
    if (image.width !== picture.width || image.height !== picture.height) [image.width, image.height] = [picture.width, picture.height];
    image.getContext("2d").drawImage(picture, 0, 0);
    picture.close();  // an <img> would keep every picture until the browser collects garbage: a gigabyte in an hour
    image.dataset.frame = frame.number;
    image.ariaLabel = `Frame ${frame.number} at ${frame.working_distance.toFixed(3)} mm, ${frame.magnification}×`;
    byId("caption").textContent = `frame ${frame.number}, ${frame.width}×${frame.height}, ` +
      `${frame.working_distance.toFixed(3)} mm, ${Math.round(frame.magnification).toLocaleString("en")}×`;
    drawScale(frame);
    clearTimeout(lookTimer);
    lookTimer = setTimeout(() => look(frame.number), Math.max(0, LOOK_EVERY - (performance.now() - lastLook)));
  } catch (error) { if (error.status !== 404) tell(error.message, true); }
  fetching = false;
  fetchFrame();
};
const look = async number => {
  lastLook = performance.now();
  try {
    const seen = await json("GET", `api/frames/${number}/score`);
    if (!running() && number >= lastOfRun) setScore(seen.score);  // a run has shown the score of its last frame
    showBlur(seen.blur);
  } catch (error) { if (error.status !== 404) tell(error.message, true); }
};
const drawScale = frame => {
  const scale = byId("scale"), field = frame.width * frame.pixel_size;
  scale.hidden = !(field > 0);
  if (scale.hidden) return;
  const most = field / 4, power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map(step => step * power).find(each => each <= most * (1 + 1e-9));
  const image = byId("frame"), shown = Math.min(image.clientWidth, image.clientHeight * frame.width / frame.height);
  scale.style.width = `${shown * length / field}px`;
  scale.style.left = `${(image.clientWidth - shown) / 2 + shown * 0.04}px`;
  scale.firstElementChild.textContent = length >= 1000 ? `${length / 1000} µm` : `${length} nm`;
};
const showBlur = blur => {
  const box = byId("blur");
  box.hidden = blur === null;
  if (box.hidden) return;
  const unit = 17 / Math.max(blur.larger, 8), round = blur.direction === null;
  box.firstElementChild.replaceChildren(svg("ellipse", { rx: Math.max(unit * blur.larger, 0.5), ry: Math.max(unit * blur.smaller, 0.5),
    transform: `rotate(${blur.direction ?? 0})` }));
  box.lastElementChild.textContent = `blur ${blur.larger.toFixed(1)}${round ? "" : ` × ${blur.smaller.toFixed(1)}`} px`;
};
const setScore = value => {
  byId("gauge").value = value ?? 0;
  byId("score").textContent = value === null ? "–" : value.toFixed(1);
};

// Focus curve

const W = 560, H = 300, LEFT = 34, RIGHT = 550, TOP = 10, BOTTOM = 264;
const svg = (tag, attributes, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
};
const beliefOf = each => each.result?.posterior ?? each.steps.at(-1)?.posterior ?? null;
const drawRun = () => {
  const plot = byId("plot");
  plot.replaceChildren();
  if (!run) return;
  const end = run.result, belief = beliefOf(run), places = run.steps.map(step => step.working_distance);
  byId("run-title").textContent = `Run ${run.number}: ` + (end ? `${end.status}, confidence ${end.confidence.toFixed(2)}` :
    run.error ? "failed" : `${run.steps.length} frames so far`);
  byId("run-title").className = end ? end.status : run.error ? "failed" : "";
  const seen = [...places, ...(belief ? belief.slice(2, -2) : []), ...(end ? [end.working_distance] : [])];
  if (seen.length) {
    let low = Math.min(...seen), high = Math.max(...seen);
    const margin = Math.max((high - low) * 0.06, 0.005);
    low -= margin; high += margin;
    const x = place => LEFT + (place - low) / (high - low) * (RIGHT - LEFT), y = score => BOTTOM - score / 9 * (BOTTOM - TOP);
    const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(each => each * power).find(each => each >= rough), digits = Math.max(0, -Math.floor(Math.log10(step)));
    for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) {
      plot.append(svg("line", { class: "axis", x1: x(tick), x2: x(tick), y1: TOP, y2: BOTTOM }),
        svg("text", { x: x(tick), y: BOTTOM + 16, "text-anchor": "middle" }, tick.toFixed(digits)));
    }
    for (const score of [0, 3, 6, 9]) {
      plot.append(svg("line", { class: "axis", x1: LEFT, x2: RIGHT, y1: y(score), y2: y(score) }),
        svg("text", { x: LEFT - 6, y: y(score) + 4, "text-anchor": "end" }, score));
    }
    plot.append(svg("text", { x: (LEFT + RIGHT) / 2, y: H - 4, "text-anchor": "middle" }, "working distance (mm)"));
    if (belief) {
      const widths = belief.slice(1).map((each, k) => Math.max(each - belief[k], 1e-6)), narrowest = Math.min(...widths);
      let path = `M${x(belief[0])} ${BOTTOM}`;
      widths.forEach((width, k) => {
        const top = BOTTOM - 0.9 * (BOTTOM - TOP) * narrowest / width;
        path += `L${x(belief[k])} ${top}L${x(belief[k + 1])} ${top}`;
      });
      const clipped = svg("svg", { x: 0, y: 0, width: W, height: H });
      clipped.append(svg("path", { class: "posterior", d: `${path}L${x(belief.at(-1))} ${BOTTOM}Z` }));
      plot.append(clipped);
    }
    if (places.length) plot.append(svg("line", { class: "start-line", x1: x(places[0]), x2: x(places[0]), y1: TOP, y2: BOTTOM }));
    if (end) plot.append(svg("line", { class: "final-line", x1: x(end.working_distance), x2: x(end.working_distance), y1: TOP, y2: BOTTOM }));
    plot.append(svg("polyline", { class: "path", points: run.steps.map(each => `${x(each.working_distance)},${y(each.score)}`).join(" ") }));
    for (const each of run.steps) {
      plot.append(svg("circle", { class: "score-point", cx: x(each.working_distance), cy: y(each.score), r: 4 }),
        svg("text", { class: "number", x: x(each.working_distance) + 6, y: y(each.score) - 5 }, each.frame));
    }
  }
  byId("steps").tBodies[0].replaceChildren(...run.steps.map(each => {
    const line = document.createElement("tr");
    for (const cell of [each.frame, each.phase, `${each.working_distance.toFixed(3)} mm`, each.score.toFixed(2),
      each.blur === null ? "" : `${each.blur.toFixed(1)} px`]) line.insertCell().textContent = cell;
    return line;
  }));
  const rest = end?.astigmatism ?? null, note = byId("astigmatism");
  note.hidden = rest === null;
  if (rest) {
    const amount = Math.hypot(rest.x, rest.y), angle = Math.atan2(rest.y, rest.x) / 2 * 180 / Math.PI;
    const long = 10 + 8 * amount / (amount + 3 * rest.sigma);
    byId("ellipse").replaceChildren(svg("ellipse", { rx: long, ry: 100 / long, transform: `rotate(${angle})` }));
    note.lastElementChild.textContent = `astigmatism left: ${Number(amount.toPrecision(2))} ± ${Number(rest.sigma.toPrecision(1))} µm, ` +
      `at ${((angle + 180) % 180).toFixed(0)}°`;
  }
};

// Tiles of a run in progress, as its folder has them

const showTiles = async () => {
  byId("tiles").hidden = !status.tiles;
  if (!status.tiles || document.hidden) return;
  try {
    const { folder, plan, tiles, points } = await json("GET", "api/tiles"), chart = byId("mosaic"), C = 20;
    chart.replaceChildren();
    if (!plan) { byId("tiles-title").textContent = `Tiles: none in ${folder} yet`; return; }
    chart.setAttribute("viewBox", `-1 -1 ${plan.columns * C + 2} ${plan.rows * C + 2}`);
    const taken = new Map(tiles.map(each => [`${each.row} ${each.column}`, each]));
    for (let row = 0; row < plan.rows; row++) for (let column = 0; column < plan.columns; column++) {
      const each = taken.get(`${row} ${column}`), cell = svg("rect", { x: column * C + 1, y: row * C + 1, width: C - 2, height: C - 2,
        class: each ? `taken ${each.focus}` : "", "fill-opacity": each?.score == null ? 0 : 0.08 + 0.92 * each.score / 9 });
      cell.append(svg("title", {}, each ? `row ${row}, column ${column}: score ${each.score?.toFixed(1) ?? "unknown"}, ` +
        `${each.working_distance.toFixed(4)} mm, by ${each.focus}: ${each.reason}` : `row ${row}, column ${column}: to be taken`));
      chart.append(cell);
    }
    const [x0, y0, x1, y1] = plan.region, places = points.map(each => each.working_distance);
    const low = Math.min(...places), high = Math.max(...places), along = (at, from, to, count) => C * (0.5 + (count - 1) * ((at - from) / (to - from) || 0));
    for (const each of points) {
      const dot = svg("circle", { class: "map-point", cx: along(each.x, x0, x1, plan.columns), cy: along(each.y, y0, y1, plan.rows), r: 3.5 });
      dot.style.setProperty("--height", `${100 * ((each.working_distance - low) / (high - low) || 0)}%`);
      dot.append(svg("title", {}, `measured at ${each.x.toFixed(3)}, ${each.y.toFixed(3)} mm: ${each.working_distance.toFixed(4)} mm`));
      chart.append(dot);
    }
    const by = how => tiles.filter(each => each.focus === how).length;
    byId("tiles-title").textContent = `Tiles: ${tiles.length} of ${plan.columns * plan.rows}`;
    byId("tiles-about").textContent = `${by("map")} by the map, ${by("run")} by a run, ${by("none")} without focus. ` + (places.length ?
      `The focus map has ${places.length} points, from ${low.toFixed(4)} mm (blue) to ${high.toFixed(4)} mm (orange).` : "The focus map has no point yet.");
  } catch (error) { byId("tiles-about").textContent = error.message; }
};
setInterval(() => { if (status?.tiles) showTiles(); }, TILES_EVERY);

// History

const addToHistory = each => {
  const item = document.createElement("li"), end = each.result, line = document.createElement("div");
  item.value = each.number;
  line.className = end ? end.status : "failed";
  line.textContent = `${new Date(each.began * 1000).toLocaleTimeString()}  ` + (end ?
    `${end.status} at ${end.working_distance.toFixed(3)} mm, score ${end.score.toFixed(1)}, ${end.frames} frames` : `failed: ${each.error.message}`);
  item.append(line);
  byId("history").prepend(item);
  if (!end) return;
  const button = document.createElement("button");
  button.textContent = "Report";
  button.onclick = attempt(async () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await (await ask("GET", `api/autofocus/${each.number}/report.html`)).blob());
    link.download = `run-${each.number}.html`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });
  item.append(button);
  json("GET", `api/autofocus/${each.number}?after=1000000`).then(async details => {
    for (const name of ["before", "after"]) {
      if (details[name] === null) continue;
      const image = document.createElement("img");
      image.alt = `${name} run ${each.number}`;
      image.src = URL.createObjectURL(await (await ask("GET", `api/frames/${details[name]}.jpg`)).blob());
      image.onload = () => URL.revokeObjectURL(image.src);
      item.append(image);
    }
  }).catch(() => {});
  while (byId("history").children.length > 50) byId("history").lastElementChild.remove();
};

// What is wanted

const numberOf = id => byId(id).value.trim() === "" ? null : Number(byId(id).value);
const focus = async body => {
  live = false;
  const low = numberOf("low"), high = numberOf("high"), limits = status.capabilities.working_distance;
  if (byId("method").value) body.method = byId("method").value;
  if (numberOf("travel") !== null) body.max_travel = numberOf("travel");
  if (low !== null || high !== null) body.bounds = [low ?? limits.minimum, high ?? limits.maximum];
  await json("POST", "api/autofocus", body);
};
const actions = {
  take: async () => {
    if (status.control.client === null || status.control.free) return takeControl(false);
    if (confirm(`${status.control.client} controls the instrument. Take over?`)) await takeControl(true);
  },
  reconnect: async () => { tell("connecting again"); await json("POST", "api/reconnect"); tell("connected again"); },
  autofocus: () => focus({}),
  stigmate: () => focus({ stigmate: true, ...(numberOf("stigmator-travel") === null ? {} : { max_stigmator_travel: numberOf("stigmator-travel") }) }),
  cancel: async () => { await json("DELETE", `api/autofocus/${run.number}`); tell("cancelling: all that the run moved goes back to its start"); },
  stop: async () => { live = false; await json("POST", "api/stop", {}); },
  snap: async () => {
    live = false;
    tell("scanning");
    const frame = await json("POST", "api/frames", { mode: status.capabilities.scan_modes.at(-1).name });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await (await ask("GET", `api/frames/${frame.number}.tif`)).blob());
    link.download = `frame-${frame.number}.ome.tif`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    tell(`frame ${frame.number} is saved as OME-TIFF`);
  },
  live: async () => {
    live = !live;
    refresh();
    if (live) tell("live: the beam scans the sample again and again");
    while (live && inControl && !running() && status.problem === null) {
      const began = performance.now();
      if (document.hidden) { live = false; tell("live view ended: nobody looks at the page"); break; }
      await json("POST", "api/frames", {}).catch(error => { live = false; throw error; });
      await new Promise(wait => setTimeout(wait, Math.max(0, PAUSE - (performance.now() - began))));
    }
    live = false;
  },
  "new-specimen": async () => {
    tell("the specimen is drawn");
    await json("PUT", "api/emulator", { specimen: byId("specimen").value, seed: numberOf("seed") ?? 1, faults: byId("faults").value });
    tell(`${byId("specimen").value} is under the beam`);
  },
  detune: async () => {
    const away = ["x", "y"].map(axis => numberOf(`astigmatism-${axis}`) ?? 0);
    await json("PUT", "api/working_distance", { value: status.working_distance + (numberOf("defocus") ?? 0) / 1000 });
    if (away.some(each => each)) {
      const { value } = await json("GET", "api/stigmator");
      await json("PUT", "api/stigmator", { value: value.map((each, k) => each + away[k]) });
      await readMembers();
    }
    tell("detuned; scan a frame to see it");
  },
};
for (const [id, action] of Object.entries(actions)) byId(id).onclick = attempt(action);
const setter = (id, path, value) => { byId(id).onchange = attempt(async () => { await json("PUT", path, { value: value() }); }); };
setter("set-distance", "api/working_distance", () => numberOf("set-distance"));
setter("set-magnification", "api/magnification", () => numberOf("set-magnification"));
setter("beam", "api/beam_on", () => byId("beam").checked);
for (const axis of ["x", "y"]) setter(`stigmator-${axis}`, "api/stigmator", () => [numberOf("stigmator-x"), numberOf("stigmator-y")]);
const KEYS = { a: "autofocus", t: "stigmate", Escape: "cancel", l: "live", n: "snap", s: "stop" };
addEventListener("keydown", event => {
  const typing = event.target.matches?.("input:not([type=checkbox]), select");
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || (typing && event.key !== "Escape")) return;
  const button = byId(KEYS[event.key]);
  if (button && !button.disabled && !button.hidden) { event.preventDefault(); button.click(); }
});
addEventListener("resize", () => { if (status?.frame) drawScale(status.frame); });
isAlone().then(listen);
