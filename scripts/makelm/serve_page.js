// The page to try a model: asks the API of the server that it came from, and shows what comes, token by token.
// A text is {prompt, tokens, seeds, end, view}; a token {text, logprob, others: [[text, logprob], ...], own, chosen}, where
// own is the one of others that it is.
"use strict";
(() => {
  const $ = (selector) => document.querySelector(selector);
  const form = $("#ask"), panel = $("#panel"), { run, levels } = document.currentScript.dataset;
  const BOUNDS = JSON.parse(levels).map(Math.log);
  const ALTERNATIVES = 5;
  const PART = /^bytes:(\\x[0-9a-f]{2})+$/; // what the server calls a token that is no whole character
  const DWELL = 120, LINGER = 350; // ms until the panel follows the pointer to a token, and until it goes
  const KEPT = `makelm ${run}`, TOKEN = "makelm token";

  let model = null; // what the server says of it
  let texts = []; // those on the page
  let work = null; // what is being written: {abort, targets, stops, began, first, tokens, early}
  let past = []; // the texts before each change

  /** Returns a storage, or a substitute where the browser keeps nothing. */
  const storage = (name) => { try { return window[name]; } catch { return {}; } };
  const local = storage("localStorage"), session = storage("sessionStorage");

  function make(tag, name, ...children) {
    const node = document.createElement(tag);
    node.className = name;
    node.append(...children);
    return node;
  }

  // ---- text and numbers as people read them, as pages.py has them

  const sign = (c) => (c === "\x7f" ? "␡" : c > "\x7f" ? "\ufffd" : String.fromCharCode(0x2400 + c.charCodeAt(0)));
  const visible = (text) => text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, sign);
  const spaces = (run) => (run.length > 4 ? `␣×${run.length}` : "␣".repeat(run.length));
  const signs = (text) => visible(text.replace(/ +/g, spaces).replaceAll("\n", "⏎").replaceAll("\t", "⇥")) ;
  const whole = (number) => number.toLocaleString("en-US");
  const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
  const count = (number) => (number < 1e4 ? whole(number) : compact.format(number).replace("K", "k"));
  const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
  const plural = (number, word) => `${whole(number)} ${word}${number === 1 ? "" : "s"}`;

  const percent = (share) => (share < 1e-4 ? "< 0.01 %" : `${(100 * share).toFixed(share < 0.01 ? 2 : 1)} %`);

  // ---- the server

  /** Something that went wrong and is to be told; `field` is the name of the option that it is about. */
  class Failure extends Error {
    constructor(message, field) {
      super(field ? message.replace(`${field}: `, "") : message);
      this.field = field;
    }
  }

  function gone(error) {
    throw error.name === "AbortError" ? error : new Failure("The server does not answer. Is it still running?");
  }

  async function call(path, body, signal) {
    const headers = session[TOKEN] ? { Authorization: `Bearer ${session[TOKEN]}` } : {};
    if (body) headers["Content-Type"] = "application/json";
    const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal }).catch(gone);
    if (!response.ok) throw await refusal(response);
    return response;
  }

  async function refusal(response) {
    const { error } = await response.json().catch(() => ({}));
    if (response.status === 401) {
      $("#key").hidden = false;
      $("#token").focus();
      return new Failure(session[TOKEN] ? "The server does not know this token." : "This server wants a token.");
    }
    if (response.status === 429) {
      const wait = Number(response.headers.get("Retry-After")) || 1;
      return new Failure(`The server has too much to do. Try again in ${plural(wait, "second")}.`);
    }
    return new Failure(error?.message ?? `The server answers ${response.status} ${response.statusText}.`, error?.param);
  }

  /** Yields the chunks of an answer as they come. */
  async function* chunks(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      const { value, done } = await reader.read().catch(gone);
      if (done) throw new Failure("The answer broke off.");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Failure(chunk.error.message, chunk.error.param);
        yield chunk;
      }
    }
  }

  async function meet() {
    model = (await (await call("v1/models")).json()).data[0];
    $("#facts").replaceChildren(...figures({
      parameters: [count(model.parameters)], context: [count(model.context_length), "tokens"], vocabulary: [count(model.vocab_size), "tokens"],
    }));
    const { max_tokens: field } = form.elements;
    field.max = model.max_tokens;
    field.defaultValue = Math.min(field.defaultValue, model.max_tokens);
    changed();
  }

  function figures(facts) {
    return Object.entries(facts).map(([name, [value, unit = ""]]) => make("div", "", make("dt", "", name), make("dd", "", value, " ", make("small", "", unit))));
  }

  // ---- the form

  const numbers = [...form.querySelectorAll("[type=number]")];
  const stops = () => form.elements.stop.value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));

  /** Returns what is asked for, without options that are off. */
  function request() {
    const given = numbers.filter((field) => field.value !== "").map((field) => [field.name, Number(field.value)]);
    return { model: model?.id ?? run, prompt: form.elements.prompt.value, ...Object.fromEntries(given), ...(stops().length ? { stop: stops() } : {}) };
  }

  /** Returns what is wrong with a number, in words. */
  function wrong({ validity, min, max, step }) {
    if (validity.badInput) return "This is no number.";
    if (validity.valueMissing) return "A number is needed here.";
    if (validity.rangeUnderflow || validity.rangeOverflow) return max ? `From ${min} to ${whole(Number(max))}.` : `${min} or more.`;
    return validity.stepMismatch && step === "1" ? "A whole number." : "";
  }

  function blame(field, message) {
    document.getElementById(`${field.name}-wrong`).textContent = message;
    if (message) field.setAttribute("aria-invalid", "true"); else field.removeAttribute("aria-invalid");
  }

  /** Tells what is wrong beside each field, and returns whether nothing is. */
  function check() {
    for (const field of numbers) blame(field, wrong(field));
    const first = numbers.find(wrong);
    if (first) first.closest("details").open = true;
    first?.focus();
    return !first;
  }

  function tell(message) {
    $("#error").textContent = message;
    $("#error").hidden = !message;
  }

  function keep() {
    const fields = [...form.elements].filter((field) => field.name);
    local[KEPT] = JSON.stringify(Object.fromEntries(fields.map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value])));
  }

  function recall() {
    for (const [name, value] of Object.entries(JSON.parse(local[KEPT] ?? "{}"))) {
      const field = form.elements[name];
      if (field) field[field.type === "checkbox" ? "checked" : "value"] = value;
    }
  }

  // ---- the same in other words

  function describe() {
    const { stop, top_k, min_p, repetition_penalty, ...known } = request();
    const body = request(), locked = Boolean(session[TOKEN]), place = new URL("v1", location.href);
    const quoted = `'${JSON.stringify(body, null, 2).replaceAll("'", "'\\''")}'`;
    const header = locked ? ['-H "Authorization: Bearer $MAKELM_TOKEN"'] : [];
    $("#curl").textContent = [`curl ${place}/completions`, ...header, "-H 'Content-Type: application/json'", `-d ${quoted}`].join(" \\\n  ");
    const extra = Object.entries({ top_k, min_p, repetition_penalty }).filter(([, value]) => value !== undefined);
    const named = Object.entries({ ...known, ...(stop && { stop }) }).map(([name, value]) => `    ${name}=${JSON.stringify(value)},`);
    $("#python").textContent = [
      ...(locked ? ["import os", ""] : []),
      "from openai import OpenAI", "",
      `client = OpenAI(base_url="${place}", api_key=${locked ? 'os.environ["MAKELM_TOKEN"]' : '"none"'})`,
      "completion = client.completions.create(", ...named,
      ...(extra.length ? [`    extra_body=${JSON.stringify(Object.fromEntries(extra))},`] : []),
      ")", "for choice in completion.choices:", "    print(choice.text)",
    ].join("\n");
  }

  // ---- texts

  const join = (tokens) => tokens.map((token) => token.text).join("");

  function span(token) {
    const level = BOUNDS.filter((bound) => token.logprob < bound).length;
    const node = make("span", `token p${level}`, visible(token.text));
    if (/^[^\S\n]*\n\s*$/.test(token.text)) node.classList.add("line");
    if (token.chosen) node.classList.add("chosen");
    node.tabIndex = -1;
    return node;
  }

  function view(text, number) {
    const node = $("#text").content.firstElementChild.cloneNode(true), pre = node.querySelector("pre");
    pre.setAttribute("aria-label", `Text ${number + 1}`);
    node.querySelector(".prompt").textContent = visible(text.prompt);
    node.querySelector(".on").addEventListener("click", () => (work?.targets.includes(text) ? stop() : goOn(text)));
    node.querySelector(".copy").addEventListener("click", () => copy(text));
    node.querySelector(".seed").addEventListener("click", () => { form.elements.seed.value = text.seeds[0]; changed(); });
    text.view = node;
    refill(text);
    return node;
  }

  function refill(text) {
    text.view.querySelector(".text").replaceChildren(...text.tokens.map(span));
    reachable(text);
    caption(text);
  }

  /** Lets the tabulator key reach one token of a text; from there arrow keys lead on. */
  function reachable(text) {
    const spans = text.view.querySelector(".text").children;
    if (spans.length && ![...spans].some((node) => node.tabIndex === 0)) spans[0].tabIndex = 0;
  }

  function caption(text) {
    const writing = Boolean(work?.targets.includes(text)) && !text.end, button = text.view.querySelector(".on");
    text.view.classList.toggle("writing", writing);
    text.view.querySelector(".end").textContent = text.end ?? `${plural(text.tokens.length, "token")} …`;
    text.view.querySelector(".seed").textContent = `seed ${text.seeds.join(", ")}`;
    button.textContent = writing ? "Stop" : "Go on";
    button.disabled = Boolean(work) && !writing;
  }

  function show() {
    $("#texts").replaceChildren(...texts.map(view));
    $("#answer").hidden = !texts.length;
    $("#speed").hidden = true;
    hide();
  }

  /** Returns a token. It is among its alternatives, which are called otherwise than its text where that is part of a character. */
  function token(text, logprob, likely) {
    const others = Object.entries(likely).sort((a, b) => b[1] - a[1]);
    const distance = ([, value]) => Math.abs(value - logprob);
    const own = others.find(([word]) => word === text) ?? others.reduce((a, b) => (distance(b) < distance(a) ? b : a));
    return { text, logprob, others, own };
  }

  function add(text, { tokens, token_logprobs, top_logprobs }) {
    const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 20;
    const added = tokens.map((word, i) => token(word, token_logprobs[i], top_logprobs[i]));
    text.tokens.push(...added);
    text.view.querySelector(".text").append(...added.map(span));
    reachable(text);
    if (atEnd) scrollTo(0, document.documentElement.scrollHeight);
  }

  function end(text, how) {
    text.end ??= `${how} ${plural(text.tokens.length, "token")}`;
  }

  function take({ choices }) {
    for (const { index, logprobs, finish_reason: reason } of choices) {
      const text = work.targets[index];
      if (logprobs) {
        work.first ??= performance.now();
        add(text, logprobs);
        work.tokens += logprobs.tokens.length;
      }
      if (reason) end(text, reason === "length" ? "cut at" : work.stops ? "ended by the model or a stop string after" : "ended by the model after");
      caption(text);
    }
    // the first chunk came without telling how long it took to write
    if (work.first) work.early ??= work.tokens;
    measure();
  }

  function measure() {
    if (!work.first) return;
    const speed = (1000 * (work.tokens - work.early)) / (performance.now() - work.first);
    $("#speed").replaceChildren(...figures({
      tokens: [whole(work.tokens)], "tokens per second": [speed ? count(Math.round(speed)) : "–"], "time to first token": [seconds(work.first - work.began)],
    }));
    $("#speed").hidden = false;
  }

  /** Has texts written on, all from the same prompt, and returns when that has ended. */
  async function ask(prompt, targets, more) {
    tell("");
    const { seed = crypto.getRandomValues(new Uint32Array(1))[0], ...options } = request();
    const own = (work = { abort: new AbortController(), targets, began: performance.now(), first: null, tokens: 0, early: null, stops: Boolean(options.stop) });
    targets.forEach((text, number) => Object.assign(text, { end: null, seeds: [...text.seeds, seed + number] }));
    busy();
    try {
      const body = { ...options, seed, prompt, n: targets.length, stream: true, logprobs: ALTERNATIVES, ...more };
      for await (const chunk of chunks(await call("v1/completions", body, own.abort.signal))) if (work === own) take(chunk);
    } catch (error) {
      if (error instanceof Failure) {
        if (work === own && !own.first) back(); // it was refused: what stood there stays
        fail(error);
      } else if (error.name !== "AbortError") throw error;
    } finally {
      if (work === own) {
        for (const text of targets) end(text, "broken off after");
        work = null;
        busy();
        $("#state").textContent = `${plural(own.tokens, "token")} in ${seconds(performance.now() - own.began)}`;
      }
    }
  }

  function fail(failure) {
    const field = form.elements[failure.field];
    if (field) blame(field, failure.message); else tell(failure.message);
    field?.closest("details")?.setAttribute("open", "");
  }

  function busy() {
    texts.forEach(caption);
    $("#write").textContent = work ? "Stop" : "Write";
    $("#state").textContent = work ? "writing …" : "";
    $("#clear").disabled = !texts.length && !form.elements.prompt.value;
    $("#undo").disabled = !past.length;
  }

  function stop() {
    if (!work) return;
    work.abort.abort();
    for (const text of work.targets) end(text, "stopped after");
    work = null;
    busy();
    $("#state").textContent = "stopped";
  }

  /** Keeps the texts as they are, to come back to. */
  function remember() {
    past.push({ prompt: form.elements.prompt.value, texts: texts.map((text) => ({ ...text, tokens: [...text.tokens] })) });
    past = past.slice(-50);
  }

  /** Returns whether something new can be written, and ends what is being written. */
  function ready() {
    if (!check()) return false;
    stop();
    remember();
    return true;
  }

  function write() {
    if (!ready()) return;
    const { prompt, n } = request();
    texts = Array.from({ length: n }, () => ({ prompt, tokens: [], seeds: [] }));
    show();
    ask(prompt, texts);
  }

  /** Has a text written on from its end; of a long one, the model reads as much as it can. */
  function writeOn(text) {
    ask(text.prompt + join(text.tokens), [text], { truncate_prompt_tokens: -1 });
  }

  function goOn(text) {
    if (ready()) writeOn(text);
  }

  /** Puts another token in the place of one, and goes on from there; where a text can end, that ends it. */
  function rewrite(text, place, other) {
    if (!ready()) return;
    if (other[0] === model.end_of_text) return cut(text, place);
    text.tokens = [...text.tokens.slice(0, place), { ...text.tokens[place], text: other[0], logprob: other[1], own: other, chosen: true }];
    refill(text);
    hide();
    text.view.querySelector(".on").focus();
    writeOn(text);
  }

  function cut(text, place) {
    text.tokens = text.tokens.slice(0, place);
    text.end = null;
    end(text, "ended by you after");
    refill(text);
    hide();
    busy();
  }

  /** Brings the texts back that were there before. */
  function back() {
    stop();
    const before = past.pop();
    texts = before.texts;
    form.elements.prompt.value ||= before.prompt;
    show();
    changed();
  }

  function clear() {
    remember();
    stop();
    texts = [];
    form.elements.prompt.value = "";
    show();
    changed();
    form.elements.prompt.focus();
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text.prompt + join(text.tokens));
      $("#state").textContent = "copied";
    } catch {
      // a browser keeps its clipboard to itself where the page came by plain http from elsewhere
      getSelection().selectAllChildren(text.view.querySelector("pre"));
      $("#state").textContent = "selected: Ctrl+C copies it";
    }
  }

  // ---- the panel: what else could have stood in a token's place

  let shown = null, timer = null; // shown: {node, text, place, pinned}

  function locate(node) {
    const text = texts.find(({ view: own }) => own.contains(node));
    return { text, place: [...node.parentNode.children].indexOf(node) };
  }

  function open(node, pinned) {
    clearTimeout(timer);
    if (shown?.node === node) { shown.pinned ||= pinned; return; }
    hide();
    const { text, place } = locate(node);
    shown = { node, text, place, pinned };
    node.classList.add("shown");
    panel.replaceChildren(...contents(text.tokens[place]));
    panel.hidden = false;
    put(node);
  }

  /** Puts the panel below a token, or above it where there is no room; on a narrow page the style sheet has it at the bottom. */
  function put(node) {
    if (getComputedStyle(panel).position === "fixed") {
      if (shown.pinned) node.scrollIntoView({ block: "nearest" });
      return;
    }
    const lines = node.getClientRects(), word = lines[lines.length - 1], around = $("#answer").getBoundingClientRect();
    const above = word.bottom + panel.offsetHeight + 8 > innerHeight && word.top > panel.offsetHeight;
    panel.style.left = `${Math.max(0, Math.min(word.left - around.left, around.width - panel.offsetWidth))}px`;
    panel.style.top = `${(above ? word.top - panel.offsetHeight - 2 : word.bottom + 2) - around.top}px`;
  }

  function contents(token) {
    const close = make("button", "close", "✕"), list = make("ol", "bars");
    close.type = "button";
    close.setAttribute("aria-label", "Close");
    close.addEventListener("click", leave);
    list.append(...token.others.map((other) => row(other, other === token.own)));
    const rest = 1 - token.others.reduce((sum, [, logprob]) => sum + Math.exp(logprob), 0);
    if (rest > 5e-4) list.append(make("li", "", make("span", "rest", ...cells("all others", rest))));
    return [make("header", "", make("span", "word", signs(token.own[0])), percent(Math.exp(token.logprob)), close), list];
  }

  function row(other, own) {
    const [word, logprob] = other, button = make("button", own ? "own" : "", ...cells(signs(word), Math.exp(logprob)));
    button.type = "button";
    button.disabled = own || PART.test(word);
    button.addEventListener("click", () => rewrite(shown.text, shown.place, other));
    return make("li", "", button);
  }

  function cells(word, share) {
    const bar = make("span", "bar");
    bar.style.width = `${100 * share}%`;
    return [make("span", "word", word), make("span", "track", bar), make("span", "value", percent(share))];
  }

  function hide() {
    clearTimeout(timer);
    shown?.node.classList.remove("shown");
    shown = null;
    panel.hidden = true;
  }

  /** Closes the panel, and goes back to the token where the focus was in the panel. */
  function leave() {
    const node = panel.contains(document.activeElement) ? shown.node : null;
    node?.focus();
    hide();
  }

  function pointed(event) {
    if (event.pointerType !== "mouse" || shown?.pinned) return;
    const node = event.target.closest(".token");
    clearTimeout(timer);
    if (node) timer = setTimeout(open, DWELL, node, false);
    else if (!panel.contains(event.target)) timer = setTimeout(hide, LINGER);
  }

  function pressed(event) {
    const inPanel = panel.contains(event.target), node = inPanel ? null : event.target.closest(".token");
    const all = inPanel ? [...panel.querySelectorAll(".bars button:enabled")] : node ? [...node.parentNode.children] : [];
    const at = all.indexOf(inPanel ? event.target.closest("button") : node);
    const keys = inPanel ? { ArrowDown: at + 1, ArrowUp: at - 1 } : { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 };
    if (event.key in keys) all[keys[event.key]]?.focus();
    else if (node && ["Enter", " ", "ArrowDown"].includes(event.key)) panel.querySelector(".bars button:enabled")?.focus();
    else return;
    event.preventDefault();
  }

  function focused({ target }) {
    if (target.classList.contains("token")) {
      for (const node of target.parentNode.children) node.tabIndex = node === target ? 0 : -1;
      open(target, true);
    } else if (shown && !panel.contains(target)) hide();
  }

  // ---- start

  function changed() {
    for (const field of numbers) blame(field, wrong(field));
    blame(form.elements.prompt, "");
    blame(form.elements.stop, "");
    busy();
    $("#texts").classList.toggle("plain", !form.elements.shaded.checked);
    keep();
    describe();
  }

  function listen() {
    form.addEventListener("submit", (event) => { event.preventDefault(); if (work) stop(); else write(); });
    form.addEventListener("input", changed);
    $("#undo").addEventListener("click", back);
    $("#clear").addEventListener("click", clear);
    $("#token").addEventListener("change", () => { session[TOKEN] = $("#token").value.replace(/[^!-~]/g, ""); begin(); });
    addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
      if (event.key === "Escape") { if (shown) leave(); else stop(); }
    });
    $("#answer").addEventListener("keydown", pressed);
    addEventListener("focusin", focused);
    $("#texts").addEventListener("click", (event) => { const node = event.target.closest(".token"); if (node) { node.focus(); open(node, true); } });
    addEventListener("pointerover", pointed);
    addEventListener("pointerdown", ({ target }) => { if (shown && !panel.contains(target) && !target.closest(".token")) hide(); });
    addEventListener("resize", () => { if (shown) put(shown.node); });
  }

  async function begin() {
    tell("");
    await meet().catch((error) => { if (error instanceof Failure) fail(error); else throw error; });
  }

  recall();
  listen();
  changed();
  if (matchMedia("(max-width: 56rem)").matches) $(".options").open = false;
  begin();
})();
