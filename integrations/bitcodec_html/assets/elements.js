// Building elements. All text goes through textContent: nothing of a report is ever parsed as HTML.

/** Make an element; children are elements, strings or null. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("--")) made.style.setProperty(name, value);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A whole number with separators. */
function whole(value) {
  return GROUPED.format(value);
}

/** A number to so many significant digits; an en dash for what is not finite. */
function figure(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && magnitude < 1e-4) return value.toExponential(digits - 1);
  const decimals = magnitude === 0 ? digits - 1 : digits - 1 - Math.floor(Math.log10(magnitude));
  return value.toFixed(Math.max(0, Math.min(6, decimals))).replace("-", "−");
}

/** How often something is, as a percentage; rare things keep their digits. */
function percent(value) {
  return `${figure(100 * value)} %`;
}

/** How much of a whole something is, as a percentage; it may be negative. */
function share(value) {
  if (!Number.isFinite(value)) return "–";
  return `${(100 * value).toFixed(1).replace(/^-(?!0\.0$)/, "−").replace("-", "")} %`;
}

const INVISIBLE = { "\n": "⏎", "\t": "⇥", "\r": "␍", " ": "·", "\u00a0": "⍽", "\u200b": "⃝" };

/** A token's text with its outer spaces and line ends made visible. */
function visible(token) {
  if (token === "") return "∅";
  const shown = token.replace(/[\n\t\r\u00a0\u200b]/g, (character) => INVISIBLE[character]);
  return shown.replace(/^ +| +$/g, (spaces) => "·".repeat(spaces.length));
}

/** A token as a small chip. */
function chip(token, attributes = {}) {
  return element("bdi", { class: "chip", ...attributes }, visible(token));
}

/** A table with a caption and column heads, [title, class]; `none` says that there are no rows. */
function smallTable(caption, columns, rows, none = "none") {
  if (rows.length === 0) return element("p", { class: "note" }, `${caption}: ${none}.`);
  return element("table", { class: "small" },
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...columns.map(([title, kind]) =>
      element("th", { scope: "col", class: kind }, title)))),
    element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((cell, at) =>
      element("td", { class: columns[at][1] }, cell))))));
}

/** A link to a feature's view, with the token it is on at most often. */
function featureLink(data, feature) {
  const [first] = data.tokensOf(feature);
  return element("a", { href: `#feature-${feature}` }, whole(feature),
    first ? chip(first.text) : null);
}
