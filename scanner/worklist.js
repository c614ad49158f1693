"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const [list, search, sort, show, heat, shown] = ["studies", "search", "sort", "show", "heat", "shown"].map(find);
  const number = (text) => (text === "" ? -1 : Number(text));
  const studies = Array.from(list.children, (element) => ({
    element,
    details: element.querySelector("details"),
    summary: element.querySelector("summary"),
    rank: number(element.dataset.rank),
    newest: number(element.dataset.newest),
    flagged: number(element.dataset.flagged),
    errors: number(element.dataset.errors),
    flag: element.dataset.flag,
    text: element.dataset.text.toLowerCase(),
  }));
  const kinds = {
    all: () => true,
    flagged: (study) => study.flag === "1",
    unflagged: (study) => study.flag === "0",
    errors: (study) => study.errors > 0,
  };
  let order = studies;

  function update() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = kinds[show.value];
    let count = 0;
    for (const study of studies) {
      study.visible = kind(study) && words.every((word) => study.text.includes(word));
      study.element.hidden = !study.visible;
      count += study.visible;
    }
    shown.textContent = count === studies.length ? "" : `${count} of ${studies.length} shown`;
    find("nothing").hidden = count > 0 || studies.length === 0;
    document.body.classList.toggle("heat", heat.checked);
    remember();
  }

  function reorder() {
    const key = sort.value;
    const compare = (a, b) => (key === "urgency" ? 0 : b[key] - a[key]) || a.rank - b.rank;
    order = studies.toSorted ? studies.toSorted(compare) : studies.slice().sort(compare);
    const focused = document.activeElement;
    list.append(...order.map((study) => study.element));
    if (list.contains(focused)) focused.focus();
    update();
  }

  // The view stands in the address, so that it survives a reload.
  function remember() {
    const view = new URLSearchParams();
    if (search.value) view.set("search", search.value);
    if (sort.value !== "urgency") view.set("sort", sort.value);
    if (show.value !== "all") view.set("show", show.value);
    if (heat.checked) view.set("heat", "1");
    try {
      history.replaceState(null, "", `#${view}`);
    } catch {
      // Some browsers forbid it for files.
    }
  }

  function recall() {
    const view = new URLSearchParams(location.hash.slice(1));
    search.value = view.get("search") || "";
    for (const [menu, value] of [[sort, view.get("sort")], [show, view.get("show")]]) {
      if (Array.from(menu.options, (option) => option.value).includes(value)) menu.value = value;
    }
    heat.checked = view.get("heat") === "1";
  }

  function move(step) {
    const visible = order.filter((study) => study.visible);
    if (!visible.length) return;
    const at = visible.findIndex((study) => study.element.contains(document.activeElement));
    const next = at < 0 ? (step > 0 ? 0 : visible.length - 1) : Math.min(Math.max(at + step, 0), visible.length - 1);
    visible[next].summary.focus({ preventScroll: true, focusVisible: true });
    visible[next].element.scrollIntoView({ block: "nearest" });
  }

  function leave() {
    if (document.activeElement === search) {
      search.blur();
    } else {
      search.value = "";
      show.value = "all";
      update();
    }
  }

  const keys = {
    j: () => move(1),
    k: () => move(-1),
    h: () => {
      heat.checked = !heat.checked;
      update();
    },
    "/": () => {
      search.focus();
      search.select();
    },
    Escape: leave,
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input[type=search], select");
    if (event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(keys, event.key)) return;
    if (typing && event.key !== "Escape") return;
    event.preventDefault();
    keys[event.key]();
  });

  const asOf = find("asof");
  function tell() {
    const minutes = (Date.now() - Date.parse(asOf.dateTime)) / 60000;
    const hours = Number(asOf.dataset.staleAfter);
    const unit = (value, name) => `${value} ${name}${value === 1 ? "" : "s"}`;
    const rounded = Math.max(Math.floor(minutes), 0);
    const age = rounded < 120 ? unit(rounded, "minute") : unit(Math.floor(rounded / 60), "hour");
    find("age").textContent = `(${age} ago)`;
    const alarm = find("alarm");
    const stale = minutes > hours * 60;
    const ahead = minutes < -5;
    if (stale) alarm.textContent = `This list is ${age} old. Newer studies are not on it: reload the page; if that does not help, the scan has stopped.`;
    if (ahead) alarm.textContent = "This list is from the future: a clock is wrong, here or where it was made.";
    alarm.hidden = !(stale || ahead);
  }

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = studies.filter((study) => study.flag === "1" && !study.details.open);
    for (const study of closed) study.details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const study of closed) study.details.open = false;
  });

  find("tools").hidden = false;
  find("tools").addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", update);
  for (const control of [show, heat]) control.addEventListener("change", update);
  sort.addEventListener("change", reorder);
  addEventListener("hashchange", () => {
    recall();
    reorder();
  });
  recall();
  reorder();
  tell();
  setInterval(tell, 15000);
})();
