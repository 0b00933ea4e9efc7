// The feature list: DataTables, with filters of our own.

const COLUMNS = [
  { title: "Feature", key: "feature" },
  { title: "On most often at", key: "tokens" },
  { title: "Activity", key: "activity", show: percent },
  { title: "Entropy", key: "entropy_bits", show: figure },
  { title: "Firing costs", key: "price_on_bits", show: figure },
  { title: "Norm", key: "decoder_norm", show: figure },
  { title: "Told by token", key: "token_share", show: share },
  { title: "Told by document", key: "document_share", show: share },
  { title: "Beyond token", key: "topic_share", show: share },
  { title: "Nearest", key: "nearest_cosine", show: figure },
  { title: "Flags", key: "flags" },
];

/** A feature as a line of the table: numbers to sort by, text to search in. */
function tableLine(data, feature) {
  const tokens = data.tokensOf(feature).map(({ text }) => text);
  const line = { feature, tokens, flags: data.flagsOf(feature) };
  for (const { key, show } of COLUMNS) if (show) line[key] = data.number(key, feature);
  const promoted = data.effectsOf("promoted", feature) || [];
  line.searched = [feature, ...tokens, ...promoted.map(({ text }) => text), ...line.flags,
    data.page.names[feature] ?? ""].join(" ")
    .toLowerCase();
  return line;
}

/** Give lines the rank of their tokens, because numbers sort faster than texts. */
function rankByTokens(lines) {
  const spelled = lines.map((line) => [line, line.tokens.join(" ").trimStart().toLowerCase()]);
  const empty = ([, text]) => Number(text === ""); // features without tokens come last
  spelled.sort((a, b) => empty(a) - empty(b) || (a[1] < b[1] ? -1 : Number(a[1] > b[1])));
  spelled.forEach(([line], rank) => (line.token_rank = rank));
}

/** How DataTables is to treat a column. */
function columnOf({ title, key, show }) {
  const plain = { title, name: key, type: "num", className: show ? "number" : key,
    orderSequence: show || key === "flags" ? ["desc", "asc"] : ["asc", "desc"] };
  if (key === "feature") {
    return { ...plain, data: null, searchable: false, render: (line) => line.feature,
      createdCell: (cell, _, line) => cell.replaceChildren(
        element("a", { href: `#feature-${line.feature}` }, String(line.feature))) };
  }
  if (key === "tokens") {
    return { ...plain, data: null, searchable: false,
      render: (line, purpose) => purpose === "sort" ? line.token_rank : "",
      createdCell: (cell, _, line) => cell.replaceChildren(
        ...line.tokens.slice(0, 4).flatMap((token) => [chip(token), " "])) };
  }
  if (key === "flags") {
    return { ...plain, data: null, searchable: false,
      render: (line, purpose) => purpose === "sort" ? line.flags.length : line.flags.join(", ") };
  }
  // A number that is missing sorts below all others.
  return { ...plain, data: key, searchable: false,
    render: (value, purpose) => purpose === "display" ? show(value)
      : Number.isNaN(value) ? -Infinity : value };
}

/** Fill the list and wire its filters; returns the table. */
function showTable(DataTable, data) {
  const lines = range(0, data.nFeatures).map((feature) => tableLine(data, feature));
  rankByTokens(lines);
  const table = new DataTable("#feature-table", {
    data: lines,
    columns: COLUMNS.map(columnOf),
    order: [[COLUMNS.findIndex(({ key }) => key === data.page.first_order), "desc"]],
    pageLength: 50,
    autoWidth: false,
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: "paging" },
    language: {
      emptyTable: "The codec has no features.",
      zeroRecords: "No feature fits the filters.",
      aria: { orderableRemove: ": Activate to invert sorting" }, // a third click begins anew
    },
  });
  for (const head of document.querySelectorAll("#feature-table thead th")) head.scope = "col";
  wireFilters(table, data);
  const tell = () => {
    const { recordsDisplay, recordsTotal } = table.page.info();
    document.getElementById("shown-features").textContent =
      `${whole(recordsDisplay)} of ${whole(recordsTotal)} features`;
  };
  table.on("draw", tell);
  tell();
  return table;
}

/** Let the search box, the flags and the range of activities choose the lines. The search is ours:
 *  that of DataTables reads what it searches in as HTML. */
function wireFilters(table, data) {
  const form = document.getElementById("filters");
  const redraw = () => {
    const { search, flag, from, to } = Object.fromEntries(new FormData(form));
    const [low, high] = [Number(from || 0) / 100, Number(to || 100) / 100];
    table.search.fixed("flag", (_, line) => flag === "any" || line.flags.includes(flag) ||
      (flag === "none" && line.flags.length === 0));
    table.search.fixed("activity", (_, line) => line.activity >= low && line.activity <= high);
    // As the page shows them: 1,510 is feature 1510, and a dot stands for a space.
    const plain = search.toLowerCase().replace(/(\d),(?=\d)/g, "$1").replaceAll("·", " ");
    const words = plain.split(/\s+/);
    table.search.fixed("words", (_, line) => words.every((word) => line.searched.includes(word)));
    table.draw();
  };
  form.addEventListener("input", redraw);
  form.addEventListener("reset", () => setTimeout(redraw));
  form.addEventListener("submit", (event) => event.preventDefault());
}

/** The features before and after one in the list as it is sorted and filtered now. */
function neighboursInList(table, feature) {
  const order = table.rows({ search: "applied", order: "applied" }).indexes().toArray();
  const at = order.indexOf(feature);
  return at < 0 ? [null, null] : [order[at - 1] ?? null, order[at + 1] ?? null];
}
