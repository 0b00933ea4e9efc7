// Texts encoded when the page was made: every token with its bits and what they cost.

const N_SURPRISES = 12;

/** Fill the sections of the encoded texts. */
function showTexts(data) {
  data.page.texts.forEach((text, number) => {
    const view = document.getElementById(`text-${number}-tokens`);
    const on = new Lists(data.arrays[`text_${number}_on_count`],
      summed(data.arrays[`text_${number}_on`]));
    const detail = document.getElementById(`text-${number}-detail`);
    const buttons = text.tokens.map((token, at) => tokenButton(text, token, at));
    const select = (at, { focus = true } = {}) => {
      buttons.forEach((button, other) => {
        button.tabIndex = other === at ? 0 : -1;
        button.setAttribute("aria-pressed", String(other === at));
      });
      if (focus) buttons[at].focus();
      detail.replaceChildren(...tokenDetail(data, text, at, on.get(at)));
    };
    buttons.forEach((button, at) => button.addEventListener("click", () => select(at)));
    view.addEventListener("keydown", (event) => moveAmong(buttons, event, select));
    view.replaceChildren(...buttons.flatMap((button, at) =>
      [text.gaps[at], button, cutAtLineEnd(text.tokens[at]).after]), text.tail);
    if (buttons.length > 0) select(dearest(text.price_bits), { focus: false });
  });
}

function dearest(prices) {
  return prices.indexOf(Math.max(...prices));
}

function tokenButton(text, token, at) {
  const [low, high] = [Math.min(...text.price_bits), Math.max(...text.price_bits)];
  const price = text.price_bits[at];
  return element("button", { type: "button", class: "token price", tabindex: "-1", "aria-pressed": "false",
    "--strength": ((price - low) / (high - low || 1)).toFixed(3),
    "data-number": figure(price, 3),
    title: `${figure(price, 4)} bits`,
    "aria-label": `${visible(token)}, ${figure(price, 4)} bits` }, shownText(cutAtLineEnd(token).shown));
}

/** Cut a token after its line ends: what follows, a line's indent, stands outside its button, since
 *  a button does not break. */
function cutAtLineEnd(token) {
  const [, shown, indent] = /^(.*\n)([ \t]*)$/s.exec(token) ?? [null, token, ""];
  return { shown, after: shown.replace(/[^\n]/g, "") + indent };
}

/** Arrow keys, Home and End move the selection, so that a text is one stop of the tab key. */
function moveAmong(buttons, event, select) {
  const at = buttons.indexOf(document.activeElement);
  const target = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1,
    ArrowDown: lineBelow(buttons, at, 1), ArrowUp: lineBelow(buttons, at, -1) }[event.key];
  if (at < 0 || target === undefined) return;
  event.preventDefault();
  if (buttons[target]) select(target);
}

/** The button of the next line, or the one before, that stands nearest above or below. */
function lineBelow(buttons, at, direction) {
  if (at < 0) return -1;
  const box = buttons[at].getBoundingClientRect();
  let best = -1;
  for (let other = at + direction; buttons[other]; other += direction) {
    const found = buttons[other].getBoundingClientRect();
    if (direction * (found.top - box.top) < box.height / 2) continue;
    if (best >= 0 && Math.abs(found.top - buttons[best].getBoundingClientRect().top) > box.height / 2) break;
    const distance = (button) => Math.abs(button.getBoundingClientRect().left - box.left);
    if (best < 0 || distance(buttons[other]) < distance(buttons[best])) best = other;
  }
  return best;
}

/** The most surprising bits of a token: [{feature, on, price}], dearest first. */
function surprisesOf(data, on) {
  const isOn = new Set(on);
  const bits = range(0, data.nFeatures).map((feature) => ({ feature, on: isOn.has(feature),
    price: data.coderPrice(feature, isOn.has(feature)) }));
  return bits.sort((a, b) => b.price - a.price).slice(0, N_SURPRISES);
}

function tokenDetail(data, text, at, on) {
  const surprises = surprisesOf(data, on);
  const told = surprises.reduce((sum, { price }) => sum + price, 0);
  return [
    element("h3", {}, "Token ", chip(text.tokens[at])),
    element("p", {}, `${figure(text.price_bits[at], 4)} bits; ${whole(on.length)} of ` +
      `${whole(data.nFeatures)} features on; position ${whole(text.positions[at])}.`),
    smallTable(`Its ${surprises.length} most surprising features, ${figure(told)} bits of them`,
      [["feature", ""], ["is", ""], ["bits", "number"]],
      surprises.map(({ feature, on: isOn, price }) =>
        [featureLink(data, feature), isOn ? "on" : "off", figure(price)])),
    element("details", {}, element("summary", {}, `All ${on.length} features that are on`),
      element("p", { class: "links" }, ...Array.from(on).flatMap((feature) =>
        [element("a", { href: `#feature-${feature}` }, String(feature)), " "]))),
  ];
}
