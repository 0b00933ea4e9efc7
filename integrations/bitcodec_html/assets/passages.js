// Rows in their text: a token is coloured by a strength in [0, 1] and marked in other ways too.

/** The rows of the same passage around a row, as far as their tokens begin within the characters. */
function rowsAround(data, row, characters) {
  const inside = (other) => data.rowPassage[other] === data.rowPassage[row] &&
    Math.abs(data.rowStart[other] - data.rowStart[row]) <= characters;
  let [first, last] = [row, row];
  while (first > 0 && inside(first - 1)) first -= 1;
  while (last + 1 < data.rowNumber.length && inside(last + 1)) last += 1;
  return [first, last];
}

/** A context's tokens: [{text, row}], row being null for text that belongs to no row. */
function contextPieces(data, row) {
  const passage = data.page.passages[data.rowPassage[row]].text;
  const [first, last] = rowsAround(data, row, data.page.context_characters);
  const pieces = [];
  let at = data.rowStart[first];
  for (let other = first; other <= last; other += 1) {
    const start = data.rowStart[other];
    const end = start + data.arrays.row_length[other];
    if (start > at) pieces.push({ text: passage.slice(at, start), row: null });
    pieces.push({ text: passage.slice(Math.max(start, at), end), row: other });
    at = Math.max(at, end);
  }
  return pieces;
}

/** How strongly a token is coloured, in [0, 1]; what is said of it, and its number. */
const MARKS = {
  firing: (data, { on }) => ({ strength: on ? 1 : 0, words: on ? "on" : "off", number: on ? "on" : "" }),

  // Two to the power of the feature's burstiness at the token is |b − p|.
  burstiness: (data, { feature, on }) => {
    const strength = Math.abs((on ? 1 : 0) - data.number("activity", feature));
    const number = figure(Math.log2(strength), 2);
    return { strength, words: `${on ? "on" : "off"}, burstiness ${number}`, number };
  },

  // Between what the cheapest and the dearest twentieth of the rows cost.
  price: (data, { row }) => {
    const [low, high] = data.page.price_range;
    const number = whole(data.priceOf(row));
    const strength = (data.priceOf(row) - low) / (high - low || 1);
    return { strength: Math.max(0, Math.min(1, strength)), words: `about ${number} bits`, number };
  },
};

/** One context as a paragraph of coloured tokens. */
function contextText(data, feature, context, colouring) {
  const pieces = contextPieces(data, context.row).map(({ text, row }) => {
    if (row === null) return shownText(text);
    const on = context.on.has(row);
    const { strength, words, number } = MARKS[colouring](data, { feature, on, row });
    const hit = row === context.row;
    return element(hit ? "mark" : "span", {
      class: `token ${colouring}${on ? " on" : ""}${hit ? " hit" : ""}`,
      "--strength": strength.toFixed(3),
      title: `row ${whole(data.rowNumber[row])}: ${words}`,
      "data-number": number,
    }, shownText(text));
  });
  return element("p", { class: "passage", dir: "auto" }, ...pieces);
}

/** A token's text as it stands in a passage: line ends shown, so that a context stays a few lines. */
function shownText(text) {
  return text.replace(/\n/g, "⏎").replace(/\t/g, "⇥");
}
