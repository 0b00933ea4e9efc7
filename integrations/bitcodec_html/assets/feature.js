// The view of one feature.

const CONTEXT_TITLES = {
  top: ["Where it earns most", "Firings whose bit, flipped, would raise the row's squared error most."],
  random: ["A random sample of firings", "Drawn uniformly from all rows in which the feature is on."],
  same_token: ["Off at the same token", "Random rows of the token it is on at most often, where it is off."],
  nearest: ["Nearly on", "Of all rows where it is off, those where turning it on would cost least."],
};

/** Fill the view with a feature. */
function showFeature(data, table, feature) {
  const view = document.getElementById("feature-view");
  const beside = [featureTokens, featureEffects, featureNeighbours]
    .map((part) => part(data, feature)).filter(Boolean);
  view.replaceChildren(
    featureHead(data, table, feature),
    featureFacts(data, feature),
    element("div", { class: "feature-body" },
      featureContexts(data, feature), element("div", { class: "beside" }, ...beside)));
}

function featureHead(data, table, feature) {
  const [before, after] = neighboursInList(table, feature);
  const step = (other, words, key) => other === null ? null
    : element("a", { href: `#feature-${other}`, "aria-keyshortcuts": key },
      `${words} in the list: ${other}`, element("kbd", {}, key));
  const flags = data.flagsOf(feature);
  return element("header", { class: "feature-head" },
    element("h2", { id: "feature-title", tabindex: "-1" }, `Feature ${feature}`,
      ...flags.flatMap((flag) =>
        [" ", element("span", { class: "flag" }, flag.replace("_", " "))])),
    element("nav", { "aria-label": "Neighbours in the list", class: "steps" },
      step(before, "Previous", "p"), step(after, "Next", "n")));
}

function featureFacts(data, feature) {
  const number = (column) => data.number(column, feature);
  const facts = [
    ["On in", `${whole(number("n_on"))} of ${whole(data.page.n_rows)} rows, ` +
      `${percent(number("activity"))} ± ${figure(100 * number("activity_error"), 2)}`],
    ["Entropy", `${figure(number("entropy_bits"))} bits per row`],
    ["A firing costs", `${figure(number("price_on_bits"))} bits, and being off ` +
      `${figure(-Math.log2(1 - number("activity")))}`],
    ["Mean burstiness", `${figure(number("mean_burstiness"))}, of a firing ${figure(number("firing_burstiness"))}`],
    ["Decoder norm", figure(number("decoder_norm"))],
  ];
  if (data.page.has_text) {
    facts.push(
      ["Told by its token", `${share(number("token_share"))} of its cost; it is on at ` +
        `${whole(number("n_tokens"))} different tokens`],
      ["Told by its document", `${share(number("document_share"))} of its cost; it is on in ` +
        `${whole(number("n_documents"))} documents`]);
  }
  const name = data.page.names[feature];
  if (name !== undefined) {
    facts.unshift([`Named by ${data.page.judge}`, `${name || "no name"}; right in ` +
      `${percent(data.page.name_scores[feature])} of held-out contexts, half of them by chance`]);
  }
  return element("dl", { class: "facts" }, ...facts.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

function featureTokens(data, feature) {
  const tokens = data.tokensOf(feature);
  if (tokens.length === 0) return null;
  return element("section", {},
    element("h3", {}, "Tokens"),
    smallTable("On most often at",
      [["token", ""], ["rows on", "number"], ["of the token’s", "number"]],
      tokens.map(({ text, nOn, nRows }) => [chip(text), whole(nOn),
        `${share(nOn / nRows)} of ${whole(nRows)}`])));
}

function featureEffects(data, feature) {
  const [promoted, suppressed] = ["promoted", "suppressed"].map((kind) => data.effectsOf(kind, feature));
  if (!promoted) return null;
  const largest = Math.max(...[...promoted, ...suppressed].map(({ logit }) => Math.abs(logit))) || 1;
  const bars = (effects, caption) => smallTable(caption, [["token", ""], ["change", "number bar"]],
    effects.map(({ text, logit }) => [chip(text), element("span",
      { "--strength": (Math.abs(logit) / largest).toFixed(3) }, figure(logit))]));
  return element("section", { class: "effects" },
    element("h3", {}, "Next token"),
    element("div", { class: "columns" }, bars(promoted, "Promoted"), bars(suppressed, "Suppressed")),
    element("p", { class: "note" }, data.page.effects_note));
}

function featureNeighbours(data, feature) {
  const [nearest, coactive] = ["nearest", "coactive"].map((kind) => data.neighboursOf(kind, feature));
  return element("section", {},
    element("h3", {}, "Related features"),
    element("div", {},
      smallTable("Decoder rows that point alike", [["feature", ""], ["cosine", "number"]],
        nearest.map(({ feature: other, value }) => [featureLink(data, other), figure(value)]), "no other feature"),
      smallTable("Most often on together",
        [["feature", ""], ["phi", "number"], ["rows with both", "number"]],
        coactive.map(({ feature: other, value, nBoth }) =>
          [featureLink(data, other), figure(value), whole(nBoth)]), "none often enough")));
}

const COLOURINGS = [
  ["firing", "firing"], ["burstiness", "burstiness of this feature"], ["price", "price of all features"],
];
const choice = { colouring: "firing", numbers: false }; // kept from feature to feature

/** All contexts, under a choice of colours. */
function featureContexts(data, feature) {
  if (!data.page.has_text) {
    return element("p", { class: "note" }, "The report was measured without text: no contexts.");
  }
  const body = element("div", {});
  const fill = () => {
    body.classList.toggle("numbers", choice.numbers);
    body.replaceChildren(...Object.keys(CONTEXT_TITLES).map((kind) =>
      contextList(data, feature, kind)).filter(Boolean));
  };
  fill();
  return element("section", { class: "contexts" },
    element("h3", {}, "In the text"), colourChoice(fill), body);
}

function colourChoice(changed) {
  const choose = (name, value) => { choice[name] = value; changed(); };
  const colours = COLOURINGS.map(([value, words]) => element("label", {},
    element("input", { type: "radio", name: "colouring", value, checked: value === choice.colouring,
      onchange: () => choose("colouring", value) }), words));
  const numbers = element("label", {}, element("input", { type: "checkbox", checked: choice.numbers,
    onchange: ({ target }) => choose("numbers", target.checked) }), "in numbers too");
  return element("fieldset", { class: "choice" }, element("legend", {}, "Colour tokens by"),
    ...colours, numbers);
}

function contextList(data, feature, kind) {
  const contexts = data.contextsOf(feature, kind);
  if (contexts.length === 0) return null;
  const [title, explained] = CONTEXT_TITLES[kind];
  return element("section", { class: `context-kind ${kind}` },
    element("h4", {}, title), element("p", { class: "note" }, explained),
    element("ol", {}, ...contexts.map((context) => element("li", {},
      contextText(data, feature, context, choice.colouring),
      element("p", { class: "place" }, placeWords(data, context))))));
}

/** Where a context is from: document, position, row, and what the feature is worth there. */
function placeWords(data, { row, margin }) {
  return [
    `document ${data.page.passages[data.rowPassage[row]].document}`,
    `position ${whole(data.rowPosition[row])}`,
    `row ${whole(data.rowNumber[row])}`,
    Number.isNaN(margin) ? null : `margin ${figure(margin)}`,
    `all features cost about ${whole(data.priceOf(row))} bits`,
  ].filter(Boolean).join(" · ");
}
