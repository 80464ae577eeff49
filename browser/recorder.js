// Evaluated in a page with the `tree` of selectors.js: the selectors that lead to an element, and what it holds.
(({ all, collapse, contains, isExposed, isRefusal, isTextField, nameOf, parentOf, roleOf }) => {
  const MAX_TEXT = 60;
  const MAX_NAME = 120;
  const MAX_ROWS = 12; // how far up a row of a list is looked for
  const TEST_IDS = ["data-testid", "data-test-id", "data-test", "data-cy", "data-qa"];
  const NAMED = ["name", "href", "placeholder", "title", "alt", "for"];
  const USED =
    "a[href], button, input, select, textarea, summary, option, label, [contenteditable], [draggable=true], " +
    "[role=button], [role=link], [role=tab], [role=menuitem], [role=menuitemcheckbox], [role=menuitemradio], " +
    "[role=option], [role=checkbox], [role=radio], [role=switch], [role=treeitem]";

  // What a build or a framework makes up differs the next time.
  const MADE_UP = [
    /[^\w-]/, // React's ":r1:"
    /\d{3}/,
    /\d$/, // counted
    /[a-z]\d+[a-z]/i,
    /^\d/,
    /[0-9a-f]{8}/i,
    /^(css|sc|jss|emotion|svelte|ng|_ng\w*|radix|headlessui|ember|yui|ext|mui|chakra|styled|tw)([-_]|\d|$)/i,
    /__(?=\w*[A-Z])(?=\w*[a-z])\w{5}$/, // CSS modules
    /[-_](?=[a-z]*\d)[a-z\d]{2,}$/i,
    /^(is|has)-|^(active|selected|open|opened|hover|focus|focused|disabled|checked|hidden|visible|current|on|off)$/i,
  ];
  const lasts = (word) => word.length > 1 && word.length <= 60 && !MADE_UP.some((pattern) => pattern.test(word));

  const quoted = (text) => `"${text.replace(/["\\]/g, "\\$&").replace(/\n/g, "\\a ")}"`;
  const isHTML = (element) => element.namespaceURI === "http://www.w3.org/1999/xhtml";
  const tagOf = (element) => (isHTML(element) ? CSS.escape(element.localName) : "*");

  const leads = (parts, element) => {
    try {
      const found = all(document, parts);
      return found.length === 1 && found[0] === element;
    } catch (error) {
      if (!isRefusal(error)) throw error;
      return false;
    }
  };

  const isOnly = (root, css, element) => {
    const found = root.querySelectorAll(css);
    return found.length === 1 && found[0] === element;
  };

  // CSS -------------------------------------------------------------------------------------------

  // What its author called the element, best first.
  function* calls(element) {
    const tag = tagOf(element);
    for (const name of TEST_IDS) {
      if (element.getAttribute(name)) yield `[${name}=${quoted(element.getAttribute(name))}]`;
    }
    if (element.id && lasts(element.id)) yield `#${CSS.escape(element.id)}`;
    for (const name of NAMED) {
      const value = element.getAttribute(name);
      if (name === "for" && !lasts(value ?? "")) continue;
      if (!value || value.length > MAX_NAME || /^(#|javascript:|data:)/.test(value)) continue;
      const choice = /^(checkbox|radio)$/.test(element.type) && element.getAttribute("value");
      if (name === "name" && choice) yield `${tag}[name=${quoted(value)}][value=${quoted(choice)}]`;
      yield `${tag}[${name}=${quoted(value)}]`;
    }
    const classes = [...element.classList].filter(lasts);
    if (classes.length) yield `${tag}.${classes.map((word) => CSS.escape(word)).join(".")}`;
    if (tag === "input" || tag === "button") {
      if (element.getAttribute("type")) yield `${tag}[type=${quoted(element.getAttribute("type"))}]`;
    }
    if (tag.includes("-") || /^(main|nav|header|footer|form|h1|select|textarea)$/.test(tag)) yield tag;
  }

  const ancestors = (element) => {
    const found = [];
    for (let node = element.parentElement; node; node = node.parentElement) found.push(node);
    return found;
  };

  const namedCSS = (root, element) => {
    const mine = [...calls(element)];
    const alone = mine.find((css) => isOnly(root, css, element));
    if (alone) return alone;
    for (const ancestor of ancestors(element)) {
      const anchors = [...calls(ancestor)].filter((css) => isOnly(root, css, ancestor));
      for (const css of [...mine, tagOf(element)]) {
        const below = anchors.map((anchor) => `${anchor} ${css}`).find((whole) => isOnly(root, whole, element));
        if (below) return below;
      }
    }
    return null;
  };

  const placeAmong = (element) => {
    const same = [...(element.parentNode?.children ?? [])].filter((other) => other.localName === element.localName);
    return same.length > 1 ? same.indexOf(element) + 1 : 0;
  };

  const placedCSS = (root, element) => {
    const steps = [];
    for (let node = element; node; node = node.parentElement) {
      const anchor = node === element ? null : [...calls(node)].find((css) => isOnly(root, css, node));
      if (anchor) return [anchor, ...steps].join(" > ");
      const place = placeAmong(node);
      steps.unshift(tagOf(node) + (place ? `:nth-of-type(${place})` : ""));
    }
    return steps.join(" > ");
  };

  // XPath -----------------------------------------------------------------------------------------

  const textOf = (element) => {
    const text = collapse(element.textContent);
    return text && text.length <= MAX_TEXT && !text.includes('"') ? text : "";
  };

  const namedXPath = (element) => {
    const name = [...TEST_IDS, "id", "name"].find((key) => {
      const value = element.getAttribute(key);
      return value && !value.includes('"') && (key !== "id" || lasts(value));
    });
    if (name) return `//${tagOf(element)}[@${name}="${element.getAttribute(name)}"]`;
    const text = textOf(element);
    return text ? `//${tagOf(element)}[normalize-space()="${text}"]` : null;
  };

  // Of several that look alike, the one in the row that says what no other row says.
  const rowXPath = (element) => {
    const own = namedXPath(element) ?? `//${tagOf(element)}`;
    const like = all(document, [`xpath/${own}`]);
    if (!like.includes(element)) return null;
    for (const row of ancestors(element).slice(0, MAX_ROWS)) {
      if (like.filter((other) => row.contains(other)).length > 1) return null;
      for (const leaf of row.querySelectorAll("*")) {
        if (contains(element, leaf) || contains(leaf, element) || leaf.childElementCount || !textOf(leaf)) continue;
        const whole = `//${tagOf(row)}[.//*[normalize-space()="${textOf(leaf)}"]]${own}`;
        if (leads([`xpath/${whole}`], element)) return whole;
      }
    }
    return null;
  };

  const placedXPath = (element) => {
    const steps = [];
    for (let node = element; node; node = node.parentElement) {
      const place = placeAmong(node);
      const tag = isHTML(node) ? node.localName : `*[local-name()="${node.localName}"]`;
      steps.unshift(tag + (place ? `[${place}]` : ""));
    }
    return `/${steps.join("/")}`;
  };

  // Selectors -------------------------------------------------------------------------------------

  // The CSS of every shadow host on the way, and of the element in the innermost root.
  const throughRoots = (element, cssOf) => {
    const root = element.getRootNode();
    const css = cssOf(root, element);
    if (!css || root === document) return css ? [css] : null;
    const outer = root.host && throughRoots(root.host, (outside, host) => namedCSS(outside, host) ?? placedCSS(outside, host));
    return outer && [...outer, css];
  };

  const accessible = (element) => {
    const name = isExposed(element) ? nameOf(element) : "";
    if (!name || name.length > MAX_NAME) return null;
    const role = roleOf(element);
    return `aria/${name}${role === "generic" ? "" : `[role="${role}"]`}`;
  };

  const selectorsOf = (element) => {
    const inDocument = element.getRootNode() === document;
    const css = throughRoots(element, namedCSS);
    const own = css?.at(-1);
    const text = !isTextField(element) && element.localName !== "select" && textOf(element);
    const isTold = (parts) => parts && leads(parts, element);
    const aria = accessible(element);
    const named = [
      aria && [aria],
      css,
      inDocument && namedXPath(element) && [`xpath/${namedXPath(element)}`],
      own && [`pierce/${own}`],
      text && [`text/${text}`],
    ].filter(isTold);
    const row = named.length === 0 && inDocument && rowXPath(element);
    if (row) named.push([`xpath/${row}`]);
    if (named.length) return named;
    return [throughRoots(element, placedCSS), inDocument && [`xpath/${placedXPath(element)}`]].filter(isTold);
  };

  // Elements --------------------------------------------------------------------------------------

  // What is used by a click there: the control that holds it, or the element itself.
  const usedBy = (element) => {
    for (let node = element; node; node = parentOf(node)) {
      if (node.nodeType === Node.ELEMENT_NODE && node.matches(USED)) return node;
    }
    return element;
  };

  const heldBy = (element) => {
    const tag = element.localName;
    if (tag === "select") {
      const chosen = element.selectedOptions[0];
      return { kind: "list", value: element.value || collapse(chosen?.label) };
    }
    if (/^(checkbox|radio)$/.test(element.type)) return { kind: "box", value: String(element.checked) };
    if (tag === "textarea") return { kind: "lines", value: element.value };
    if (isTextField(element)) return { kind: "text", value: element.value };
    return element.isContentEditable ? { kind: "lines", value: element.innerText } : { kind: "none", value: "" };
  };

  const describe = (element, { used, at }) => {
    const one = used ? usedBy(element) : element;
    const box = one.getBoundingClientRect();
    const offset = at && { x: Math.round(at.x - box.x), y: Math.round(at.y - box.y) };
    return { selectors: selectorsOf(one), held: heldBy(one), offset };
  };

  // Scrolling -------------------------------------------------------------------------------------

  // All that a wheel over the element may scroll, and where it stands.
  const scrollers = (element) => {
    const found = [];
    for (let node = element; node; node = parentOf(node)) if (node.nodeType === Node.ELEMENT_NODE) found.push(node);
    if (document.scrollingElement && !found.includes(document.scrollingElement)) found.push(document.scrollingElement);
    return found.map((node) => ({ node, x: node.scrollLeft, y: node.scrollTop }));
  };

  const scrolled = (before) => {
    const moved = before.find(({ node, x, y }) => node.scrollLeft !== x || node.scrollTop !== y);
    if (!moved) return null;
    const { node } = moved;
    const place = { x: Math.round(node.scrollLeft), y: Math.round(node.scrollTop) };
    return node === document.scrollingElement ? place : { ...place, selectors: selectorsOf(node) };
  };

  return { describe, heldBy, scrollers, scrolled };
})
