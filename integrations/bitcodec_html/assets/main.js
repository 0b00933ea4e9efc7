// Which view is shown follows from the address: #overview, #features, #feature-12, #text-0, #about.

const FEATURE = /^#feature-(\d+)$/;

/** The view and the feature that an address asks for. */
function destination(hash, data) {
  const feature = FEATURE.exec(hash);
  if (feature) {
    const number = Number(feature[1]);
    return number < data.nFeatures ? { view: "feature-view", feature: number } : { view: "features" };
  }
  const view = hash.slice(1).replace(/^text-\d+$/, "texts");
  return { view: document.getElementById(view)?.matches("main > section") ? view : "overview" };
}

/** Show what the address asks for; move the focus there unless the page has just been opened. */
function route(data, table, { moveFocus }) {
  const { view, feature } = destination(location.hash, data);
  if (feature !== undefined) showFeature(data, table, feature);
  for (const section of document.querySelectorAll("main > section")) {
    section.classList.toggle("current", section.id === view);
  }
  const current = view === "feature-view" ? "features" : view;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.hash === `#${current}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = document.querySelector(`#${view} h2`);
  document.title = `${heading.textContent} – ${data.page.title}`;
  if (!moveFocus) return;
  heading.focus({ preventScroll: true });
  const target = location.hash.startsWith("#text-") && document.getElementById(location.hash.slice(1));
  if (target) target.scrollIntoView();
  else scrollTo(0, 0);
}

/** The keys p and n step through the list while the focus is in a feature's view. */
function stepByKeys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  document.querySelector(`#feature-view [aria-keyshortcuts="${CSS.escape(event.key)}"]`)?.click();
}

async function open() {
  const [tensors, library] = await Promise.all([embedded("report-data"), embedded("table-library")]);
  const source = URL.createObjectURL(new Blob([library], { type: "text/javascript" }));
  const { default: DataTable } = await import(source);
  URL.revokeObjectURL(source);
  const data = new ReportData(readTensors(tensors));
  const table = showTable(DataTable, data);
  showTexts(data);
  for (const box of document.querySelectorAll("[data-numbers-of]")) {
    box.addEventListener("change", () => document.getElementById(box.dataset.numbersOf)
      .classList.toggle("numbers", box.checked));
  }
  addEventListener("hashchange", () => route(data, table, { moveFocus: true }));
  document.getElementById("feature-view").addEventListener("keydown", stepByKeys);
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address stays that of the view
    document.querySelector("main > .current h2").focus();
  });
  route(data, table, { moveFocus: location.hash.length > 1 });
  document.documentElement.dataset.ready = "true";
}

open().catch((error) => {
  const notice = document.getElementById("notice");
  notice.hidden = false;
  notice.append(` (${error.name}: ${error.message})`);
  throw error;
});
