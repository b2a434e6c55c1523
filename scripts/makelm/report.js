// The report's moving parts: the curves (zoom, hover, legend), the sortable table, and what paper needs.
// It draws SVG with the page's own colours, so light, dark and print need no code here.
"use strict";
(() => {
  const $ = (selector) => document.querySelector(selector);
  const runs = JSON.parse($("#series")?.textContent ?? "[]");
  const form = $("#controls"), host = $("#chart"), legend = $("#legend");
  const MARGIN = { left: 46, right: 12, top: 26, bottom: 38 };
  const DASHES = ["", "7 4", "2 3", "9 3 2 3"]; // for the 9th run on, when the colours are used up
  const CLICK = 6; // px; less than that is no drag

  // view.x and view.y are [low, high] in data units, or null for all there is
  const view = { x: null, y: null, hidden: new Set(), cursor: null, only: null };
  let frame = null; // scales of the last drawing

  // ---- data

  const options = () => ({
    curve: form.elements.curve.value,
    over: form.elements.over.value,
    logx: form.elements.logx.checked,
    logy: form.elements.logy.checked,
    smooth: Number(form.elements.smooth.value),
  });

  /** Half the window of the running mean, in points: a share of the whole curve. */
  const halfWindow = (length, smooth) => (smooth ? Math.max(1, Math.round((length * smooth) / 1000)) : 0);

  /**
   * Returns the centred running mean, twice. At the start, where the curve is steep, the window shrinks to stay
   * centred; at the end, where it is flat, it is cut: else the last point would be as noisy as the raw one.
   */
  function smoothed(values, half) {
    for (let pass = 0; pass < 2 && half > 0; pass++) {
      const sums = [0], counts = [0];
      values.forEach((v, i) => {
        sums.push(sums[i] + (v ?? 0));
        counts.push(counts[i] + (v === null ? 0 : 1));
      });
      values = values.map((v, i) => {
        const from = i - Math.min(half, i), to = Math.min(2 * i - from, values.length - 1) + 1;
        return v === null ? null : (sums[to] - sums[from]) / (counts[to] - counts[from]);
      });
    }
    return values;
  }

  /** Returns the lines to draw: one per visible run that has this curve. */
  function lines(o) {
    const found = [];
    runs.forEach((run, number) => {
      const own = run.curves[o.curve];
      if (!own || view.hidden.has(number)) return;
      const half = halfWindow(own.value.length, o.smooth);
      const valid = o.curve === "loss" ? run.curves.validation_loss : null;
      found.push({
        run, number, x: own[o.over], raw: own.value, smooth: smoothed(own.value, half),
        valid: valid ? { x: valid[o.over], y: valid.value } : { x: [], y: [] },
        final: o.curve === "loss" ? { x: run.final[o.over], y: run.final.value } : null,
      });
    });
    return found;
  }

  /** Returns [low, high] of the numbers that pass; a logarithm has no place for zero. */
  function extent(numbers, log) {
    let low = Infinity, high = -Infinity;
    for (const v of numbers) {
      if (v === null || (log && v <= 0)) continue;
      if (v < low) low = v;
      if (v > high) high = v;
    }
    if (low > high) return log ? [1, 10] : [0, 1];
    return low === high ? [low - Math.abs(low || 1) * 0.1, high + Math.abs(high || 1) * 0.1] : [low, high];
  }

  /** Returns a domain a little wider than it is, so that no line runs on the frame. */
  function padded([low, high], log) {
    if (log) return [low * (low / high) ** 0.04, high * (high / low) ** 0.04];
    const room = (high - low) * 0.04;
    return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
  }

  function* visibleValues(line, [from, to]) {
    for (let i = 0; i < line.x.length; i++) if (line.x[i] >= from && line.x[i] <= to) { yield line.raw[i]; yield line.smooth[i]; }
    for (let i = 0; i < line.valid.x.length; i++) if (line.valid.x[i] >= from && line.valid.x[i] <= to) yield line.valid.y[i];
    if (line.final && line.final.x >= from && line.final.x <= to) yield line.final.y;
  }

  // ---- scales

  function scale(domain, from, to, log) {
    const f = log ? Math.log : (v) => v, inverse = log ? Math.exp : (v) => v;
    const a = f(domain[0]), b = f(domain[1]);
    const map = (v) => from + ((f(v) - a) / (b - a)) * (to - from);
    map.invert = (p) => inverse(a + ((p - from) / (to - from)) * (b - a));
    return map;
  }

  function ticks([low, high], most, log) {
    if (log && high / low >= 8) {
      const found = [], decades = Math.log10(high / low);
      const parts = decades * 3 <= most ? [1, 2, 5] : [1];
      const every = Math.max(1, Math.ceil(decades / most));
      for (let k = Math.floor(Math.log10(low)); k <= Math.log10(high); k += 1) {
        if (((k % every) + every) % every) continue;
        for (const m of parts) if (m * 10 ** k >= low && m * 10 ** k <= high) found.push(m * 10 ** k);
      }
      return found;
    }
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * ([1, 2, ...(power >= 10 ? [2.5] : []), 5, 10].find((m) => m * power >= rough) ?? 10);
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  }

  function short(v) {
    const size = Math.abs(v);
    for (const [limit, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]]) {
      if (size >= limit) return `${Number((v / (unit === "k" ? 1e3 : limit)).toPrecision(4))}${unit}`;
    }
    return size > 0 && size < 1e-3 ? v.toExponential(1).replace(/\.0e/, "e") : String(Number(v.toPrecision(4)));
  }

  const exact = (v) => (v === null || v === undefined ? "–" : Math.abs(v) >= 1e-2 && Math.abs(v) < 1e3 ? v.toFixed(3) : short(v));
  const whole = (v) => Math.round(v).toLocaleString("en-US");

  // ---- drawing

  function element(name, attributes = {}, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  /** Returns a path through the points in sight; where many share a pixel, through the least and the greatest of them. */
  function path(xs, ys, x, y, domain, logy) {
    let text = "", pen = false, column = null, least, greatest, first, last;
    const flush = () => {
      if (column === null) return;
      for (const v of least === greatest ? [least] : first === least ? [least, greatest, last] : [greatest, least, last]) {
        text += `${pen ? "L" : "M"}${column.toFixed(1)} ${y(v).toFixed(1)}`;
        pen = true;
      }
      column = null;
    };
    const dense = xs.length > 1500;
    for (let i = 0; i < xs.length; i++) {
      // one point beyond either end, so that the line reaches the frame
      if ((xs[i + 1] ?? Infinity) < domain[0] || (xs[i - 1] ?? -Infinity) > domain[1]) continue;
      const v = ys[i];
      if (v === null || (logy && v <= 0)) { flush(); pen = false; continue; }
      const exactly = x(xs[i]);
      if (!Number.isFinite(exactly)) continue;
      const px = dense ? Math.round(exactly) : exactly;
      if (px !== column) { flush(); column = px; least = greatest = first = v; }
      least = Math.min(least, v); greatest = Math.max(greatest, v); last = v;
    }
    flush();
    return text;
  }

  /** Returns the places of numbers with none beside them, to which no line leads. */
  function alone(values) {
    const none = (v) => v === null || v === undefined;
    return values.flatMap((v, i) => (!none(v) && none(values[i - 1]) && none(values[i + 1]) ? [i] : []));
  }

  function draw() {
    const o = options(), found = lines(o);
    const width = Math.max(280, host.clientWidth), height = Math.round(Math.min(420, Math.max(260, width * 0.48)));
    const all = extent(found.flatMap((l) => [...l.x, ...(l.final ? [l.final.x] : [])]), o.logx);
    if (!o.logx && all[0] > 0 && all[0] < all[1] / 50) all[0] = 0; // the first step is as good as the start
    const dx = view.x ?? all;
    const dy = view.y ?? padded(extent(found.flatMap((l) => [...visibleValues(l, dx)]), o.logy), o.logy);
    const x = scale(dx, MARGIN.left, width - MARGIN.right, o.logx), y = scale(dy, height - MARGIN.bottom, MARGIN.top, o.logy);
    frame = { o, found, width, height, all, dx, dy, x, y };
    const name = form.elements.curve.selectedOptions[0].textContent;
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name} over ${o.over === "step" ? "steps" : "tokens"}` });
    svg.append(axes(name), curves(), element("g", { class: "over" }));
    host.querySelector("svg")?.remove();
    host.prepend(svg);
    form.elements.reset.disabled = !view.x && !view.y;
    describeSmoothing();
    drawCursor();
  }

  function axes(name) {
    const { o, width, height, dx, dy, x, y } = frame, group = element("g");
    const bottom = height - MARGIN.bottom, right = width - MARGIN.right;
    for (const v of ticks(dy, height / 45, o.logy)) {
      group.append(element("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(v), y2: y(v) }));
      group.append(element("text", { x: MARGIN.left - 8, y: y(v) + 4, "text-anchor": "end" }, short(v)));
    }
    for (const v of ticks(dx, width / 75, o.logx)) {
      group.append(element("line", { class: "grid", x1: x(v), x2: x(v), y1: bottom, y2: bottom + 4 }));
      group.append(element("text", { x: x(v), y: bottom + 17, "text-anchor": "middle" }, short(v)));
    }
    group.append(element("text", { x: right, y: height - 4, "text-anchor": "end" }, o.over === "step" ? "steps" : "tokens"));
    group.append(element("text", { x: 0, y: 12 }, name));
    return group;
  }

  function curves() {
    const { o, found, width, height, dx, x, y } = frame, group = element("g", { "clip-path": "url(#inside)", style: `--raw: ${0.3 / Math.sqrt(found.length)}` });
    const inside = { x: MARGIN.left, y: MARGIN.top, width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    const edge = view.x ? 1 : 7; // a marker at either end is whole
    const clip = element("clipPath", { id: "inside" }, element("rect", { x: inside.x - edge, width: inside.width + 2 * edge, y: inside.y - 6, height: inside.height + 7 }));
    group.append(element("defs", {}, clip));
    for (const line of found) {
      const own = element("g", { class: `c${line.run.colour}${view.only !== null && view.only !== line.number ? " dim" : ""}` });
      const dash = { "stroke-dasharray": DASHES[Math.floor(line.number / 8) % DASHES.length] };
      if (o.smooth > 0) own.append(element("path", { class: "raw", d: path(line.x, line.raw, x, y, dx, o.logy) }));
      own.append(element("path", { class: "smooth", ...dash, d: path(line.x, line.smooth, x, y, dx, o.logy) }));
      alone(line.smooth).filter((i) => !o.logy || line.smooth[i] > 0).forEach((i) => {
        own.append(element("circle", { class: "alone", cx: x(line.x[i]), cy: y(line.smooth[i]), r: 2.5 }));
      });
      own.append(element("path", { class: "valid", d: path(line.valid.x, line.valid.y, x, y, dx, o.logy) }));
      line.valid.x.forEach((v, i) => {
        if (line.valid.y[i] !== null) own.append(element("circle", { class: "point", cx: x(v), cy: y(line.valid.y[i]), r: 4 }));
      });
      if (line.final?.y) own.append(element("path", { class: "point", d: `M${x(line.final.x)} ${y(line.final.y)}m0-6l6 6l-6 6l-6-6z` }));
      group.append(own);
    }
    return group;
  }

  function describeSmoothing() {
    const { found, o } = frame, own = found[0]?.run.curves[o.curve];
    const half = own ? halfWindow(own.value.length, o.smooth) * own.each : 0;
    form.querySelector("output").textContent = half ? `± ${whole(half)} points` : "off";
  }

  // ---- the cursor: what the curves say at one place

  function nearest(xs, at) {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < at) low = middle; else high = middle;
    }
    return at - xs[low] < xs[high] - at ? low : high;
  }

  function drawCursor() {
    const layer = host.querySelector(".over");
    let tip = host.querySelector(".tip");
    layer.replaceChildren();
    if (view.cursor === null || !frame.found.length) { tip?.remove(); return; }
    const { found, x, y, height } = frame;
    const lead = found.find((l) => l.number === view.only) ?? found[0];
    const at = lead.x[nearest(lead.x, x.invert(view.cursor))], px = x(at);
    layer.append(element("line", { class: "cross", x1: px, x2: px, y1: MARGIN.top, y2: height - MARGIN.bottom }));
    const rows = found.filter((l) => l.x[0] <= at && l.x[l.x.length - 1] >= at).map((line) => {
      const i = nearest(line.x, at), value = line.smooth[i];
      if (value !== null) layer.append(element("circle", { class: `point c${line.run.colour}`, cx: x(line.x[i]), cy: y(value), r: 4 }));
      return { line, i, value };
    });
    if (!tip) { tip = document.createElement("div"); tip.className = "tip"; host.append(tip); }
    tip.replaceChildren(tipTable(rows, at));
    const left = px + 14 + tip.offsetWidth > frame.width ? px - 14 - tip.offsetWidth : px + 14;
    tip.style.transform = `translate(${Math.max(0, left)}px, ${MARGIN.top}px)`;
  }

  function tipTable(rows, at) {
    const { o } = frame, table = document.createElement("table"), valid = rows.some((r) => r.line.valid.x.length);
    const add = (parent, kind, texts) => {
      const row = parent.insertRow();
      texts.forEach((text) => { const cell = document.createElement(kind); cell.append(text); row.append(cell); });
    };
    const lead = rows[0]?.line.run.curves[o.curve], where = lead ? lead : { step: [at], tokens: [at] };
    const i = rows[0]?.i ?? 0;
    add(table.createTHead(), "th", [`step ${whole(where.step[i])}, ${short(where.tokens[i])} tokens`, ...(o.smooth ? ["smooth"] : []), "here", ...(valid ? ["validation"] : [])]);
    const body = table.createTBody();
    rows.sort((a, b) => (a.value ?? Infinity) - (b.value ?? Infinity)).slice(0, 12).forEach(({ line, i: own, value }) => {
      const name = document.createElement("span"), swatch = document.createElement("i"), cut = document.createElement("span");
      const text = document.createElement("bdi");
      name.className = "who";
      swatch.className = `swatch c${line.run.colour}`;
      cut.className = "cut";
      text.append(line.run.name);
      cut.append(text);
      name.append(swatch, cut);
      const v = line.valid.x.length ? exact(line.valid.y[nearest(line.valid.x, at)]) : "–";
      add(body, "td", [name, ...(o.smooth ? [exact(value)] : []), exact(line.raw[own]), ...(valid ? [v] : [])]);
    });
    return table;
  }

  // ---- zoom

  function setView(x, y) {
    const [low, high] = frame.all;
    if (x) {
      x = [Math.max(low, x[0]), Math.min(high, x[1])];
      // a few steps must stay in sight, or there is nothing to see
      if (!(x[1] - x[0] > (high - low) * 1e-4)) return;
      if (x[0] <= low && x[1] >= high) x = null;
    }
    view.x = x; view.y = y;
    draw();
  }

  /** Zooms the horizontal axis by a factor around a pixel. */
  function zoom(factor, px) {
    const { x, width } = frame, from = MARGIN.left, to = width - MARGIN.right;
    setView([x.invert(px - (px - from) * factor), x.invert(px + (to - px) * factor)], view.y);
  }

  /** Moves the sight by a share of its width, and not beyond the ends. */
  function pan(share) {
    const { o, dx, all } = frame, f = o.logx ? Math.log : (v) => v, back = o.logx ? Math.exp : (v) => v;
    const span = f(dx[1]) - f(dx[0]);
    const move = Math.min(f(all[1]) - f(dx[1]), Math.max(f(all[0]) - f(dx[0]), span * share));
    setView([back(f(dx[0]) + move), back(f(dx[1]) + move)], view.y);
  }

  const place = (event) => { const box = host.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  const pointers = new Map();
  let start = null, pinch = null;

  function pointerDown(event) {
    pointers.set(event.pointerId, place(event));
    if (event.pointerType === "mouse" && event.button === 0) {
      start = place(event);
      host.setPointerCapture(event.pointerId);
    } else if (pointers.size === 2) {
      const [a, b] = [...pointers.values()].map((p) => p[0]);
      pinch = { x: frame.x, values: [frame.x.invert(a), frame.x.invert(b)] };
    }
    move(event);
  }

  function move(event) {
    const at = place(event);
    if (pointers.has(event.pointerId)) pointers.set(event.pointerId, at);
    if (pinch && pointers.size === 2) return pinchTo();
    view.cursor = Math.min(frame.width - MARGIN.right, Math.max(MARGIN.left, at[0]));
    drawCursor();
    if (start) {
      const [x, y, w, h] = box(start, at);
      host.querySelector(".over").append(element("rect", { class: "brush", x, y, width: w, height: h }));
    }
  }

  /** Returns left, top, width and height of what was dragged; a flat drag means the whole height. */
  function box(from, to) {
    const inX = (v) => Math.min(frame.width - MARGIN.right, Math.max(MARGIN.left, v));
    const inY = (v) => Math.min(frame.height - MARGIN.bottom, Math.max(MARGIN.top, v));
    const flat = Math.abs(to[1] - from[1]) < 24;
    const xs = [inX(from[0]), inX(to[0])], ys = flat ? [MARGIN.top, frame.height - MARGIN.bottom] : [inY(from[1]), inY(to[1])];
    return [Math.min(...xs), Math.min(...ys), Math.abs(xs[1] - xs[0]), Math.abs(ys[1] - ys[0]), flat];
  }

  function pinchTo() {
    // the two values that were touched stay under the two fingers
    const [a, b] = [...pointers.values()].map((p) => p[0]);
    if (Math.abs(a - b) < 20) return;
    const f = frame.o.logx ? Math.log : (v) => v, back = frame.o.logx ? Math.exp : (v) => v;
    const per = (f(pinch.values[1]) - f(pinch.values[0])) / (b - a), origin = f(pinch.values[0]) - a * per;
    setView([back(origin + MARGIN.left * per), back(origin + (frame.width - MARGIN.right) * per)], null);
  }

  function pointerUp(event) {
    pointers.delete(event.pointerId);
    if (pointers.size < 2) pinch = null;
    if (!start) return;
    const [x, y, w, h, flat] = box(start, place(event));
    start = null;
    if (w < CLICK || event.type === "pointercancel") return drawCursor();
    setView([frame.x.invert(x), frame.x.invert(x + w)], flat ? view.y : [frame.y.invert(y + h), frame.y.invert(y)]);
  }

  function pressed(event) {
    const middle = (MARGIN.left + frame.width - MARGIN.right) / 2;
    const keys = {
      "+": () => zoom(0.7, middle), "=": () => zoom(0.7, middle), "-": () => zoom(1 / 0.7, middle),
      ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2), Escape: () => setView(null, null), 0: () => setView(null, null),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  function listen() {
    host.addEventListener("pointerdown", pointerDown);
    host.addEventListener("pointermove", move);
    host.addEventListener("pointerup", pointerUp);
    host.addEventListener("pointercancel", pointerUp);
    host.addEventListener("pointerleave", () => { if (!start) { view.cursor = null; drawCursor(); } });
    host.addEventListener("dblclick", () => setView(null, null));
    host.addEventListener("keydown", pressed);
    host.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the wheel alone scrolls the page
      event.preventDefault();
      zoom(Math.exp(Math.sign(event.deltaY) * 0.15), place(event)[0]);
    }, { passive: false });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      // what was zoomed to means nothing on another axis
      if (["over", "logx"].includes(event.target.name)) view.x = null;
      if (["curve", "logy"].includes(event.target.name)) view.y = null;
      draw();
    });
    const middle = () => (MARGIN.left + frame.width - MARGIN.right) / 2;
    form.elements.in.addEventListener("click", () => zoom(0.7, middle()));
    form.elements.out.addEventListener("click", () => zoom(1 / 0.7, middle()));
    form.elements.reset.addEventListener("click", () => setView(null, null));
    new ResizeObserver(() => { if (host.clientWidth !== frame.width) draw(); }).observe(host);
  }

  // ---- legend

  function sign(kind) {
    const marks = { thin: element("line", { class: "thin", x1: 0, x2: 24, y1: 6, y2: 6 }), line: element("line", { x1: 0, x2: 24, y1: 6, y2: 6 }) };
    marks.circle = element("circle", { cx: 12, cy: 6, r: 4 });
    marks.diamond = element("path", { d: "M12 0l6 6l-6 6l-6-6z" });
    return element("svg", { viewBox: "0 0 24 12", "aria-hidden": "true" }, marks[kind]);
  }

  function drawLegend() {
    if (runs.length > 1) runs.forEach((run, number) => legend.append(toggle(run, number)));
    const each = Math.max(...runs.map((run) => run.curves.loss.each));
    const keys = [["line", "training, smoothed"], ["thin", `training, ${each > 1 ? `mean of up to ${each} steps` : "each step"}`]];
    if (runs.some((run) => run.curves.validation_loss)) keys.push(["circle", "validation while training"]);
    keys.push(["diamond", "all validation documents, after training"]);
    for (const [kind, text] of keys) {
      const key = document.createElement("span");
      key.className = "key";
      key.append(sign(kind), text);
      legend.append(key);
    }
  }

  function toggle(run, number) {
    const button = document.createElement("button"), mark = sign("line");
    button.type = "button";
    button.className = `c${run.colour}`;
    button.setAttribute("aria-pressed", "true");
    button.title = "show or hide";
    mark.firstChild.setAttribute("stroke-dasharray", DASHES[Math.floor(number / 8) % DASHES.length]);
    button.append(mark, run.name);
    const only = (value) => () => { view.only = value; draw(); };
    button.addEventListener("click", () => {
      if (!view.hidden.delete(number)) view.hidden.add(number);
      button.setAttribute("aria-pressed", String(!view.hidden.has(number)));
      draw();
    });
    button.addEventListener("pointerenter", only(number));
    button.addEventListener("pointerleave", only(null));
    return button;
  }

  // ---- the table

  function sortBy(header, table) {
    const column = [...header.parentNode.children].indexOf(header);
    const up = header.getAttribute("aria-sort") !== "ascending", body = table.tBodies[0];
    const value = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      // numbers before words, and what is missing always last
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = Number.isNaN(Number(x)) || Number.isNaN(Number(y)) ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
      return up ? order : -order;
    };
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...[...body.rows].sort(compare));
  }

  // ---- start

  for (const table of document.querySelectorAll("table.runs")) {
    for (const button of table.tHead.querySelectorAll("button")) button.addEventListener("click", () => sortBy(button.parentNode, table));
  }
  // a link to a run opens its parts; paper shows everything
  const openTarget = () => document.getElementById(decodeURIComponent(location.hash.slice(1)))?.querySelectorAll("details.part").forEach((part) => { part.open = true; });
  addEventListener("hashchange", openTarget);
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details.part:not([open])")];
    closed.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));
  openTarget();
  if (!runs.length) return;
  for (const option of [...form.elements.curve.options]) if (!runs.some((run) => run.curves[option.value])) option.remove();
  form.hidden = document.getElementById("how").hidden = false;
  listen();
  drawLegend();
  draw();
})();
