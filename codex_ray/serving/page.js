"use strict";
// Text from the server goes into textContent alone, so that none of it can become markup.
(() => {
  const by = (id) => document.getElementById(id);
  let key = "";
  let fields = [];

  const words = {
    401: "This key is not believed, or it has expired.",
    403: "This key may not do that.",
    413: "That is too much at once.",
    422: "The model does not take these values.",
    429: "Too many requests: wait a little.",
    503: "No model answers just now: wait a little.",
  };

  async function call(path, body) {
    const options = { headers: { authorization: "Bearer " + key }, cache: "no-store" };
    if (body !== undefined) {
      options.method = "POST";
      options.headers["content-type"] = "application/json";
      options.body = JSON.stringify(body);
    }
    const response = await fetch(path, options);
    const value = await response.json();
    if (!response.ok) {
      const places = (value.problems || [])
        .map((p) => [p.feature, p.is].filter(Boolean).join(" is "))
        .join("; ");
      const said = words[response.status] || "Refused (" + response.status + ").";
      throw new Error(places ? said + " " + places + "." : said);
    }
    return value;
  }

  function make(tag, text, parent) {
    const node = document.createElement(tag);
    if (text !== null) node.textContent = text;
    parent.append(node);
    return node;
  }

  function flat(value, name, found) {
    if (value !== null && typeof value === "object") {
      for (const [inner, it] of Object.entries(value)) {
        flat(it, Array.isArray(value) ? name : name ? name + ", " + inner : inner, found);
      }
    } else {
      found.push([name.replaceAll("_", " "), String(value)]);
    }
    return found;
  }

  function showCard(card) {
    const facts = by("facts");
    facts.replaceChildren();
    const pairs = [["model", card.model], ["version", card.version], ...flat(card.card, "", [])];
    let before = null;
    for (const [name, value] of pairs) {
      if (name !== before) make("dt", name, facts);
      before = name;
      make("dd", value, facts);
    }
    by("title").textContent = card.model + ", version " + card.version;
    by("warning").hidden = card.unsafe.length === 0;
    by("warning").textContent = "Switched off: " + card.unsafe.join(", ");
    by("card").hidden = false;
  }

  function choice(rule, parent) {
    const select = make("select", null, parent);
    for (const value of rule.enum) {
      const option = make("option", value === null ? "not known" : value, select);
      option.value = value === null ? "" : value;
    }
    return select;
  }

  function range(rule, lacking, parent) {
    const input = make("input", null, parent);
    const dated = rule.format === "date";
    input.type = dated ? "date" : "number";
    input.min = dated ? rule.formatMinimum : rule.minimum;
    input.max = dated ? rule.formatMaximum : rule.maximum;
    if (!dated) input.step = rule.type.includes("integer") ? "1" : "any";
    if (lacking) input.placeholder = "not known";
    else if (dated) input.value = rule.formatMaximum;
    else input.value = String(Math.min(Math.max(0, rule.minimum), rule.maximum));
    return input;
  }

  function showFields(description) {
    const record = description.components.schemas.Request.properties.records.items.oneOf[0];
    const parent = by("fields");
    parent.replaceChildren();
    fields = Object.entries(record.properties).map(([name, rule], number) => {
      const box = make("div", null, parent);
      const label = make("label", rule.description ? name + " (" + rule.description + ")" : name, box);
      const lacking = Array.isArray(rule.type);
      const input = rule.enum ? choice(rule, box) : range(rule, lacking, box);
      label.htmlFor = input.id = "field-" + number;
      input.required = !lacking;
      const value = rule.enum || rule.format ? (text) => text : Number;
      return [name, () => (lacking && input.value === "" ? null : value(input.value))];
    });
    by("trial").hidden = false;
  }

  function showAnswer(found) {
    const parent = by("answer");
    parent.replaceChildren();
    const prediction = found.predictions[0];
    make("p", "Most likely: " + prediction.label, parent);
    const table = make("table", null, parent);
    const head = make("tr", null, make("thead", null, table));
    for (const name of ["class", "probability", ""]) make("th", name, head);
    const rows = make("tbody", null, table);
    prediction.probabilities.forEach((probability, number) => {
      const row = make("tr", null, rows);
      make("td", found.labels[number], row);
      make("td", String(probability), row);
      const meter = make("meter", null, make("td", null, row));
      meter.value = probability;
    });
    make("p", "Answered by version " + found.version + ".", parent).className = "hint";
  }

  async function guarded(work) {
    by("said").textContent = "";
    try {
      await work();
    } catch (error) {
      by("said").textContent = error.message;
    }
  }

  by("open").addEventListener("submit", (event) => {
    event.preventDefault();
    key = by("key").value.trim();
    guarded(async () => {
      showCard(await call("/v1/card"));
      showFields(await call("/openapi.json"));
    });
  });

  by("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const record = Object.fromEntries(fields.map(([name, read]) => [name, read()]));
    guarded(async () => showAnswer(await call("/v1/predict", { records: [record] })));
  });
})();
