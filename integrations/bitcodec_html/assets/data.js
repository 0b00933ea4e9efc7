// The report's data: a gzipped safetensors file in base64, whose metadata hold what is not numbers.

const DTYPES = {
  U8: Uint8Array, I8: Int8Array, U16: Uint16Array, I16: Int16Array,
  U32: Uint32Array, I32: Int32Array, F32: Float32Array,
};

/** Inflate the base64 text of an embedded block; the block is then emptied to free its memory. */
async function embedded(id) {
  const block = document.getElementById(id);
  const bytes = Uint8Array.from(atob(block.textContent.trim()), (c) => c.charCodeAt(0));
  block.textContent = "";
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** Read a safetensors file: eight bytes of header length, the header, the arrays. */
function readTensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const { __metadata__: metadata, ...tensors } =
    JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = {};
  for (const [name, { dtype, data_offsets: [begin, end] }] of Object.entries(tensors)) {
    arrays[name] = new DTYPES[dtype](buffer.slice(8 + length + begin, 8 + length + end));
  }
  return { arrays, page: JSON.parse(metadata.page) };
}

/** Widen bfloat16, kept as the upper halves of float32, to float32. */
function widened(halves) {
  return new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer);
}

/** Undo differences: each value is the sum of all up to it. */
function summed(differences) {
  let sum = 0;
  return Int32Array.from(differences, (difference) => (sum += difference));
}

/** Where tokens begin in their passages, from the gap to the token before and its length. */
function tokenStarts(gaps, lengths, passages) {
  let end = 0;
  return Int32Array.from(gaps, (gap, row) => {
    const start = (row && passages[row] === passages[row - 1] ? end : 0) + gap;
    end = start + lengths[row];
    return start;
  });
}

/** Lists of unequal lengths, laid end to end in `values` and cut by `counts`. */
class Lists {
  constructor(counts, values) {
    this.ends = summed(counts);
    this.values = values;
  }

  range(index) {
    return [index ? this.ends[index - 1] : 0, this.ends[index]];
  }

  get(index) {
    return this.values.subarray(...this.range(index));
  }
}

/** What the page shows of a report, by feature, row and text. */
class ReportData {
  constructor({ arrays, page }) {
    this.page = page;
    this.arrays = arrays;
    this.nFeatures = arrays.n_on.length;
    arrays.topic_share = arrays.document_share.map((share, at) => share - arrays.token_share[at]);
    this.rowNumber = summed(arrays.row_number);
    this.rowPassage = summed(arrays.row_passage);
    this.rowStart = tokenStarts(arrays.row_gap, arrays.row_length, this.rowPassage);
    this.rowPosition = summed(arrays.row_position);
    this.contextMargin = widened(arrays.context_margin);
    this.contextOn = new Lists(arrays.context_on_count, arrays.context_on_step);
    this.contexts = new Lists(arrays.context_count, arrays.context_row);
    this.tokens = new Lists(arrays.token_count, arrays.token_text);
    this.neighbours = Object.fromEntries(["nearest", "coactive"].map((kind) => [kind, {
      lists: new Lists(arrays[`${kind}_count`], arrays[`${kind}_feature`]),
      values: widened(arrays[`${kind}_value`]),
    }]));
    this.effects = Object.fromEntries(["promoted", "suppressed"].map((kind) => [kind,
      arrays[kind] && { tokens: arrays[kind], logits: widened(arrays[`${kind}_logits`]) }]));
  }

  /** Numbers of the feature table, by column. */
  number(column, feature) {
    return this.arrays[column][feature];
  }

  /** The tokens a feature is on at most often: [{text, nOn, nRows}]. */
  tokensOf(feature) {
    const [begin, end] = this.tokens.range(feature);
    return range(begin, end).map((at) => ({
      text: this.page.strings[this.arrays.token_text[at]],
      nOn: this.arrays.token_n_on[at],
      nRows: this.arrays.string_rows[this.arrays.token_text[at]],
    }));
  }

  /** What all features cost in a row, in bits, rounded to the report's step. */
  priceOf(row) {
    return this.arrays.row_price[row] * this.page.price_step;
  }

  /** What a bit costs a coder that knows the report's rows, by the estimator of Krichevsky and
   *  Trofimov, so that what no row held is dear and not impossible. */
  coderPrice(feature, isOn) {
    const p = (this.arrays.n_on[feature] + 0.5) / (this.page.n_rows + 1);
    return -Math.log2(isOn ? p : 1 - p);
  }

  /** Names of the flags that are set. */
  flagsOf(feature) {
    return this.page.flags.filter((_, bit) => (this.arrays.flags[feature] >> bit) & 1);
  }

  /** Other features and how close they are: [{feature, value, nBoth}]. */
  neighboursOf(kind, feature) {
    const { lists, values } = this.neighbours[kind];
    const [begin, end] = lists.range(feature);
    return range(begin, end).map((at) => ({ feature: lists.values[at], value: values[at],
      nBoth: kind === "coactive" ? this.arrays.coactive_n_both[at] : null }));
  }

  /** Tokens that the feature makes more or less likely: [{text, logit}]; null without a model. */
  effectsOf(kind, feature) {
    if (!this.effects[kind]) return null;
    const { tokens, logits } = this.effects[kind];
    const k = tokens.length / this.nFeatures;
    return range(feature * k, (feature + 1) * k).map((at) => ({
      text: this.page.strings[tokens[at]], logit: logits[at],
    }));
  }

  /** Contexts of one kind: [{row, margin, on}], row and on being indices into the shown rows. */
  contextsOf(feature, kind) {
    const [begin, end] = this.contexts.range(feature);
    const wanted = this.page.context_kinds.indexOf(kind);
    return range(begin, end).filter((at) => this.arrays.context_kind[at] === wanted).map((at) => ({
      row: this.arrays.context_row[at],
      margin: this.contextMargin[at],
      on: new Set(summed([this.arrays.context_row[at], ...this.contextOn.get(at)]).slice(1)),
    }));
  }
}

function range(begin, end) {
  return Array.from({ length: end - begin }, (_, index) => begin + index);
}
