// Growth of a number in a second, since the poll before.
const rate = (of) => () => {
  const [before, now] = polls.slice(-2);
  return now && ((of(now) - of(before)) / (now.stats.uptime_ms - before.stats.uptime_ms)) * 1000;
};
const counter = (key) => rate(({ stats }) => stats.counters[key]);
const latest = (of) => () => of(polls.at(-1));
const stat = (key) => latest(({ stats }) => stats[key]);
const sample = (key) => ({ samples }) => samples.get(key);

// The quantile of what a histogram has counted in the last polls.
const quantile = (metric, share, window) => () => {
  const before = polls.at(-1 - Math.min(window, polls.length - 1)).samples;
  const buckets = [...polls.at(-1).samples].filter(([key]) => key.startsWith(`${metric}_bucket{`));
  const grown = buckets.map(([key, sum]) => [parseFloat(key.split('"')[1].replace("+Inf", "Infinity")), sum - before.get(key)]);
  const all = grown.at(-1)?.[1];
  if (!all) return null;
  const at = grown.findIndex(([, sum]) => sum >= share * all);
  const [lower, below] = grown[at - 1] ?? [0, 0];
  const [upper, sum] = grown[at];
  return upper === Infinity ? lower : lower + (upper - lower) * ((share * all - below) / (sum - below));
};
const quantiles = (metric, window = 1) => ({ p50: quantile(metric, 0.5, window), p99: quantile(metric, 0.99, window) });

class Chart {
  constructor(title, format, lines) {
    Object.assign(this, { title, format, lines: Object.entries(lines), points: [] });
    this.svg = $("#svg").content.firstElementChild.cloneNode(true);
    [this.value, this.rest] = [el("output"), el("small")];
    this.root = el("figure", {}, el("figcaption", {}, title), this.value, this.svg, this.rest);
    $("#charts").append(this.root);
  }

  add(now) {
    const values = this.lines.map(([, of]) => of()).map((value) => (Number.isFinite(value) ? value : null));
    this.points.push([now, ...values]);
    while (this.points[0][0] < now - SHOWN_MS) this.points.shift();
    const known = this.points.flatMap(([, ...all]) => all).filter((value) => value !== null);
    // Without ticks, for example, there is nothing to show.
    this.root.hidden = !known.length && polls.length > 1;
    const top = Math.max(0, ...known);
    this.lines.forEach((_, line) => this.svg.children[line].setAttribute("d", this.path(now, line, top)));
    const texts = values.map((value) => (value === null ? "–" : this.format(value)));
    const legend = this.lines.map(([label], line) => `${label} ${texts[line]}`.trim());
    const highest = `highest ${this.format(top)}`;
    set(this.value, texts.at(-1));
    this.rest.replaceChildren(...(legend.length > 1 ? legend.map((text) => el("i", {}, text)) : [highest]));
    this.root.title = highest;
    this.svg.ariaLabel = `${this.title}: ${legend.join(", ")}; ${highest}`;
  }

  path(now, line, top) {
    const width = Math.max(now - this.points[0][0], 20_000);
    let step = "M";
    return this.points.map(([at, ...values]) => {
      if (values[line] === null) return (step = "M"), "";
      const to = `${step}${(300 - ((now - at) / width) * 300).toFixed(1)} ${(38 - (top && values[line] / top) * 36).toFixed(1)}`;
      // A point alone is seen, too.
      return step === "M" ? ((step = "L"), `${to}h.1`) : to;
    }).join("");
  }
}

const charts = [
  ["Connections", count, { "": stat("total_connections") }],
  ["Lobbies", count, { "": stat("active_lobbies") }],
  ["Messages received", perSecond(count), { "": counter("messages_in") }],
  ["Frames to members", perSecond(count), { "": counter("frames_out") }],
  ["Bytes", perSecond(bytes), { in: counter("bytes_in"), out: counter("bytes_out") }],
  ["Frames lost", perSecond(count), { dropped: counter("frames_dropped"), replaced: counter("frames_replaced") }],
  ["Joins and leaves", perSecond(count), { joins: counter("joined"), leaves: counter("left") }],
  ["Duration of turns", span, quantiles("lobbyd_turn_seconds")],
  ["Load of the loop", (share) => `${(share * 100).toFixed(1)} %`, { "": rate(sample("lobbyd_turn_seconds_sum")) }],
  ["Ping latency, 30 s", span, quantiles("lobbyd_ping_latency_seconds", WINDOW)],
  ["Health latency, 30 s", span, quantiles("lobbyd_health_latency_seconds", WINDOW)],
  ["Lateness of ticks", span, quantiles("lobbyd_tick_lateness_seconds")],
  ["Members that lag", count, { "": latest(sample("lobbyd_lagging_connections")) }],
  ["Memory", bytes, { "": latest(sample("process_resident_memory_bytes")) }],
].map((chart) => new Chart(...chart));
