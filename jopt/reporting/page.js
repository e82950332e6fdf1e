// Draws the curves of a page and, where a server is behind it, keeps them up to date.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const { runs, groups, names, item, lossUnit } = DATA;
const POLL_MS = 1000;
const NARROW = 560; // px, below which labels and margins shrink
const [TOP, BOTTOM] = [10, 44]; // px around the lines of a plot

// Okabe and Ito's colours, the light ones darkened on white and the dark ones lightened
// on black; every line also has a dash of its own and its name at its end.
const THEMES = {
  light: {
    ink: "#1b1d22", quiet: "#5b616b", rule: "#e4e6e8", card: "#ffffff", event: "#b04a00",
    lines: ["#0072b2", "#d55e00", "#008a66", "#a8548a", "#a87400", "#2a8fc7", "#5b616b"],
  },
  dark: {
    ink: "#e8eaed", quiet: "#a3a9b3", rule: "#2c3138", card: "#1b1e23", event: "#ff9a52",
    lines: ["#56b4e9", "#ff8f3f", "#2fc79a", "#dd9cc4", "#e6b422", "#8f9dff", "#b9bec6"],
  },
};
const MOST = 7; // lines in a plot
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "2px,2px"];
const AXES = {
  steps: { title: "step", of: (run, step) => step },
  tokens: { title: `${item}s`, of: (run, step) => at(run.curves.tokens, step) },
  time: { title: "minutes", of: (run, step) => at(run.curves.wall_secs, step) / 60 },
};
// What the maps show, in this order; other statistics of layers are folded away.
const LAYERS = {
  grad_norm: { title: "Gradient norm", unit: "Frobenius norm, log scale", log: true },
  update_to_weight: {
    title: "Update-to-weight ratio", unit: "Norm of the update / norm of the weight, log scale",
    log: true,
  },
  stable_rank: {
    title: "Stable rank of the update", unit: "Squared Frobenius norm / squared spectral norm",
  },
  spec_sign_index: {
    title: "Spec–Sign index", signed: true, bare: true,
    unit: "Above 0 a spectral step gains more, below 0 a sign step",
  },
  spectral_share: {
    title: "Spectral steps in use", unit: "Share of the layer's matrices", range: [0, 1],
  },
};
const OTHER_LAYERS = {
  update_norm: { title: "Update norm", unit: "Frobenius norm, log scale", log: true },
  weight_norm: { title: "Weight norm", unit: "Frobenius norm, log scale", log: true },
  det_term: { title: "Index without noise", unit: "Linear scale", signed: true, bare: true },
  noise_term: { title: "Index: what noise changes", unit: "Linear scale", signed: true },
  log_snr_ratio: {
    title: "Signal-to-noise ratio, spectral over sign", unit: "Logarithm", signed: true,
  },
  nuclear_rank: {
    title: "Nuclear rank of the gradient", unit: "Squared nuclear norm / squared Frobenius norm",
  },
  ...Object.fromEntries(["euclidean", "sign", "spectral"].map((geometry) => [
    `noise_scale_${geometry}`,
    { title: `Noise scale, ${geometry}`, unit: "Batches, log scale", log: true },
  ])),
};
// Whether the curvature of a layer was measured: a mark at its name, and no map.
const MEASURED = "has_gram";
const UNMEASURED = " ◇";
const MAIN = new Set([
  "train/loss", "eval/loss", "time/tokens_per_sec", "time/overall_tokens_per_sec",
  "tokens", "wall_secs", "train/tokens", "eval/tokens",
]);

let axis = "steps";
let mapped = null; // the run whose layers are shown
const theme = () =>
  THEMES[matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"];
const isRate = (name) => name.endsWith("learning_rate");
const isLayer = (name) => name.startsWith("layer/");
const NOISE = "oracle/noise_scale/";
const isBatch = (name) => name === "train/batch_size" || name.startsWith(NOISE);

// ---- numbers

/** The value of a curve at a step, between its points where need be. */
function at(curve, step) {
  const { step: steps, mean } = curve;
  let i = steps.findIndex((s) => s >= step);
  if (i < 0) i = steps.length - 1;
  if (i === 0 || steps[i] === step) return (mean[i] * step) / (steps[i] || 1);
  const part = (step - steps[i - 1]) / (steps[i] - steps[i - 1]);
  return mean[i - 1] + (mean[i] - mean[i - 1]) * Math.min(part, 1);
}

/** One run's curve as a line: the mean of each point and its extremes. */
function lineOf(run, name) {
  const { step, mean, low, high } = run.curves[name];
  const x = step.map((s) => AXES[axis].of(run, s));
  return { step, x, y: mean, low, high, n: null };
}

/** Adds the running mean over a fiftieth of the points, which is drawn over them. */
function smoothed(line) {
  const half = Math.floor(line.y.length / 100);
  if (!half) return line;
  const smooth = line.y.map((y, i) => {
    if (y === null) return null;
    const near = line.y.slice(Math.max(i - half, 0), i + half + 1).filter((v) => v !== null);
    return near.reduce((a, b) => a + b, 0) / near.length;
  });
  return { ...line, smooth, window: 2 * half + 1 };
}

/** The mean over seeds at each step that at least one of them has, and their range. */
function bandOf(members, name) {
  const points = new Map();
  for (const run of members) {
    const line = lineOf(run, name);
    line.step.forEach((step, i) => {
      if (line.y[i] === null) return;
      const point = points.get(step) ?? { x: [], y: [] };
      point.x.push(line.x[i]);
      point.y.push(line.y[i]);
      points.set(step, point);
    });
  }
  const step = [...points.keys()].sort((a, b) => a - b);
  const column = (f) => step.map((s) => f(points.get(s)));
  const average = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  return {
    step,
    x: column((p) => average(p.x)),
    y: column((p) => average(p.y)),
    low: column((p) => Math.min(...p.y)),
    high: column((p) => Math.max(...p.y)),
    n: column((p) => p.y.length),
  };
}

/** The line of each config that has a metric, in its own colour everywhere. */
function linesOf(name) {
  return groups.flatMap((group, index) => {
    const members = group.runs.map((i) => runs[i]).filter((run) => run.curves[name]);
    if (!members.length) return [];
    const line = group.runs.length > 1 ? bandOf(members, name) : lineOf(members[0], name);
    return [{ ...line, label: group.label, colour: index }];
  });
}

/** Axis limits that a few wild points do not decide, and how many lie above them. A
 *  logarithmic axis ends at a thousandth of the largest value. */
function frame(lines, log) {
  const values = lines.flatMap((line) => [...line.y, ...(line.low ?? []), ...(line.high ?? [])])
    .filter((y) => y !== null && (!log || y > 0)).sort((a, b) => a - b);
  if (!values.length) return null;
  const low = values[0];
  const usual = values[Math.floor(0.98 * (values.length - 1))];
  const top = values[values.length - 1];
  const cut = !log && top - low > 4 * (usual - low) && usual > low;
  const high = cut ? low + 1.3 * (usual - low) : top;
  const pad = 0.05 * (high - low) || Math.abs(high) * 0.05 || 1;
  const outside = lines.flatMap((line) => line.y).filter((y) => y !== null && y > high).length;
  if (!log) return { low: low < 0 ? low - pad : Math.max(0, low - pad), high: high + pad, outside };
  const bottom = Math.log10(Math.max(low, high / 1000));
  const stretch = (Math.log10(high) - bottom) * 0.05 || 0.1;
  return { low: bottom - stretch, high: Math.log10(high) + stretch, outside: 0 };
}

const format = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e4) return Math.round(value).toLocaleString("en");
  if (size >= 1e-3 || size === 0) return String(Number(value.toPrecision(4)));
  return value.toExponential(2);
};

// ---- drawing

const DRAWN = new Map(); // plot element -> function that draws it again

function element(tag, parent, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
  return made;
}

function figureIn(parent, title, unit) {
  const figure = element("figure", parent);
  element("h3", figure, title);
  const caption = element("figcaption", figure, unit);
  const plot = element("div", figure, "", { class: "plot", role: "img" });
  const key = element("ul", figure, "", { class: "key" });
  return { plot, caption, key, title, unit };
}

const textWidth = (text, size) => text.length * size * 0.58;

function layoutOf(colours, width, height, right) {
  const grid = { automargin: false, gridcolor: colours.rule, zeroline: false, linecolor: colours.rule,
    ticks: "", fixedrange: width < NARROW };
  return {
    width, height, autosize: false,
    margin: { l: width < NARROW ? 44 : 56, r: right, t: TOP, b: BOTTOM },
    paper_bgcolor: colours.card, plot_bgcolor: colours.card,
    font: { color: colours.ink, size: 12, family: getComputedStyle(document.body).fontFamily },
    hovermode: "x", showlegend: false,
    hoverlabel: { bgcolor: colours.card, bordercolor: colours.quiet,
      font: { color: colours.ink, size: 12 }, namelength: -1 },
    xaxis: { ...grid }, yaxis: { ...grid }, shapes: [], annotations: [],
  };
}

const CONFIG = { displaylogo: false, displayModeBar: false, responsive: false };

/** Names at the ends of lines, moved apart where they would overlap. */
function endLabels(lines, range, height, colours, room, log) {
  const inner = height - TOP - BOTTOM;
  const place = (y) => ((range.high - (log ? Math.log10(y) : y)) / (range.high - range.low)) * inner;
  const ends = lines.flatMap((line) => {
    const ys = line.smooth ?? line.y;
    const i = ys.findLastIndex((y) => y !== null);
    if (i < 0) return [];
    const wanted = Math.min(Math.max(place(ys[i]), 4), inner - 4);
    return [{ line, x: line.x[i], wanted, placed: wanted }];
  }).sort((a, b) => a.wanted - b.wanted);
  ends.forEach((end, i) => {
    if (i) end.placed = Math.max(end.placed, ends[i - 1].placed + 14);
  });
  for (let i = ends.length - 1, limit = inner; i >= 0; i--, limit -= 14) {
    ends[i].placed = Math.min(ends[i].placed, limit);
  }
  return ends.map(({ line, x, placed }) => ({
    x, y: 1 - placed / inner, yref: "paper", xanchor: "left", yanchor: "middle", xshift: 5,
    text: short(line.label, room), showarrow: false, align: "left",
    font: { color: colours.lines[line.colour], size: 12 },
  }));
}

function short(text, room) {
  const fits = Math.max(Math.floor(room / (12 * 0.58)), 4);
  const cut = text.length > fits ? `${text.slice(0, fits - 1)}…` : text;
  return plain(cut);
}

/** Text in which plotly sees no markup. */
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

const faint = (colour, alpha = "38") => colour + alpha;

function traces(line, colours, unit) {
  const colour = colours.lines[line.colour];
  const thin = { x: line.x, mode: "lines", hoverinfo: "skip" };
  const behind = [];
  if (line.low) {
    behind.push({ ...thin, y: line.low, line: { width: 0 } },
      { ...thin, y: line.high, line: { width: 0 }, fill: "tonexty", fillcolor: faint(colour) });
  } else if (line.smooth) {
    behind.push({ ...thin, y: line.y, line: { width: 1, color: faint(colour, "70") } });
  }
  const text = line.y.map((y, i) => {
    const range = line.low && line.low[i] !== line.high[i]
      ? `, ${format(line.low[i])} to ${format(line.high[i])}` : "";
    const seeds = line.n ? `, ${line.n[i]} seeds` : "";
    const mean = line.smooth ? `, running mean ${format(line.smooth[i])}` : "";
    return `${format(y)} ${unit}${mean}${range}${seeds}`;
  });
  return [...behind, {
    x: line.x, y: line.smooth ?? line.y, text, name: plain(line.label), connectgaps: false,
    mode: line.x.length === 1 || line.markers ? "lines+markers" : "lines", cliponaxis: false,
    marker: { size: 6, color: colour },
    line: { color: colour, width: 2, dash: DASHES[line.colour] },
    hovertemplate: "%{text}",
  }];
}

// The gravest first: it names a mark that stands for several events.
const KINDS = ["rollback", "damaged", "skipped", "resumed"];

/** Numbered lines where something happened; the table on the page explains them. */
function markEvents(layout, colours) {
  const drawn = groups.flatMap((group) => group.runs.map((i) => runs[i]));
  const marks = drawn.filter((run) => run.curves.tokens).flatMap((run) =>
    run.events.map((event, i) => ({ ...event, number: i + 1, x: AXES[axis].of(run, event.first),
      end: AXES[axis].of(run, event.last) }))).sort((a, b) => a.x - b.x);
  const clusters = [];
  for (const mark of marks) {
    layout.shapes.push({ type: "line", x0: mark.x, x1: mark.x, y0: 0, y1: 1, yref: "paper",
      line: { color: colours.event, width: 1, dash: "dot" } });
    if (mark.end > mark.x && mark.kind === "rollback") {
      layout.shapes.push({ type: "rect", x0: mark.x, x1: mark.end, y0: 0, y1: 1, yref: "paper",
        fillcolor: faint(colours.event), line: { width: 0 }, layer: "below" });
    }
    const near = clusters.at(-1);
    if (near && layout.px(mark.x) - layout.px(near[0].x) < 24) near.push(mark);
    else clusters.push([mark]);
  }
  clusters.forEach((cluster, i) => {
    const next = clusters[i + 1]?.[0].x;
    const kind = KINDS.find((name) => cluster.some((mark) => mark.kind === name));
    const numbers = cluster.length > 3 ? `${cluster[0].number}…` : cluster.map((mark) => mark.number).join(", ");
    const room = (next === undefined ? layout.inner : layout.px(next)) - layout.px(cluster[0].x);
    const text = room > textWidth(`${numbers} ${kind} `, 11) ? `${numbers} ${kind}` : numbers;
    layout.annotations.push({ x: cluster[0].x, y: 1, yref: "paper", yanchor: "top", xanchor: "left",
      text, showarrow: false, xshift: 1, font: { color: colours.event, size: 11 },
      hovertext: cluster.map((mark) => plain(mark.text)).join("<br>") });
  });
}

/** A dotted line for losses that a rollback took back. */
function discardedTraces(colours) {
  return groups.flatMap((group) => group.runs).flatMap((i) => runs[i].discarded
    .filter((part) => part.loss && runs[i].curves.tokens)
    .map(({ loss }) => ({
      x: loss.step.map((s) => AXES[axis].of(runs[i], s)), y: loss.mean, mode: "lines+markers",
      line: { color: colours.quiet, width: 1.5, dash: "dot" },
      marker: { color: colours.quiet, size: 6, symbol: "x-thin-open" },
      name: "taken back", hovertemplate: "%{y:.4g}",
    })));
}

/** Ticks of a logarithmic axis: powers of ten, with 2 and 5 between them where it is short. */
function logTicks({ low, high }) {
  const tickvals = [];
  for (let power = Math.floor(low); power <= high; power++) {
    for (const part of high - low > 1.5 ? [1] : [1, 2, 5]) {
      const value = Number(`${part}e${power}`);
      if (Math.log10(value) >= low && Math.log10(value) <= high) tickvals.push(value);
    }
  }
  return tickvals.length < 2 ? {} : { tickmode: "array", tickvals, ticktext: tickvals.map(brief) };
}

const brief = (value) =>
  (value === 0 || Math.abs(value) >= 1e-3 ? String(value) : value.toExponential());

/** Fills a figure with lines; says in words what it shows. */
function drawLines(slot, lines, { unit, log, events, note }) {
  const colours = theme();
  const { plot } = slot;
  const width = plot.clientWidth;
  const height = width < NARROW ? 250 : 320;
  const range = frame(lines, log);
  if (!range) return;
  const widest = Math.max(...lines.map((line) => textWidth(line.label, 12)));
  const room = Math.min(widest + 6, width * 0.28);
  const named = lines.length > 1 || groups.length > 1;
  const layout = layoutOf(colours, width, height, named ? room + 8 : 14);
  const before = events ? discardedTraces(colours) : [];
  const xs = [...before, ...lines].flatMap((line) => line.x);
  const [left, right] = [Math.min(0, ...xs), Math.max(...xs) || 1];
  Object.assign(layout.xaxis, { title: { text: AXES[axis].title, standoff: 6 }, range: [left, right],
    nticks: width < NARROW ? 5 : 9 });
  Object.assign(layout.yaxis, { range: [range.low, range.high], type: log ? "log" : "linear",
    nticks: 7, ...(log ? logTicks(range) : {}) });
  layout.inner = width - layout.margin.l - layout.margin.r;
  layout.px = (x) => ((x - left) / (right - left)) * layout.inner;
  if (named) layout.annotations = endLabels(lines, range, height, colours, room, log);
  if (events) markEvents(layout, colours);
  const data = [...before, ...lines.flatMap((line) => traces(line, colours, unit))];
  const outside = range.outside ? ` ${range.outside} points lie above the frame.` : "";
  slot.caption.textContent = slot.unit + meaning(lines) + (note ?? "") + outside;
  plot.setAttribute("aria-label", describe(slot.title, lines, unit));
  drawKey(slot.key, lines, colours, widest > room);
  Plotly.react(plot, data, layout, CONFIG);
}

/** What a line and what is behind it stand for. */
function meaning(lines) {
  const window = Math.max(...lines.map((line) => line.window ?? 0));
  const running = window ? ` Line: running mean over ${window} points` : " Line: mean";
  if (lines.some((line) => line.n)) return `${running} of all seeds; band: their range.`;
  if (lines.some((line) => line.low)) return `${running} of the records; band: their range.`;
  return window ? `${running}; faint: the points.` : "";
}

function describe(title, lines, unit) {
  const ends = lines.map((line) => {
    const y = line.y.filter((value) => value !== null);
    return `${line.label} from ${format(y[0])} to ${format(y[y.length - 1])}`;
  });
  return `${title} (${unit}): ${ends.join("; ")}`;
}

/** The full names below a plot whose labels had to be cut. */
function drawKey(list, lines, colours, needed) {
  list.replaceChildren();
  if (!needed || lines.length < 2) return;
  for (const line of lines) {
    const item = element("li", list);
    const dash = { solid: "", dash: "6 4", dot: "2 3", dashdot: "6 3 2 3", longdash: "10 4",
      longdashdot: "10 3 2 3" }[DASHES[line.colour]] ?? "2 2";
    item.innerHTML = `<svg width="30" height="8"><line x1="0" y1="4" x2="30" y2="4" stroke="${
      colours.lines[line.colour]}" stroke-width="2.5" stroke-dasharray="${dash}"/></svg>`;
    item.append(line.label);
  }
}

// Blue below zero, orange above; grey, neither light nor dark, in between.
const SIGNED = [[0, "#00487a"], [0.25, "#4f94c4"], [0.5, "#b9b7b2"], [0.75, "#d08a3f"], [1, "#8a3d00"]];
// Cividis: even in lightness, and the same to readers with and without colour vision.
const CIVIDIS = [[0, "#00224e"], [0.13, "#123570"], [0.25, "#3b496c"], [0.38, "#575d6d"],
  [0.5, "#707173"], [0.63, "#8a8678"], [0.75, "#a59c74"], [0.88, "#c3b369"], [1, "#fee838"]];

/** One statistic of all layers over time. */
function drawMap(slot, run, statistic) {
  const { log, signed, range, bare } = mapOf(statistic);
  const paths = layersOf(run, statistic);
  if (!paths.length) return;
  const guessed = new Set(bare ? paths.filter((path) => !isMeasured(run, path)) : []);
  const names = paths.map((path) => path + (guessed.has(path) ? UNMEASURED : ""));
  slot.caption.textContent = slot.unit + (guessed.size
    ? `${UNMEASURED}: no Gram matrix of activations, the curvature is a guess from the shape.` : "");
  const curves = paths.map((path) => run.curves[`layer/${path}/${statistic}`]);
  const steps = [...new Set(curves.flatMap((curve) => curve.step))].sort((a, b) => a - b);
  const rows = curves.map((curve) => {
    const known = new Map(curve.step.map((s, i) => [s, curve.mean[i]]));
    return steps.map((s) => known.get(s) ?? null);
  });
  const scaled = rows.map((row) => row.map((v) => (v === null || !log ? v : v > 0 ? Math.log10(v) : null)));
  const limits = range ?? (signed ? around0(scaled.flat()) : usual(scaled.flat()));
  const colours = theme();
  const width = slot.plot.clientWidth;
  const tick = width < NARROW ? 10 : 11;
  const longest = Math.max(...names.map((name) => name.length));
  const height = Math.min(98 + 17 * paths.length, 1400);
  const layout = layoutOf(colours, width, height, 20);
  layout.hovermode = "closest";
  layout.margin.l = Math.min(longest * tick * 0.56 + 8, width * 0.46);
  layout.margin.b = 88;
  const cut = Math.floor((layout.margin.l - 8) / (tick * 0.56));
  Object.assign(layout.xaxis, { title: { text: AXES[axis].title, standoff: 4 }, showgrid: false,
    nticks: width < NARROW ? 5 : 9 });
  Object.assign(layout.yaxis, { autorange: "reversed", showgrid: false,
    tickfont: { size: tick }, tickmode: "array", tickvals: paths.map((_, i) => i),
    ticktext: names.map((name) => plain(name.length > cut ? `…${name.slice(1 - cut)}` : name)) });
  const data = [{
    type: "heatmap", x: steps.map((s) => AXES[axis].of(run, s)), y: paths.map((_, i) => i),
    z: scaled, colorscale: signed ? SIGNED : CIVIDIS, hoverongaps: false, zsmooth: false,
    text: rows.map((row, i) => row.map((v) => `${plain(names[i])}: ${format(v)}`)),
    hovertemplate: `%{text}<br>${AXES[axis].title} %{x}<extra></extra>`,
    zmin: limits[0], zmax: limits[1],
    colorbar: { orientation: "h", thickness: 10, len: 1, yref: "container", y: 0, yanchor: "bottom",
      ypad: 2, xpad: 0, outlinewidth: 0, ...barTicks(limits, log, width) },
  }];
  slot.plot.setAttribute("aria-label", `${slot.title} of ${paths.length} layers over ${steps.length} records`);
  Plotly.react(slot.plot, data, layout, CONFIG);
}

/** Where the colours end: a few wild values would leave the others without contrast. */
function usual(values) {
  const known = values.filter((v) => v !== null).sort((a, b) => a - b);
  const rank = (part) => known[Math.round(part * (known.length - 1))];
  const [low, high] = [rank(0.01), rank(0.99)];
  return low < high ? [low, high] : [low - 0.5, low + 0.5];
}

/** The same to both sides of zero, which is the middle colour. */
function around0(values) {
  const most = usual(values.map((v) => (v === null ? null : Math.abs(v))))[1];
  return [-most, most];
}

/** Whether the newest curvature of a layer comes from its activations. */
function isMeasured(run, path) {
  const known = run.curves[`layer/${path}/${MEASURED}`]?.mean;
  return !known || known[known.length - 1] !== 0;
}

/** Ticks of a colour bar in the values themselves, also where the colours are logarithms. */
function barTicks([low, high], log, width) {
  const count = width < NARROW ? 4 : 6;
  // A little inside: a tick beyond the last colour by rounding is not drawn.
  const part = (i) => 0.001 + (0.998 * i) / (count - 1);
  const tickvals = Array.from({ length: count }, (_, i) => low + (high - low) * part(i));
  const value = (v) => Number((log ? 10 ** v : v).toPrecision(2));
  return { tickvals, ticktext: tickvals.map((v) => brief(value(v))) };
}

function layersOf(run, statistic) {
  const end = `/${statistic}`;
  return Object.keys(run.curves).filter((name) => isLayer(name) && name.endsWith(end))
    .map((name) => name.slice("layer/".length, -end.length))
    .sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
}

// ---- the page

const nameSet = (wanted) =>
  [...new Set(runs.flatMap((run) => Object.keys(run.curves)))].filter(wanted).sort();

/** Makes a figure once and remembers how to draw it. */
function keep(parent, id, title, unit, draw) {
  if (parent.querySelector(`[data-plot="${id}"]`)) return;
  const slot = figureIn(parent, title, unit);
  slot.plot.dataset.plot = id;
  DRAWN.set(slot.plot, () => {
    // What is folded away is drawn when it opens.
    if (slot.plot.clientWidth && !slot.plot.closest("details:not([open])")) draw(slot);
  });
}

function body(section, classes = "") {
  const node = document.getElementById(section);
  node.hidden = false;
  return node.querySelector(".plots") ?? element("div", node, "", { class: `plots ${classes}` });
}

function lossPlots() {
  const parent = body("loss");
  if (!parent.childElementCount) axisChoice(parent);
  const unit = lossUnit;
  if (groups.length === 1) {
    if (!nameSet((name) => name === "train/loss").length) return;
    keep(parent, "loss", "Training and validation", `Loss in ${unit}.`, (slot) => {
      const training = linesOf("train/loss").map((line) => ({ ...smoothed(line), label: "training", colour: 0 }));
      const checks = linesOf("eval/loss").map((line) => ({ ...line, label: "validation", colour: 1, markers: true }));
      drawLines(slot, [...training, ...checks], { unit, events: true, note: marksNote() });
    });
    return;
  }
  for (const [name, title] of [["train/loss", "Training"], ["eval/loss", "Validation"]]) {
    const enough = (run) => run.curves[name]?.step.length > 1; // a last value is in the table
    if (!runs.some(enough)) continue;
    keep(parent, name, title, `Loss in ${unit}.`, (slot) => {
      const events = name === "train/loss";
      const lines = linesOf(name).map((line) => (events ? smoothed(line) : { ...line, markers: true }));
      drawLines(slot, lines, { unit, events, note: events ? marksNote() : "" });
    });
  }
}

function marksNote() {
  if (!runs.some((run) => run.events.length)) return "";
  const back = runs.some((run) => run.discarded.length) ? "; grey crosses: taken back by a rollback" : "";
  return ` Numbered marks: see “What happened”${back}.`;
}

function axisChoice(parent) {
  const set = element("fieldset", parent);
  element("legend", set, "Over");
  for (const name of Object.keys(AXES)) {
    const label = element("label", set);
    const input = element("input", label, "", { type: "radio", name: "axis", value: name });
    input.checked = name === axis;
    input.addEventListener("change", () => { axis = name; drawAll(); });
    label.append(` ${name === "tokens" ? AXES.tokens.title : name}`);
  }
  element("span", set, "Drag to zoom, double-click for the whole.", { class: "quiet wide" });
}

/** Metrics that belong together: in one plot of one run, in one plot each of several. */
function logPlots(section, names, own, title, note, unit) {
  if (!names.length) return;
  if (groups.length === 1) {
    const left = names.length > MOST ? ` The first ${MOST} of ${names.length}.` : "";
    keep(body(section), section, title, note + left, (slot) =>
      drawLines(slot, names.slice(0, MOST).flatMap((name, i) =>
        linesOf(name).map((line) => ({ ...line, label: own(name), colour: i, low: null, n: null }))),
      { unit, log: true }));
    return;
  }
  for (const name of names) {
    keep(body(section, "pairs"), name, own(name), note,
      (slot) => drawLines(slot, linesOf(name), { unit, log: true }));
  }
}

function ratePlots() {
  const own = (name) => name.replace(/^optim\//, "").replace(/\/?learning_rate$/, "") || "all";
  const note = "Peak rate times schedule, no unit, log scale.";
  logPlots("rates", nameSet(isRate), own, "By parameter group", note, "");
}

function batchPlots() {
  const own = (name) => (name.startsWith(NOISE) ? `${name.slice(NOISE.length)} noise scale` : "batch size");
  const note = "In rows, log scale. A noise scale as it is measured is at most about the batch.";
  logPlots("batch", nameSet(isBatch).reverse(), own, "Batch and noise scale", note, "rows");
}

function throughputPlots() {
  const parent = body("throughput");
  const [overall, steps] = ["time/overall_tokens_per_sec", "time/tokens_per_sec"];
  const unit = `${item}s/s`;
  if (!nameSet((name) => name === overall).length) return;
  if (groups.length > 1) {
    keep(parent, overall, "Speed", `In ${unit}, from record to record, with evaluations and saves.`,
      (slot) => drawLines(slot, linesOf(overall), { unit }));
    return;
  }
  keep(parent, overall, "Speed",
    `In ${unit}. Overall: from record to record, with evaluations and saves. Steps: steps alone, mean since the start.`,
    (slot) => drawLines(slot, [
      ...linesOf(overall).map((line) => ({ ...line, label: "overall", colour: 0 })),
      ...linesOf(steps).map((line) => ({ ...line, label: "steps", colour: 1 })),
    ], { unit }));
}

function layerPlots() {
  const having = runs.flatMap((run, i) => (Object.keys(run.curves).some(isLayer) ? [i] : []));
  if (!having.length) return;
  mapped ??= having[0];
  const parent = body("layers", "pairs");
  if (having.length > 1 && !parent.parentElement.querySelector("select")) {
    const choice = document.createElement("select");
    choice.setAttribute("aria-label", "run whose layers are shown");
    for (const i of having) element("option", choice, names[i], { value: i });
    choice.addEventListener("change", () => { mapped = Number(choice.value); drawAll(); });
    parent.before(choice);
  }
  const found = new Set(nameSet(isLayer).map((name) => name.slice(name.lastIndexOf("/") + 1)));
  const add = (statistic, where) => {
    const { title, unit, range } = mapOf(statistic);
    const ends = range ? "" : " Colours end at the 1st and 99th percentile.";
    keep(where, `layer-${statistic}`, title, `${unit}.${ends}`,
      (slot) => drawMap(slot, runs[mapped], statistic));
  };
  for (const statistic of Object.keys(LAYERS)) if (found.has(statistic)) add(statistic, parent);
  found.delete(MEASURED);
  const rest = [...found].filter((statistic) => !(statistic in LAYERS)).sort();
  for (const statistic of rest) add(statistic, body("more-layers", "pairs"));
}

const mapOf = (statistic) =>
  LAYERS[statistic] ?? OTHER_LAYERS[statistic] ?? { title: statistic, unit: "Linear scale" };

function otherPlots() {
  const rest = nameSet((name) => !MAIN.has(name) && !isLayer(name) && !isRate(name) && !isBatch(name));
  if (!rest.length) return;
  const parent = body("more", "pairs");
  for (const name of rest) {
    keep(parent, name, name, "", (slot) => drawLines(slot, linesOf(name), { unit: "" }));
  }
}

function drawAll() {
  for (const make of [lossPlots, ratePlots, batchPlots, layerPlots, throughputPlots, otherPlots]) make();
  const any = runs.some((run) => run.curves["train/loss"]);
  body("loss").dataset.empty = any ? "" : "No step was recorded yet.";
  for (const draw of DRAWN.values()) draw();
}

// ---- following

/** Puts the points past `after` in place of those that were there. */
function merge(run, news) {
  for (const [name, curve] of Object.entries(run.curves)) {
    const keepTo = curve.step.findIndex((s) => s > news.after);
    if (keepTo >= 0) for (const column of Object.values(curve)) column.length = keepTo;
    if (!curve.step.length) delete run.curves[name];
  }
  for (const [name, curve] of Object.entries(news.curves)) {
    const old = (run.curves[name] ??= { step: [], mean: [] });
    if (curve.low && !old.low) Object.assign(old, { low: [...old.mean], high: [...old.mean] });
    const full = old.low && !curve.low ? { ...curve, low: curve.mean, high: curve.mean } : curve;
    for (const column of Object.keys(old)) old[column].push(...full[column]);
  }
  Object.assign(run, { at: news.at, discarded: news.discarded, events: news.events });
}

/** Puts other content into a part of the page; what a reader has opened stays open. */
function replace(node, html) {
  if (node.dataset.shown === html) return;
  const open = [...node.querySelectorAll("details")].map((details) => details.open);
  node.innerHTML = html;
  node.dataset.shown = html;
  node.querySelectorAll("details").forEach((details, i) => { details.open = open[i] ?? false; });
}

async function follow() {
  let wait = POLL_MS;
  try {
    const answer = await fetch(`/data?at=${runs.map((run) => run.at).join(",")}`);
    if (!answer.ok) throw new Error(await answer.text());
    const news = await answer.json();
    // A folder holds another run, perhaps of another config: nothing here is right.
    if (news.runs.some((run, i) => run.run !== runs[i].run)) return location.reload();
    for (const id of ["summary", "events"]) replace(document.getElementById(id), news[id]);
    let changed = false;
    news.runs.forEach((run, i) => {
      changed ||= run.at !== runs[i].at || run.events.length !== runs[i].events.length;
      merge(runs[i], run);
    });
    if (changed) drawAll();
    if (!news.alive) wait *= 5; // somebody may start it again
    document.body.dataset.connection = "";
  } catch (error) {
    document.body.dataset.connection = "The server does not answer; the page shows what it had.";
    wait *= 5;
  }
  setTimeout(follow, wait);
}

drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
document.querySelectorAll("details").forEach((node) => node.addEventListener("toggle", drawAll));
let shown = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === shown) return;
  shown = innerWidth;
  drawAll();
});
if (DATA.live) setTimeout(follow, POLL_MS);
