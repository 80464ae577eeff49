// Evaluated in a page: Recorder selectors, fitness of elements, form values and reading. Ends in one object.
(() => {
  const collapse = (text) => (text ?? "").replace(/\s+/g, " ").trim();

  // Tree ------------------------------------------------------------------------------------------

  function* deepElements(root) {
    for (const element of root.querySelectorAll("*")) {
      yield element;
      if (element.shadowRoot) yield* deepElements(element.shadowRoot);
    }
  }

  const flatChildren = (node) => {
    if (node.shadowRoot) return [...node.shadowRoot.childNodes];
    const assigned = node.localName === "slot" && node.assignedNodes ? node.assignedNodes() : [];
    return assigned.length ? assigned : [...node.childNodes];
  };

  const parentOf = (node) => node.assignedSlot ?? node.parentNode ?? node.host ?? null;

  const contains = (outer, inner) => {
    for (let node = inner; node; node = parentOf(node)) if (node === outer) return true;
    return false;
  };

  const describe = (element) => {
    const shell = element.cloneNode(false).outerHTML.replace(/<\/[\w-]+>$/, "");
    return shell.length > 200 ? `${shell.slice(0, 199)}…` : shell;
  };

  // Accessible role and name: the parts of https://www.w3.org/TR/accname-1.2/ that pages use ---------

  const INPUT_ROLES = {
    button: "button", submit: "button", reset: "button", image: "button", file: "button", checkbox: "checkbox",
    radio: "radio", range: "slider", number: "spinbutton", search: "searchbox", color: "ColorWell",
    date: "Date", "datetime-local": "DateTime", month: "DateTime", week: "DateTime", time: "InputTime",
  };
  const TAG_ROLES = {
    abbr: "Abbr", address: "group", article: "article", aside: "complementary", audio: "Audio",
    blockquote: "blockquote", button: "button", canvas: "Canvas", caption: "caption", code: "code",
    dd: "definition", del: "deletion", details: "group", dfn: "term", dialog: "dialog", dl: "DescriptionList",
    dt: "term", em: "emphasis", fieldset: "group", figcaption: "Figcaption", figure: "figure",
    footer: "contentinfo", form: "form", h1: "heading", h2: "heading", h3: "heading", h4: "heading",
    h5: "heading", h6: "heading", header: "banner", hgroup: "group", hr: "separator", iframe: "Iframe",
    img: "image", ins: "insertion", label: "LabelText", legend: "Legend", li: "listitem", main: "main",
    mark: "mark", menu: "list", meter: "meter", nav: "navigation", ol: "list", optgroup: "group",
    option: "option", output: "status", p: "paragraph", progress: "progressbar", ruby: "Ruby",
    search: "search", strong: "strong", sub: "subscript", sup: "superscript", svg: "image", table: "table",
    tbody: "rowgroup", td: "cell", textarea: "textbox", tfoot: "rowgroup", th: "columnheader",
    thead: "rowgroup", time: "time", tr: "row", ul: "list", video: "Video",
  };
  // A header or footer of one of these is not the page's.
  const SECTIONS = "article, aside, main, nav, section";
  const NAMED_BY_CONTENT = new Set([
    "button", "cell", "checkbox", "columnheader", "gridcell", "heading", "link", "menuitem",
    "menuitemcheckbox", "menuitemradio", "option", "radio", "rowheader", "switch", "tab", "term", "tooltip",
    "treeitem", "DisclosureTriangle",
  ]);

  // https://www.w3.org/TR/wai-aria-1.2/#role_definitions; of several tokens the first known one counts.
  const KNOWN_ROLES = new Set(
    ("alert alertdialog application article banner blockquote button caption cell checkbox code columnheader combobox " +
      "complementary contentinfo definition deletion dialog directory document emphasis feed figure form generic grid " +
      "gridcell group heading image img insertion link list listbox listitem log main mark marquee math menu menubar " +
      "menuitem menuitemcheckbox menuitemradio meter navigation none note option paragraph presentation progressbar " +
      "radio radiogroup region row rowgroup rowheader scrollbar search searchbox separator slider spinbutton status " +
      "strong subscript superscript switch tab table tablist tabpanel term textbox time timer toolbar tooltip tree " +
      "treegrid treeitem").split(" "),
  );

  // Without a scope it is the row's where its neighbours are data.
  const isRowHeader = ({ scope, previousElementSibling, nextElementSibling }) => {
    if (scope) return scope.startsWith("row");
    const neighbours = [previousElementSibling, nextElementSibling].map((cell) => cell?.localName);
    return neighbours.includes("td") && !neighbours.includes("th");
  };

  const roleOf = (element) => {
    const given = element.getAttribute("role")?.toLowerCase().split(/\s+/).find((role) => KNOWN_ROLES.has(role));
    if (given) return given === "img" ? "image" : given;
    const tag = element.localName;
    if (tag === "summary") {
      return element.matches("details > summary:first-of-type") ? "DisclosureTriangle" : "generic";
    }
    if ((tag === "header" || tag === "footer") && element.closest(SECTIONS)) return `section${tag}`;
    if (tag === "img" && element.getAttribute("alt") === "" && !nameGiven(element)) return "none";
    if (tag === "section") return nameGiven(element) ? "region" : "generic";
    if (tag === "a" || tag === "area") return element.hasAttribute("href") ? "link" : "generic";
    if (tag === "select") return element.multiple || element.size > 1 ? "listbox" : "combobox";
    if (tag === "th") return isRowHeader(element) ? "rowheader" : "columnheader";
    if (tag !== "input") return TAG_ROLES[tag] ?? "generic";
    return element.list ? "combobox" : INPUT_ROLES[element.type] ?? "textbox";
  };

  const isTextField = (element) =>
    element.localName === "textarea" ||
    (element.localName === "input" && !/^(button|submit|reset|image|checkbox|radio|file|hidden)$/.test(element.type));

  const nativeName = (element) => {
    const child = (tag) => [...element.children].find((candidate) => candidate.localName === tag);
    const tag = element.localName;
    if (tag === "input" && /^(button|submit|reset)$/.test(element.type)) {
      return element.value || { submit: "Submit", reset: "Reset" }[element.type] || "";
    }
    if (tag === "img" || tag === "area" || (tag === "input" && element.type === "image")) {
      return element.getAttribute("alt") ?? "";
    }
    if (tag === "optgroup") return element.label;
    if (element.labels?.length) return [...element.labels].map((label) => contentOf(label, element)).join(" ");
    const titled = { fieldset: "legend", table: "caption", svg: "title" }[tag];
    return titled && child(titled) ? contentOf(child(titled), element) : "";
  };

  const TRANSFORMS = {
    uppercase: (text) => text.toUpperCase(),
    lowercase: (text) => text.toLowerCase(),
    capitalize: (text) => text.replace(/(?<![\p{L}\p{N}'’])\p{L}/gu, (letter) => letter.toUpperCase()),
  };

  // What a style sheet writes before or after an element, as far as it is plain text.
  const generatedBy = (element, place) => {
    const style = getComputedStyle(element, place);
    const text = /^"((?:[^"\\]|\\.)*)"$/.exec(style.content)?.[1].replace(/\\(.)/g, "$1");
    return !text || style.display === "inline" ? text ?? "" : ` ${text} `;
  };

  const contentOf = (node, skipped, transform) => {
    if (node.nodeType === Node.TEXT_NODE) return transform ? transform(node.data) : node.data;
    if (node.nodeType !== Node.ELEMENT_NODE || node === skipped) return "";
    if (node.localName === "br") return " ";
    if (node.getAttribute("aria-hidden") === "true" || /^(script|style|template)$/.test(node.localName)) return "";
    const style = getComputedStyle(node);
    const { display } = style;
    if (display === "none" || style.visibility === "hidden") return "";
    const label = collapse(node.getAttribute("aria-label"));
    const text = label || (isTextField(node) ? node.value : nativeName(node)) || textWithin(node, skipped, style);
    return display === "inline" || display === "contents" ? text : ` ${text} `;
  };

  const textWithin = (element, skipped, style = getComputedStyle(element)) => {
    const transform = TRANSFORMS[style.textTransform];
    const inner = flatChildren(element).map((child) => contentOf(child, skipped, transform)).join("");
    return generatedBy(element, "::before") + inner + generatedBy(element, "::after");
  };

  // The name that the page's author gave explicitly.
  const nameGiven = (element) => {
    const ids = collapse(element.getAttribute("aria-labelledby")).split(" ").filter(Boolean);
    const labels = ids.map((id) => element.getRootNode().getElementById?.(id)).filter(Boolean);
    const labelled = labels.map((label) =>
      isRendered(label) ? contentOf(label, null) : collapse(label.getAttribute("aria-label")) || label.textContent,
    );
    return collapse(labelled.join(" ")) || collapse(element.getAttribute("aria-label"));
  };

  const isRendered = (element) => element.checkVisibility({ visibilityProperty: true });

  const nameOf = (element) => {
    const role = roleOf(element);
    return (
      nameGiven(element) ||
      collapse(nativeName(element)) ||
      ((NAMED_BY_CONTENT.has(role) || (role === "row" && element.localName !== "tr")) &&
        collapse(textWithin(element, null))) ||
      (role === "generic" ? "" : collapse(element.getAttribute("title"))) ||
      (isTextField(element) ? collapse(element.getAttribute("placeholder")) : "")
    );
  };

  const isExposed = (element) => {
    if (/^(none|presentation)$/.test(roleOf(element))) return false;
    for (let node = element; node; node = parentOf(node)) {
      if (node.nodeType === Node.ELEMENT_NODE && node.getAttribute("aria-hidden") === "true") return false;
    }
    return isRendered(element);
  };

  // Selectors ---------------------------------------------------------------------------------------

  const byAria = (root, text) => {
    const wanted = {};
    const rest = text.replace(/\[\s*(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)')\s*\]/g, (_, key, double, single) => {
      wanted[key] = collapse(double ?? single);
      return "";
    });
    if (collapse(rest)) wanted.name ??= collapse(rest);
    if (wanted.role === "img") wanted.role = "image";
    return [...deepElements(root)].filter(
      (element) =>
        (wanted.role === undefined || roleOf(element) === wanted.role) &&
        (wanted.name === undefined || nameOf(element) === wanted.name) &&
        isExposed(element),
    );
  };

  const byText = (root, wanted) => {
    const collapsed = collapse(wanted);
    const found = [];
    const isSuitable = (node) =>
      node.nodeType === Node.ELEMENT_NODE && !/^(script|style|head|noscript|template)$/.test(node.localName);
    const hasValue = (node) =>
      isTextField(node) || node.localName === "select" || (node.localName === "input" && /^(button|submit|reset)$/.test(node.type));
    const visit = (node) => {
      if (node.nodeType === Node.TEXT_NODE) return { text: node.data, within: false };
      const inner = node.nodeType === Node.ELEMENT_NODE && !isSuitable(node) ? [] : flatChildren(node).map(visit);
      const text = hasValue(node) ? node.value : inner.map((part) => part.text).join("");
      let within = inner.some((part) => part.within);
      if (!within && isSuitable(node) && (text.includes(wanted) || collapse(text).includes(collapsed))) {
        found.push(node);
        within = true;
      }
      return { text, within };
    };
    visit(root);
    return found;
  };

  const byXPath = (root, text) => {
    const evaluate = (expression, context) => {
      const result = document.evaluate(expression, context, null, XPathResult.ORDERED_NODE_SNAPSHOT_TYPE, null);
      const nodes = [...Array(result.snapshotLength).keys()].map((index) => result.snapshotItem(index));
      return nodes.filter((node) => node.nodeType === Node.ELEMENT_NODE);
    };
    if (!(root instanceof ShadowRoot)) return evaluate(text, root);
    // A shadow root cannot be asked itself, but paths from its children begin at it.
    const child = root.firstElementChild;
    return child ? evaluate(text.startsWith("/") ? text : `../${text}`, child) : [];
  };

  const byPierce = (root, text) => {
    root.querySelector(text); // refuses what is no selector also where there is no element
    return [...deepElements(root)].filter((element) => element.matches(text));
  };

  const byCSS = (root, text) => [...root.querySelectorAll(text)];

  const KINDS = { css: byCSS, aria: byAria, text: byText, xpath: byXPath, pierce: byPierce };

  const byPart = (root, part) => {
    const kind = Object.keys(KINDS).find((name) => part.startsWith(`${name}/`));
    return kind ? KINDS[kind](root, part.slice(kind.length + 1)) : byCSS(root, part);
  };

  const all = (root, parts) => {
    let elements = [root];
    for (const part of parts) {
      const roots = elements.map((element) => element.shadowRoot ?? element);
      elements = [...new Set(roots.flatMap((inside) => byPart(inside, part)))];
    }
    return elements;
  };

  // A selector that is none, or an XPath expression that gives no elements.
  const isRefusal = (error) => error instanceof DOMException || /Failed to execute 'evaluate'/.test(error?.message);

  const firstNonEmpty = (root, selectors) => {
    for (const parts of selectors) {
      const elements = all(root, parts);
      if (elements.length) return elements;
    }
    return [];
  };

  // Fitness -----------------------------------------------------------------------------------------

  const isVisible = (element) => {
    const { width, height } = element.getBoundingClientRect();
    return width > 0 && height > 0 && element.checkVisibility({ visibilityProperty: true });
  };

  const drawn = async () => {
    try {
      await document.documentElement.animate([], 50).finished;
    } catch {
      await new Promise(() => {});
    }
  };

  // A hidden page draws no frames, a busy one draws them late; one that forbids scripts calls nothing back.
  const nextFrame = () =>
    Promise.race([
      new Promise((resolve) => {
        setTimeout(resolve, document.hidden ? 60 : 1000);
        requestAnimationFrame(() => requestAnimationFrame(resolve));
      }),
      drawn(),
    ]);

  const hitAt = (x, y) => {
    let hit = document.elementFromPoint(x, y);
    while (hit?.shadowRoot) {
      const inner = hit.shadowRoot.elementFromPoint(x, y);
      if (!inner || inner === hit) break;
      hit = inner;
    }
    return hit;
  };

  const isSameTarget = (element, hit) =>
    contains(element, hit) || contains(hit, element) || [...(element.labels ?? [])].some((label) => contains(label, hit));

  const pointsOf = (element, offset) => {
    const box = element.getBoundingClientRect();
    const holds = ({ left, right, top, bottom }) =>
      box.left + offset.x >= left && box.left + offset.x <= right && box.top + offset.y >= top && box.top + offset.y <= bottom;
    const lines = [...element.getClientRects()];
    // A text that wraps otherwise than when it was recorded has other gaps in its box.
    if (offset && holds(box) && (lines.length < 2 || lines.some(holds))) return [offset];
    const middles = [box, ...lines].map((rect) => ({
      x: rect.left + rect.width / 2 - box.left,
      y: rect.top + rect.height / 2 - box.top,
    }));
    return middles.slice(0, 10);
  };

  const isInView = (box, at) => {
    const x = box.left + at.x;
    const y = box.top + at.y;
    return x >= 0 && y >= 0 && x < innerWidth && y < innerHeight;
  };

  const bringIntoView = (element, at) => {
    element.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
    const box = element.getBoundingClientRect();
    if (isInView(box, at)) return;
    scrollBy({ left: box.left + at.x - innerWidth / 2, top: box.top + at.y - innerHeight / 2, behavior: "instant" });
  };

  const optionOf = (select, value) => {
    const options = [...select.options];
    return options.find((option) => option.value === value) ?? options.find((option) => collapse(option.label) === value);
  };

  // Why the element cannot be used now, or where in it the pointer goes.
  const judge = async (element, { enabled, value, offset, hit, framed }) => {
    if (!isVisible(element)) return { state: "hidden" };
    if (enabled && element.matches(":disabled")) return { state: "disabled" };
    if (value !== null && element.localName === "select" && !optionOf(element, value)) {
      const names = [...element.options].slice(0, 20).map((option) => option.value || collapse(option.label));
      return { state: `without option ${value}; there are ${names.join(", ")}`.slice(0, 500) };
    }
    let verdict = { state: "outside the viewport" };
    for (const scrolled of [false, true]) {
      const [first] = pointsOf(element, offset);
      if (scrolled || framed || !isInView(element.getBoundingClientRect(), first)) bringIntoView(element, first);
      const before = element.getBoundingClientRect();
      await nextFrame();
      if (!element.isConnected) return { state: "detached" };
      const after = element.getBoundingClientRect();
      if (["x", "y", "width", "height"].some((key) => Math.abs(before[key] - after[key]) > 0.5)) return { state: "moving" };
      const points = pointsOf(element, offset).filter((at) => isInView(after, at));
      if (points.length && !hit) return { at: points[0] };
      for (const at of points) {
        const top = hitAt(after.left + at.x, after.top + at.y);
        if (top && isSameTarget(element, top)) return { at };
        verdict = { state: top ? `covered by ${describe(top)}` : "outside the viewport" };
      }
    }
    return verdict;
  };

  const find = async ({ selectors, attached, ...wish }) => {
    const tried = [];
    for (const parts of selectors) {
      const trial = { selector: parts.join(" >> "), found: 0, state: "nothing matches" };
      tried.push(trial);
      try {
        const elements = all(document, parts);
        trial.found = elements.length;
        const element = elements.find(isVisible) ?? elements[0];
        if (!element) continue;
        const verdict = attached ? { at: { x: 0, y: 0 } } : await judge(element, wish);
        if (verdict.at) return { element, at: verdict.at, tried };
        trial.state = verdict.state;
        trial.element = describe(element);
      } catch (error) {
        if (!isRefusal(error)) throw error;
        trial.state = "not a valid selector";
      }
    }
    return { element: null, at: null, tried };
  };

  const deepMatch = (wanted, actual) =>
    wanted instanceof Object && actual instanceof Object
      ? Object.entries(wanted).every(([key, value]) => deepMatch(value, actual[key]))
      : wanted === actual;

  const count = ({ selectors, visible, properties, attributes }) => {
    const tried = [];
    for (const parts of selectors) {
      try {
        const elements = all(document, parts).filter((element) => visible === null || isVisible(element));
        const fits = elements.every(
          (element) =>
            Object.entries(attributes).every(([name, value]) => element.getAttribute(name) === value) &&
            deepMatch(properties, element),
        );
        const state = fits ? "matches" : "other properties or attributes";
        tried.push({ selector: parts.join(" >> "), found: elements.length, state });
        if (elements.length) return { count: elements.length, fits, tried };
      } catch (error) {
        if (!isRefusal(error)) throw error;
        tried.push({ selector: parts.join(" >> "), found: 0, state: "not a valid selector" });
      }
    }
    return { count: 0, fits: true, tried };
  };

  // Form controls -----------------------------------------------------------------------------------

  const notify = (element) => {
    element.dispatchEvent(new Event("input", { bubbles: true, composed: true }));
    element.dispatchEvent(new Event("change", { bubbles: true }));
  };

  const setNatively = (element, key, value) => {
    for (let prototype = element; prototype; prototype = Object.getPrototypeOf(prototype)) {
      const setter = prototype === element ? null : Object.getOwnPropertyDescriptor(prototype, key)?.set;
      if (setter) return setter.call(element, value);
    }
    element[key] = value;
  };

  const isYes = (value) => !/^(false|off|)$/i.test(value);

  // Sets the control, or says what is left to the keyboard: "type" or "insert" over the selection, or a refusal.
  const change = (element, value) => {
    if (!element.isConnected) return { detached: "" };
    const tag = element.localName;
    element.focus();
    if (tag === "select") {
      const option = optionOf(element, value);
      if (!option) return { refused: `There is no option ${value}` };
      for (const other of element.options) other.selected = other === option;
      notify(element);
    } else if (tag === "input" && /^(checkbox|radio)$/.test(element.type)) {
      const wanted = isYes(value);
      if (element.indeterminate || element.checked !== wanted) element.click();
      if (element.checked !== wanted) element.click();
      if (element.checked !== wanted) return { refused: "The box does not stay as it was set" };
    } else if (tag === "input" && element.type === "file") {
      return { refused: "A file field takes files, not a text" };
    } else if (element.readOnly) {
      return { refused: "The field can only be read" };
    } else if (isTextField(element) && !(element.type in { color: 1, date: 1, "datetime-local": 1, month: 1, range: 1, time: 1, week: 1 })) {
      if (element.value === value) notify(element);
      else if (value.length > 100) {
        setNatively(element, "value", value);
        notify(element);
      } else {
        element.select();
        return { keyboard: value ? "type" : "delete" };
      }
    } else if (/^(checkbox|radio|switch)$/.test(element.getAttribute("role"))) {
      if (element.getAttribute("aria-checked") !== String(isYes(value))) element.click();
    } else if (element.isContentEditable) {
      getSelection().selectAllChildren(element);
      return { keyboard: value ? "insert" : "delete" };
    } else if ("value" in element) {
      setNatively(element, "value", value);
      if (element.value !== value && element.type !== "range" && element.type !== "color") {
        return { refused: `The field does not take ${value}` };
      }
      notify(element);
    } else return { refused: `${describe(element)} has no value to change` };
    return {};
  };

  // A secret: masked before it is there, and never left to a keyboard whose focus others may take.
  const conceal = (element, value) => {
    if (!element.isConnected) return { detached: "" };
    const isText = isTextField(element) && /^(text|password|email|number|search|tel|url|textarea)$/.test(element.type);
    if (!isText && !element.isContentEditable) return { refused: "A secret goes into a text field only" };
    if (element.readOnly || element.matches(":disabled")) return { refused: "The field is read-only" };
    element.style.setProperty("-webkit-text-security", "disc", "important");
    element.focus();
    if (isText) setNatively(element, "value", value);
    else element.textContent = value;
    if (isText && element.value === "" && value) return { refused: "The field does not take it" };
    notify(element);
    return {};
  };

  // What has been typed counts as changed now, and leaving the field later does not report it again.
  const typed = (element) => {
    element.dispatchEvent(new Event("change", { bubbles: true }));
    const { value } = element;
    const root = element.getRootNode() === document ? window : element.getRootNode();
    const onceOnly = (event) => {
      if (event.target !== element || !event.isTrusted) return;
      root.removeEventListener("change", onceOnly, true);
      if (element.value === value) event.stopImmediatePropagation();
    };
    root.addEventListener("change", onceOnly, true);
  };

  // Reading -----------------------------------------------------------------------------------------

  const toNumber = (text) => {
    const match = /[-−]?\s*\d[\d.,'’\u00a0\u202f ]*/.exec(text);
    if (!match) return null;
    let digits = match[0].replace(/[^\d.,]/g, "").replace(/[.,]$/, "");
    const decimal = Math.max(digits.lastIndexOf("."), digits.lastIndexOf(","));
    const mark = digits[decimal];
    const isGrouping = mark && (digits.split(mark).length > 2 || (mark === "," && /^\d{1,3},\d{3}$/.test(digits)));
    if (isGrouping) digits = digits.replace(/[.,]/g, "");
    else if (mark) digits = `${digits.slice(0, decimal).replace(/[.,]/g, "")}.${digits.slice(decimal + 1)}`;
    return Number(/^[-−]/.test(match[0]) ? `-${digits}` : digits);
  };

  const scalar = (element, { attribute, type }) => {
    if (type === "html" && !attribute) return element.innerHTML;
    if (type === "boolean" && !attribute && "checked" in element) return element.checked;
    const name = attribute ?? (type === "url" ? ["href", "src", "action"].find((key) => element.hasAttribute(key)) : null);
    const raw = name ? element.getAttribute(name) : "value" in element && isTextField(element) ? element.value
      : element.localName === "select" ? element.selectedOptions[0]?.label : element.innerText ?? element.textContent;
    if (raw === null || raw === undefined) return type === "boolean" && attribute ? false : null;
    if (type === "number") return toNumber(raw);
    if (type === "boolean") return attribute ? !/^(false|0|no|off)$/i.test(raw) : /^(true|yes|on|1|✓|✔)$/i.test(collapse(raw));
    if (type === "url") return URL.canParse(raw, document.baseURI) ? new URL(raw, document.baseURI).href : null;
    return attribute || type === "html" ? raw : raw.split("\n").map(collapse).join("\n").trim();
  };

  const read = (root, value) => {
    const elements = value.selectors ? firstNonEmpty(root, value.selectors) : root === document ? [document.documentElement] : [root];
    const one = (element) =>
      value.fields
        ? Object.fromEntries(Object.entries(value.fields).map(([name, field]) => [name, read(element, field)]))
        : scalar(element, value);
    return value.many ? elements.slice(0, 10_000).map(one) : elements.length ? one(elements[0]) : null;
  };

  const size = (value) =>
    typeof value === "string" ? value.length : value && typeof value === "object" ? Object.values(value).reduce((sum, item) => sum + size(item), 2) : 4;

  // What is too large to be used is not sent.
  const readAtMost = (value, most) => {
    const found = read(document, value);
    return size(found) > most ? { size: size(found) } : { found };
  };

  const tree = { all, collapse, contains, isExposed, isRefusal, isTextField, nameOf, parentOf, roleOf };
  return { find, count, change, conceal, typed, read: readAtMost, roleOf, nameOf, tree };
})()
