"use strict";
// What if: a head that is computed anew as features of its classes are switched off and on. Logits of the start are
// exact; a change adds or takes away weight times feature, with features as 256 levels, and the bound of that error says
// on how many images the answer might differ.
(() => {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const numbers = (text) => new Uint32Array(bytes(text).buffer);
  const shown = new Intl.NumberFormat("en");
  const signed = new Intl.NumberFormat("en", { signDisplay: "exceptZero" });
  const minus = (text) => text.replace("\u2212", "-");

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "text") element.textContent = value;
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  /** The head: which features its classes have, and what it says of the images. */
  class Head {
    constructor(data) {
      Object.assign(this, data);
      [this.rows, this.columns, this.count] = [data.classes.length, data.features.length, data.images];
      [this.weight, this.open] = [floats(data.weight), bytes(data.open)];
      [this.labels, this.levels] = [numbers(data.labels), bytes(data.levels)];
      this.rowOf = new Map(data.classes.map((number, row) => [number, row]));
      const logits = floats(data.logits);
      this.start = data.classes.map((_, row) => Float64Array.from({ length: this.count }, (_, i) => logits[i * this.rows + row]));
      this.other = data.other && { value: floats(data.other.value), class: numbers(data.other.class), names: data.other.names };
      this.initial = new Uint8Array(this.rows * this.columns);
      data.order.forEach((order, row) => order.slice(0, data.sizes[row]).forEach((place) => { this.initial[row * this.columns + place] = 1; }));
      [this.values, this.off] = [floats(data.values), bytes(data.errors)];
      this.errors = data.classes.map(() => null);
      this.scores = [...this.start];
      this.images = new Map();
      for (const label of this.labels) this.images.set(label, (this.images.get(label) ?? 0) + 1);
      this.has = this.initial.slice();
      this.before = this.answers();
    }

    /** Take other features; only classes that change are computed. */
    take(has) {
      for (let row = 0; row < this.rows; row++) {
        const from = row * this.columns;
        if (has.subarray(from, from + this.columns).some((value, place) => value !== this.has[from + place])) this.compute(row, has);
      }
      this.has = has.slice();
    }

    compute(row, has) {
      const from = row * this.columns, scores = this.start[row].slice(), errors = new Float64Array(this.count);
      let isChanged = false;
      for (let place = 0; place < this.columns; place++) {
        const change = has[from + place] - this.initial[from + place];
        if (!change) continue;
        isChanged = true;
        const weight = change * this.weight[from + place], size = Math.abs(weight) * this.errorStep[place];
        for (let i = 0; i < this.count; i++) {
          const level = place * 256 + this.levels[i * this.columns + place];
          scores[i] += weight * this.values[level];
          errors[i] += size * this.off[level];
        }
      }
      [this.scores[row], this.errors[row]] = isChanged ? [scores, errors] : [this.start[row], null];
    }

    /** Images right in all and by class, pairs of true class and prediction, and images whose answer is uncertain. */
    answers() {
      const right = new Map(), pairs = new Map();
      let correct = 0, uncertain = 0;
      const isExact = this.errors.every((errors) => errors === null);
      for (let i = 0; i < this.count; i++) {
        const label = this.labels[i];
        let best = -Infinity, said = -1;
        if (this.other) [best, said] = [this.other.value[i], this.other.class[i]];
        for (let row = 0; row < this.rows; row++) {
          const score = this.scores[row][i], number = this.classes[row];
          if (score > best || (score === best && number < said)) [best, said] = [score, number];
        }
        if (said === label) {
          correct += 1;
          right.set(label, (right.get(label) ?? 0) + 1);
        }
        const pair = label * 65536 + said;
        pairs.set(pair, (pairs.get(pair) ?? 0) + 1);
        if (!isExact && this.isClose(i, said, best)) uncertain += 1;
      }
      return { correct, right, pairs, uncertain };
    }

    /** Whether an error of the levels could let another class have the largest logit. */
    isClose(i, said, best) {
      const off = (row) => (row === undefined || this.errors[row] === null ? 0 : this.errors[row][i]);
      const lowest = best - off(this.rowOf.get(said));
      if (this.other && this.other.class[i] !== said && this.other.value[i] >= lowest) return true;
      return this.scores.some((scores, row) => this.classes[row] !== said && scores[i] + off(row) >= lowest);
    }
  }

  /** What is seen of a head, and what changes it. */
  class View {
    constructor(place, head) {
      [this.place, this.head, this.past, this.isDragging] = [place, head, [], false];
      this.sizes = make("output", { class: "live-k" });
      this.slider = make("input", { type: "range", min: 1, max: Math.max(...head.order.map((row) => row.length)), step: 1, "aria-label": `k, features of every class: ${head.caption}` });
      this.slider.value = Math.max(...head.sizes);
      this.slider.addEventListener("input", () => this.drag());
      // A drag that ends where it began fires no "change".
      for (const end of ["change", "pointerup", "pointercancel", "blur", "keyup"]) this.slider.addEventListener(end, () => { this.isDragging = false; });
      place.addEventListener("keydown", (event) => {
        if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key === "z") { event.preventDefault(); this.back(); }
      });
      this.undo = make("button", { type: "button", text: "Undo", onclick: () => this.back() });
      this.again = make("button", { type: "button", text: "As at the start", onclick: () => this.reset() });
      this.said = make("p", { class: "live-said", role: "status" });
      this.note = make("p", { class: "live-note" });
      place.append(
        make("div", { class: "live-bar" }, this.said, this.note),
        make("div", { class: "live-controls" }, make("label", {}, "k, features of every class: ", this.slider, " ", this.sizes), this.undo, this.again, ...this.file()),
        make("p", { class: "live-note", text: this.about() }),
        this.matrix(), make("div", { class: "live-sides" }, this.bars(), this.confusion()));
      this.beside = head.rows > 1 ? new Beside(head) : null;
      if (this.beside) place.append(this.beside.element);
      place.append(...this.fileText());
      this.show();
    }

    /** What the first k are; the page has no other features than those in use. */
    about() {
      const { head } = this;
      if (!head.file) return "The first k are the first of the head's own features of each class.";
      return `The first k are the first of each class's set, then others of the ${head.columns} features that are in use here, by weight; a ranking of all features may do better.`;
    }

    matrix() {
      const { head } = this;
      const heads = head.featureNames, help = `live-help-${[...document.querySelectorAll(".live")].indexOf(this.place)}`;
      const body = make("tbody");
      this.cells = [];
      for (let row = 0; row < head.rows; row++) {
        const line = make("tr", {}, make("th", { scope: "row", text: head.names[row] }));
        const largest = Math.max(...head.weight.map(Math.abs)) || 1;
        for (let place = 0; place < head.columns; place++) {
          const at = row * head.columns + place, weight = head.weight[at], isOpen = head.open[at] === 1;
          const text = isOpen ? `${head.names[row]}, feature ${heads[place]}, weight ${weight.toFixed(3)}` : `${head.names[row]}, feature ${heads[place]}: no weight`;
          const cell = make("button", { type: "button", tabindex: "-1", "aria-label": text, "data-tip": text, disabled: !isOpen, onclick: () => this.toggle(at) });
          cell.className = weight > 0 ? "adds" : "takes";
          cell.style.setProperty("--v", Math.round(25 + 40 * Math.min(1, Math.abs(weight) / largest)));
          this.cells.push(cell);
          line.append(make("td", {}, cell));
        }
        body.append(line);
      }
      const first = this.cells.find((cell) => !cell.disabled);
      if (first) first.tabIndex = 0;
      body.addEventListener("keydown", (event) => this.move(event));
      this.current = first;
      body.addEventListener("focusin", (event) => {
        if (this.current) this.current.tabIndex = -1;
        this.current = event.target;
        this.current.tabIndex = 0;
      });
      const titles = heads.map((name) => make("th", { scope: "col" }, make("span", { text: name })));
      return make("div", { class: "matrix" },
        make("p", { class: "caption", id: help, text: "Classes by features: pressed is used; arrow keys move, space switches" }),
        make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${head.caption}: features that can be switched` },
          make("table", { class: "grid signed live-matrix", "aria-describedby": help }, make("caption", { class: "unseen", text: `${head.caption}: classes by features` }),
            make("thead", {}, make("tr", {}, make("th", { scope: "col", text: "Class, feature" }), ...titles)), body)));
    }

    /** Arrow keys go from feature to feature; one of them is in the order of the tab key. */
    move(event) {
      const at = this.cells.indexOf(event.target), { rows, columns } = this.head;
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
      if (at < 0 || (!(event.key in steps) && event.key !== "Home" && event.key !== "End")) return;
      event.preventDefault();
      const step = event.key === "Home" ? -1 : event.key === "End" ? 1 : steps[event.key];
      const isAlong = Math.abs(step) === 1, edge = Math.floor(at / columns);
      const inside = (to) => to >= 0 && to < rows * columns && (!isAlong || Math.floor(to / columns) === edge);
      let to = at, found = at;
      while (inside(to + step)) {
        to += step;
        if (this.cells[to].disabled) continue;
        found = to;
        if (event.key in steps) break;
      }
      this.cells[found].focus();
    }

    bars() {
      const { head } = this;
      this.lines = new Map();
      const body = make("tbody");
      head.classes.forEach((number, row) => {
        const bar = make("span", { class: "live-bar-now" }), mark = make("span", { class: "live-bar-start" });
        const count = make("td", { class: "number" }), change = make("td", { class: "number" });
        this.lines.set(number, { bar, mark, count, change });
        body.append(make("tr", {}, make("th", { scope: "row", text: head.names[row] }), make("td", { "aria-hidden": "true" }, make("div", { class: "live-bar-all" }, bar, mark)), count, change));
      });
      const titles = ["Class", "", "Right", "Change"].map((text, column) => make("th", { scope: "col", "aria-hidden": column === 1 ? "true" : null, text }));
      return make("div", {}, make("p", { class: "caption", text: "By class; the mark is the start", "aria-hidden": "true" }),
        make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${head.caption}: by class` },
          make("table", { class: "live-by-class" }, make("caption", { class: "unseen", text: `${head.caption}: images right by class` }), make("thead", {}, make("tr", {}, ...titles)), body)));
    }

    confusion() {
      const { head } = this;
      this.pairs = make("tbody");
      const isSmall = this.isSmall = head.rows <= 25 && !head.other;
      const caption = isSmall ? "Images by true class and prediction; colours: changed" : "What is confused most";
      const titles = isSmall ? ["True class, prediction", ...head.names] : ["True class", "Taken for", "Images", "Change"];
      const table = make("table", { class: isSmall ? "grid signed" : "" }, make("caption", { class: "unseen", text: `${head.caption}: ${caption}` }),
        make("thead", {}, make("tr", {}, ...titles.map((text, column) => make("th", { scope: "col" }, isSmall && column ? make("span", { text }) : text)))), this.pairs);
      if (isSmall) {
        this.counts = head.names.map((name) => {
          const cells = head.names.map(() => make("td"));
          this.pairs.append(make("tr", {}, make("th", { scope: "row", text: name }), ...cells));
          return cells;
        });
      }
      return make("div", {}, make("p", { class: "caption", text: caption, "aria-hidden": "true" }),
        make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${head.caption}: confusion` }, table));
    }

    file() {
      if (!this.head.file) return [];
      this.copied = make("span", { role: "status" });
      const copy = make("button", { type: "button", text: "Copy as index file", onclick: () => this.copy() });
      const save = make("button", { type: "button", text: "Save as index file", onclick: () => this.save() });
      return [copy, save, this.copied];
    }

    fileText() {
      if (!this.head.file) {
        const text = "These weights are the head's own; an index file, which cuts the full head, cannot say them.";
        return [make("p", { class: "live-note", text })];
      }
      this.text = make("textarea", { readonly: true, rows: "3", "aria-label": `${this.head.caption}: index file` });
      this.fold = make("details", {}, make("summary", { text: "The index file as text" }), this.text);
      return [this.fold];
    }

    indexFile() {
      const { head } = this, classes = [...head.file.classes];
      head.classes.forEach((number, row) => {
        classes[number] = head.order[row].filter((place) => head.has[row * head.columns + place]).map((place) => head.features[place]);
      });
      if (!classes.some((row) => row !== "all" && row.length)) return null;
      return `${JSON.stringify({ ...head.file, classes })}\n`;
    }

    copy() {
      const text = this.indexFile();
      if (text === null) return this.tell("No class has a feature; there is nothing to copy.");
      const failed = () => {
        this.fold.open = true;
        this.text.select();
        this.tell("The browser does not let the page copy; the text below is selected.");
      };
      if (!navigator.clipboard) return failed();
      navigator.clipboard.writeText(text).then(() => this.tell("Copied."), failed);
    }

    save() {
      const text = this.indexFile();
      if (text === null) return this.tell("No class has a feature; there is nothing to save.");
      const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      make("a", { href: url, download: "by-hand-indices.json" }).click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
      this.tell("Saved as by-hand-indices.json.");
    }

    tell(text) { this.copied.textContent = text; }

    toggle(at) {
      this.isDragging = false;
      const has = this.head.has.slice();
      has[at] = 1 - has[at];
      this.change(has);
    }

    drag() {
      const { head } = this, k = Number(this.slider.value), has = new Uint8Array(head.has.length);
      head.order.forEach((order, row) => order.slice(0, k).forEach((place) => { has[row * head.columns + place] = 1; }));
      this.change(has, this.isDragging);
      this.isDragging = true;
    }

    reset() {
      this.isDragging = false;
      if (!this.isAtStart()) this.change(this.head.initial.slice());
    }

    isAtStart() { return this.head.has.every((value, at) => value === this.head.initial[at]); }

    change(has, isSameStep = false) {
      if (!isSameStep) this.past.push(this.head.has);
      this.head.take(has);
      this.show();
    }

    back() {
      this.isDragging = false;
      if (!this.past.length) return;
      this.head.take(this.past.pop());
      this.show();
    }

    show() {
      const { head } = this, now = head.answers();
      const sizes = head.classes.map((_, row) => head.has.subarray(row * head.columns, (row + 1) * head.columns).reduce((sum, value) => sum + value, 0));
      const [low, high] = [Math.min(...sizes), Math.max(...sizes)];
      this.sizes.textContent = low === high ? String(low) : `${low} to ${high}`;
      if (!this.isDragging || low === high) this.slider.value = high;
      this.slider.setAttribute("aria-valuetext", this.sizes.textContent);
      this.cells.forEach((cell, at) => cell.setAttribute("aria-pressed", head.has[at] ? "true" : "false"));
      const isAtStart = this.isAtStart(); // buttons without effect stay in reach: a focus that goes nowhere is lost
      this.undo.setAttribute("aria-disabled", String(!this.past.length));
      this.again.setAttribute("aria-disabled", String(isAtStart));
      const percent = (count) => `${((100 * count) / head.count).toFixed(2)}%`;
      const change = now.correct - head.before.correct;
      const start = isAtStart ? "as at the start" : `${minus(signed.format(change))} against the start (${shown.format(head.before.correct)})`;
      const full = head.full ? `; the full head has ${shown.format(head.full.reduce((a, b) => a + b, 0))}` : "";
      this.said.textContent = `${shown.format(now.correct)} of ${shown.format(head.count)} right, ${percent(now.correct)}: ${start}${full}.`;
      this.note.textContent = this.uncertainty(now, isAtStart);
      for (const [number, line] of this.lines) {
        const all = head.images.get(number) ?? 0, right = now.right.get(number) ?? 0, before = head.before.right.get(number) ?? 0;
        line.bar.style.width = `${all ? (100 * right) / all : 0}%`;
        line.mark.style.left = `${all ? (100 * before) / all : 0}%`;
        line.count.textContent = `${shown.format(right)} of ${shown.format(all)}`;
        line.change.textContent = right === before ? "" : minus(signed.format(right - before));
      }
      this.showPairs(now);
      this.beside?.choose(this.beside.second.value);
      if (!head.file) return;
      this.text.value = this.indexFile() ?? "";
      this.tell("");
    }

    uncertainty(now, isAtStart) {
      const { head } = this;
      const whole = head.count < head.total ? ` The result has ${shown.format(head.correct)} of ${shown.format(head.total)} images right.` : "";
      if (isAtStart) return whole ? `At the start the answers are those of the result to these images.${whole}` : "At the start every number is that of the result.";
      if (!now.uncertain) return `Features are rounded to 256 levels here, which changes no answer.${whole}`;
      const images = now.uncertain === 1 ? "1 image" : `${shown.format(now.uncertain)} images`;
      return `Features are rounded to 256 levels here, which may change the answers of at most ${images}.${whole}`;
    }

    showPairs(now) {
      const { head } = this, of = (pairs, label, said) => pairs.get(label * 65536 + said) ?? 0;
      if (this.isSmall) {
        this.counts.forEach((cells, row) => cells.forEach((cell, column) => {
          const [label, said] = [head.classes[row], head.classes[column]];
          const count = of(now.pairs, label, said), change = count - of(head.before.pairs, label, said);
          cell.textContent = change ? `${count} (${minus(signed.format(change))})` : count || "";
          cell.className = change > 0 ? "more" : change < 0 ? "less" : "";
          cell.style.setProperty("--v", Math.min(65, 10 + 8 * Math.abs(change)));
          cell.dataset.tip = `${head.names[row]} taken for ${head.names[column]}: ${count}${change ? ` (${minus(signed.format(change))})` : ""}`;
        }));
        return;
      }
      const name = (number) => head.rowOf.has(number) ? head.names[head.rowOf.get(number)] : head.other.names[number] ?? String(number);
      const errors = [...now.pairs].map(([pair, count]) => [Math.floor(pair / 65536), pair % 65536, count]).filter(([label, said]) => label !== said);
      errors.sort((a, b) => b[2] - a[2] || a[0] - b[0] || a[1] - b[1]);
      this.pairs.replaceChildren(...errors.slice(0, 20).map(([label, said, count]) => {
        const change = count - of(head.before.pairs, label, said);
        return make("tr", {}, make("th", { scope: "row", text: name(label) }), make("td", { text: name(said) }), make("td", { class: "number", text: shown.format(count) }), make("td", { class: "number", text: change ? minus(signed.format(change)) : "" }));
      }));
    }
  }

  /** Two classes: the features that they have, and what each feature gives both on the images of both. */
  class Beside {
    constructor(head) {
      this.head = head;
      const [first, second] = this.closest();
      this.first = make("select", { "aria-label": `${head.caption}: one class`, onchange: () => this.choose() });
      this.second = make("select", { "aria-label": `${head.caption}: the other class`, onchange: () => this.show() });
      this.first.append(...head.names.map((name, row) => make("option", { value: row, text: name })));
      this.first.value = first;
      this.said = make("p");
      this.table = make("table");
      this.element = make("div", { class: "live-beside" }, make("p", { class: "caption", text: "A class beside another" }),
        make("p", { class: "live-controls" }, this.first, " beside ", this.second), this.said,
        make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${head.caption}: a class beside another` }, this.table));
      this.choose(second);
    }

    features(row) {
      return this.head.order[row].filter((place) => this.head.has[row * this.head.columns + place]);
    }

    /** How many features two classes have in common, and each alone. */
    counts(first, second) {
      const [a, b] = [this.features(first), new Set(this.features(second))];
      const both = a.filter((place) => b.has(place)).length;
      return { both, first: a.length - both, second: b.size - both };
    }

    /** Pairs that differ in fewest features come first, as they do in 'decompose filters --against'. */
    order(a, b) {
      return Math.max(a.first, a.second) - Math.max(b.first, b.second) || b.both - a.both;
    }

    closest() {
      let best = [0, Math.min(1, this.head.rows - 1)];
      for (let a = 0; a < this.head.rows; a++) {
        for (let b = a + 1; b < this.head.rows; b++) {
          if (this.order(this.counts(a, b), this.counts(...best)) < 0) best = [a, b];
        }
      }
      return best;
    }

    /** Another first class: the others are listed anew, the nearest first. */
    choose(wanted = null) {
      const { head } = this, first = Number(this.first.value);
      const others = head.names.map((_, row) => row).filter((row) => row !== first);
      const found = others.map((row) => ({ row, ...this.counts(first, row) })).sort((a, b) => this.order(a, b) || a.row - b.row);
      this.second.replaceChildren(...found.map((one) => make("option", { value: one.row, text: `${head.names[one.row]} (${one.both} in common, ${one.first} and ${one.second} alone)` })));
      this.second.value = wanted ?? found[0]?.row;
      this.show();
    }

    means(row, places) {
      const { head } = this, sums = new Float64Array(places.length);
      let count = 0;
      for (let i = 0; i < head.count; i++) {
        if (head.labels[i] !== head.classes[row]) continue;
        count += 1;
        places.forEach((place, n) => { sums[n] += head.values[place * 256 + head.levels[i * head.columns + place]]; });
      }
      return count ? Array.from(sums, (sum) => sum / count) : null;
    }

    show() {
      const { head } = this, [first, second] = [Number(this.first.value), Number(this.second.value)];
      const names = [head.names[first], head.names[second]], own = [this.features(first), this.features(second)];
      const places = [...new Set([...own[0], ...own[1]])], means = [this.means(first, places), this.means(second, places)];
      const weights = [first, second].map((row, n) => places.map((place) => (own[n].includes(place) ? head.weight[row * head.columns + place] : 0)));
      const lines = places.map((place, n) => {
        const on = means.map((mean) => mean?.[n] ?? null);
        const given = weights.map((weight) => on.map((mean) => (mean === null ? null : weight[n] * mean)));
        const margins = on.map((mean) => (mean === null ? null : (weights[0][n] - weights[1][n]) * mean));
        const apart = margins.includes(null) ? null : margins[0] - margins[1];
        const used = own[0].includes(place) ? (own[1].includes(place) ? "both" : names[0]) : names[1];
        return { place, used, numbers: [...given[0], ...given[1], apart] };
      });
      lines.sort((a, b) => (b.numbers[4] ?? 0) - (a.numbers[4] ?? 0) || a.place - b.place);
      const title = (place) => head.featureNames[place];
      const common = lines.filter((line) => line.used === "both").map((line) => title(line.place));
      const count = this.counts(first, second);
      this.said.textContent = `${names[0]} and ${names[1]} share ${count.both ? `${count.both}: ${common.join(", ")}` : "no feature"}; ${count.first} of ${names[0]} alone, ${count.second} of ${names[1]} alone.`;
      const heads = ["Feature", "Used by", ...names.flatMap((to) => names.map((on) => `To ${to}, on ${on}`)), "Apart"];
      const text = (value) => (value === null ? "\u2013" : `${value > 0 ? "+" : ""}${value.toFixed(3)}`);
      this.table.replaceChildren(make("caption", { class: "unseen", text: `${head.caption}: ${names[0]} beside ${names[1]}` }),
        make("thead", {}, make("tr", {}, ...heads.map((name) => make("th", { scope: "col", text: name })))),
        make("tbody", {}, ...lines.map((line) => make("tr", {}, make("th", { scope: "row", text: title(line.place) }), make("td", { text: line.used }),
          ...line.numbers.map((value) => make("td", { class: "number", text: text(value) }))))));
    }
  }

  for (const place of document.querySelectorAll(".live")) {
    const data = JSON.parse(place.querySelector("script").textContent);
    place.hidden = false;
    new View(place, new Head(data));
  }
})();
