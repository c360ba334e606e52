// The page: pictures come in, the network runs in the browser, a card shows what it says.

import { doubts } from "./doubts.js";
import { overlayOf, placeOf } from "./map.js";
import { PictureError, readPicture } from "./picture.js";

const LANGUAGES = ["en", "id"];
const CLASSES = ["cardiomegaly", "pneumothorax"]; // of probability 0 and 1
const LEAST_IMAGES = 20; // of validation; of fewer no share is told

// Of a page that is loaded: nothing may be fetched or sent any more.
const CLOSED =
  "default-src 'none'; script-src 'wasm-unsafe-eval'; style-src 'self'; img-src blob: data:; " +
  "form-action 'none'; base-uri 'none'";

const cards = []; // in the order that they were added; see `addCard`
let language = navigator.languages.map((name) => name.slice(0, 2)).find(known) ?? "en";
let messages = null;
let page = null; // page.json
let networks = null; // sessions `prepare` and `network`, and `Tensor`
let status = { key: "loading", values: {} };
let queue = Promise.resolve(); // pictures are worked on one after the other

const at = (id) => document.getElementById(id);

function known(name) {
  return LANGUAGES.includes(name);
}

// A sentence of messages.json with its braces filled in.
function say(key, values = {}) {
  const sentence = messages[language][key];
  return sentence.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

function number(value, digits) {
  const form = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return new Intl.NumberFormat(language, form).format(value);
}

function percent(value, digits = 1) {
  return `${number(100 * value, digits)}\u00a0%`;
}

// In as many digits as show on which side of the threshold it is.
function besideThreshold(probability) {
  for (let digits = 1; digits < 5; digits++) {
    const shown = percent(probability, digits);
    if (shown !== percent(page.threshold, digits) || probability === page.threshold) return shown;
  }
  return percent(probability, 5);
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// ---- loading

async function load() {
  messages = await fetched("messages.json", "json");
  translate();
  page = await fetched("page.json", "json");
  const [ort, wasm, prepare, network, ...samples] = await Promise.all([
    imported(page.runtime.script),
    fetched(page.runtime.wasm.address, "arrayBuffer", { integrity: page.runtime.wasm.integrity }),
    fetched("prepare.onnx", "arrayBuffer"),
    fetched("network.onnx", "arrayBuffer"),
    ...page.samples.map((sample) => fetched(sample.file, "blob")),
  ]);
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: wasm });
  ort.env.logLevel = "error";
  networks = {
    Tensor: ort.Tensor,
    prepare: await ort.InferenceSession.create(new Uint8Array(prepare)),
    network: await ort.InferenceSession.create(new Uint8Array(network)),
  };
  document.head.append(element("meta", { httpEquiv: "Content-Security-Policy", content: CLOSED }));
  page.samples.forEach((sample, place) => (sample.blob = samples[place]));
  queue = queue.then(warmUp).catch(console.error);
  at("files").disabled = false;
  tell("ready");
  translate();
}

// A first run takes longer than the next ones; it is done while the reader picks a picture.
async function warmUp() {
  const { Tensor, prepare, network } = networks;
  const pictures = new Tensor("uint8", new Uint8Array(page.size ** 2), [1, 1, page.size, page.size]);
  const { square } = await prepare.run({ pictures });
  await network.run({ pictures: square });
}

// A module with a known hash. An import alone would not compare it; after the element has loaded, the
// import takes the module that the element has brought.
async function imported({ address, integrity }) {
  await new Promise((resolve, reject) => {
    const script = element("script", { type: "module", crossOrigin: "anonymous", integrity });
    script.addEventListener("load", resolve);
    script.addEventListener("error", () => reject(new Error(address)));
    script.src = address;
    document.head.append(script);
  });
  return import(address);
}

async function fetched(address, kind, options = {}) {
  const answer = await fetch(address, { credentials: "omit", ...options });
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer[kind]();
}

// ---- language and texts

function translate() {
  document.documentElement.lang = language;
  document.title = say("title");
  for (const node of document.querySelectorAll("[data-text]")) {
    node.textContent = say(node.dataset.text);
  }
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
  }
  at("status").textContent = say(status.key, status.values);
  if (!networks) return;
  at("phantom").hidden = !page.phantom;
  at("phantom").textContent = say("phantom");
  at("map-switch").hidden = !page.map;
  at("legend").hidden = !page.map || !at("map").checked;
  showFacts();
  showSamples();
  cards.forEach(render);
}

// What a screen reader speaks, and the line below the pictures.
function tell(key, values = {}) {
  status = { key, values };
  at("status").textContent = say(key, values);
}

function showFacts() {
  const { name, model, note, source, licence, phantom, counts, threshold, size, validation } = page;
  const facts = [
    ["fact_network", `${model} (${name})${note ? `; ${note}` : ""}`],
    ["fact_data", source],
    ["fact_images", say("images", { ...counts, size })],
    ["fact_licence", phantom ? say("procedural") : licence],
    ["fact_threshold", say("threshold", { threshold: percent(threshold, 0) })],
  ];
  if (validation) {
    const auc = validation.auc === null ? "-" : number(validation.auc, 3);
    const accuracy = percent(validation.accuracy);
    facts.push(["fact_validation", say("validation", { accuracy, auc, n: validation.n })]);
  }
  facts.push(["fact_runtime", say("runtime", page.runtime)]);
  const lines = facts.flatMap(([key, value]) => [
    element("dt", { textContent: say(key) }),
    element("dd", { textContent: value }),
  ]);
  at("facts").replaceChildren(...lines);
  const notes = [];
  if (!page.likeness) notes.push(say("note_likeness"));
  if (!page.map) notes.push(say("note_map"));
  if (!page.sureness) notes.push(say("note_unmeasured"));
  if (altersPixels()) notes.push(say("note_canvas"));
  at("notes").textContent = notes.join(" ");
}

// Some browsers add noise to what is read from a canvas.
function altersPixels() {
  const context = element("canvas", { width: 16, height: 16 }).getContext("2d");
  const drawn = context.createImageData(16, 16);
  drawn.data.forEach((_, i) => (drawn.data[i] = i % 4 === 3 ? 255 : i >> 2));
  context.putImageData(drawn, 0, 0);
  const read = context.getImageData(0, 0, 16, 16).data;
  return drawn.data.some((value, i) => value !== read[i]);
}

function showSamples() {
  const items = page.samples.map((sample, place) => {
    sample.picture ??= URL.createObjectURL(sample.blob);
    const label = say(`sample_${sample.kind}`, { number: place + 1 });
    const button = element(
      "button",
      { type: "button", onclick: () => addFiles([new File([sample.blob], label)]) },
      element("img", { src: sample.picture, alt: "", width: 160, height: 160 }),
      label,
    );
    return element("li", {}, button);
  });
  at("samples").replaceChildren(...items);
}

// ---- pictures

function addFiles(files) {
  for (const [place, file] of files.entries()) {
    const card = { file, name: file.name, inverted: false, node: element("article") };
    card.node.className = "card";
    cards.push(card);
    at("cards").append(card.node);
    render(card);
    work(card);
    if (!place) queue = queue.then(() => card.node.scrollIntoView({ block: "nearest" }));
  }
  at("answers").hidden = cards.length === 0;
}

function work(card) {
  queue = queue.then(async () => {
    if (!cards.includes(card)) return;
    tell("working", { name: card.name });
    await new Promise((resume) => setTimeout(resume)); // let the browser draw
    try {
      await classify(card);
    } catch (error) {
      if (!(error instanceof PictureError)) console.error(error);
      card.failure =
        error instanceof PictureError ? error : new PictureError("failed_network");
    }
    if (!cards.includes(card)) return;
    const focused = card.node.contains(document.activeElement);
    render(card);
    if (focused) card.node.querySelector("button")?.focus();
    announce(card);
  });
}

async function classify(card) {
  const { Tensor, prepare, network } = networks;
  delete card.failure;
  if (!card.picture) {
    const picture = await readPicture(card.file, page.limits);
    const { grey, width, height } = picture;
    const pictures = new Tensor("uint8", grey, [1, 1, height, width]);
    const { square } = await prepare.run({ pictures });
    delete picture.grey; // up to 50 MB
    card.picture = { ...picture, square: square.data };
  }
  const { picture } = card;
  const square = card.inverted ? picture.square.map((value) => 255 - value) : picture.square;
  if (square.every((value) => value === square[0])) {
    throw new PictureError("failed_flat", { grey: square[0] });
  }
  const pictures = new Tensor("uint8", square, [1, 1, page.size, page.size]);
  const answer = await network.run({ pictures });
  card.probability = answer.probability.data[0];
  card.map = answer.map?.data;
  card.warnings = [...picture.warnings, ...doubts(square, picture, card.inverted, page)];
}

// The class that it decides for, and that class's probability.
function decided({ probability }) {
  const positive = probability >= page.threshold;
  return [CLASSES[Number(positive)], positive ? probability : 1 - probability];
}

function announce(card) {
  const name = shownName(card);
  if (card.failure) {
    tell("said_failed", { name, reason: say(card.failure.key, shownValues(card.failure.values)) });
    return;
  }
  const [decision, probability] = decided(card);
  const count = card.warnings.length;
  const warnings = count ? say("said_warnings", { count }) : "";
  tell("said", { name, decision: say(decision), percent: percent(probability), warnings });
}

function shownName(card) {
  return card.inverted ? `${card.name} (${say("inverted")})` : card.name;
}

// ---- cards

function render(card) {
  const parts = [element("h3", { textContent: shownName(card) })];
  if (card.failure) {
    const reason = say(card.failure.key, shownValues(card.failure.values));
    const failure = element("p", { className: "failure" });
    failure.append(element("strong", { textContent: `${say("failed")}. ` }), reason);
    parts.push(failure);
  } else if (card.probability === undefined) {
    parts.push(element("p", { className: "small", textContent: say("working", card) }));
  } else {
    if (card.warnings.length) parts.push(warningsOf(card));
    if (card.inverted || card.warnings.some((warning) => warning.negative)) {
      parts.push(inversionOf(card));
    }
    parts.push(element("div", { className: "body" }, pictureOf(card), answerOf(card)));
    card.node.dataset.probability = card.probability;
  }
  card.node.replaceChildren(...parts);
}

function answerOf(card) {
  const [decision, probability] = decided(card);
  const list = element("dl", {});
  list.setAttribute("aria-label", say("probabilities"));
  for (const [place, name] of CLASSES.entries()) list.append(lineOf(card, place, name));
  const title = decision[0].toUpperCase() + decision.slice(1);
  const answer = element(
    "div",
    {},
    element("p", { className: "decision", textContent: say(title) }),
    list,
    element("p", { textContent: surenessOf(card, probability) }),
  );
  const place = card.map && placeOf(card.map, page.map, decision);
  if (place) {
    const where = say("where", { name: say(decision), place: say(place) });
    answer.append(element("p", { className: "small where", textContent: where }));
  }
  const threshold = percent(page.threshold, 0);
  answer.append(
    element("p", { className: "small", textContent: say("decision", { threshold }) }),
  );
  return answer;
}

function lineOf(card, place, name) {
  const probability = place ? card.probability : 1 - card.probability;
  const title = name[0].toUpperCase() + name.slice(1);
  const shown = place ? besideThreshold(probability) : percent(probability);
  const bar = element("div", { className: `bar ${place ? "second" : "first"}` });
  bar.style.width = `${100 * probability}%`;
  const track = element("div", { className: "track" }, bar);
  track.setAttribute("aria-hidden", "true");
  return element(
    "div",
    { className: "class" },
    element("dt", { textContent: say(title) }),
    element("dd", { textContent: shown }),
    track,
  );
}

// The rule of docs/use_elsewhere.md: the probability of the class it decides for, in four steps.
function surenessOf(card, probability) {
  const level = page.levels.filter((low) => probability >= low).length - 1;
  const sure = say("sure", { sure: say(`sure_${level}`), percent: percent(probability) });
  if (!page.sureness) return sure;
  if (card.warnings.some((warning) => warning.unlike || warning.negative)) {
    return `${sure} ${say("right_unlike")}`;
  }
  const { n, correct } = page.sureness[level];
  if (n < LEAST_IMAGES) return `${sure} ${say("right_few", { n })}`;
  return `${sure} ${say("right", { n, correct, percent: percent(correct / n, 0) })}`;
}

function warningsOf(card) {
  const items = card.warnings.map(({ key, values }) =>
    element("li", { textContent: say(key, shownValues(values)) }),
  );
  return element(
    "div",
    { className: "warnings" },
    element("strong", { textContent: say("warning") }),
    element("ul", {}, ...items),
  );
}

// The button that shows the negative to the network, and back.
function inversionOf(card) {
  const onclick = () => {
    card.inverted = !card.inverted;
    work(card);
  };
  const textContent = say(card.inverted ? "invert_back" : "invert");
  return element("p", {}, element("button", { type: "button", onclick, textContent }));
}

// Numbers of a warning in the form that predict.py gives them.
function shownValues(values = {}) {
  const forms = {
    distance: (value) => number(value, 1),
    limit: (value) => number(value, 1),
    r: (value) => number(value, 2),
    share: (value) => percent(value, 0),
    allowed: (value) => number(value, 0),
  };
  const entries = Object.entries(values);
  return Object.fromEntries(entries.map(([name, value]) => [name, (forms[name] ?? String)(value)]));
}

function pictureOf(card) {
  const { shown } = card.picture;
  const canvas = element("canvas", { width: shown.width, height: shown.height });
  const context = canvas.getContext("2d");
  context.filter = card.inverted ? "invert(1)" : "none";
  context.drawImage(shown, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", say("picture", { name: shownName(card) }));
  const figure = element("div", { className: "picture" }, canvas);
  if (card.map) figure.append(overlayOf(card.map, page.map, shown.width));
  return figure;
}

// ---- what the reader does

at("files").addEventListener("change", () => {
  addFiles([...at("files").files]);
  at("files").value = ""; // so that the same file can be taken again
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault(); // else the browser would open the picture instead of the page
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && networks) addFiles([...event.dataTransfer.files]);
  });
}
at("map").addEventListener("change", () => {
  at("cards").classList.toggle("no-map", !at("map").checked);
  at("legend").hidden = !at("map").checked;
});
at("clear").addEventListener("click", () => {
  cards.length = 0;
  at("cards").replaceChildren();
  at("answers").hidden = true;
  tell("cleared");
  at("pictures").focus();
});
for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    language = button.dataset.language;
    if (messages) translate();
  });
}

load().catch((error) => {
  console.error(error);
  if (messages) tell("failed_load", { reason: error.message });
});
