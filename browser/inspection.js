// Evaluated as a selector engine in a world of its own: the page's scripts change nothing here. Its elements
// are another matter: names in a form or document hide the members of either, hence the getters by hand.
((page, give) => {
  const getter = (type, name) => {
    const { get } = Object.getOwnPropertyDescriptor(type.prototype, name);
    return (object) => get.call(object);
  };
  const parentNode = getter(Node, "parentNode");
  const assignedSlot = getter(Element, "assignedSlot");
  const shadowRoot = getter(Element, "shadowRoot");
  const activeElement = getter(Document, "activeElement");
  const formMethod = getter(HTMLFormElement, "method");
  const formElements = getter(HTMLFormElement, "elements");
  const attribute = (element, name) => Element.prototype.getAttribute.call(element, name) ?? "";
  const parentOf = (node) => {
    const slot = node instanceof Element ? assignedSlot(node) : null;
    return slot ?? parentNode(node) ?? (node instanceof ShadowRoot ? node.host : null);
  };
  const collapse = (text) => String(text ?? "").slice(0, 2000).replace(/\s+/g, " ").trim();
  const MOST_WORDS = 300, SHORT = 80, NEAR = 4;

  // Where ---------------------------------------------------------------------------------------------

  const elementAt = (x, y) => {
    let found = Document.prototype.elementFromPoint.call(document, x, y);
    while (found && shadowRoot(found)) {
      const inner = shadowRoot(found).elementFromPoint(x, y);
      if (!inner || inner === found) break;
      found = inner;
    }
    return found;
  };

  const focused = () => {
    let found = activeElement(document);
    while (found && shadowRoot(found)?.activeElement) found = shadowRoot(found).activeElement;
    return found;
  };

  const boxOf = (element) => Element.prototype.getBoundingClientRect.call(element);

  // Where a click on the element lands: itself, or what lies in its middle.
  const pressed = (element) => {
    Element.prototype.scrollIntoViewIfNeeded.call(element);
    const { x, y, width, height } = boxOf(element);
    const middle = elementAt(x + width / 2, y + height / 2);
    for (let node = middle; node; node = parentOf(node)) if (node === element) return middle;
    return element;
  };

  const isFrame = (element) => element instanceof HTMLIFrameElement || element instanceof HTMLFrameElement;

  const inFrame = (frame, [x, y]) => {
    const { left, top } = boxOf(frame), style = getComputedStyle(frame);
    return [
      x - left - frame.clientLeft - parseFloat(style.paddingLeft), y - top - frame.clientTop - parseFloat(style.paddingTop),
    ];
  };

  // What ----------------------------------------------------------------------------------------------

  const CONTROL = /^(button|checkbox|combobox|link|menuitem|menuitemcheckbox|menuitemradio|option|radio|switch|tab|treeitem)$/;

  const isControl = (element) =>
    (element instanceof HTMLAnchorElement || element instanceof HTMLAreaElement
      ? element.hasAttribute("href")
      : element instanceof HTMLButtonElement || element instanceof HTMLInputElement || element instanceof HTMLSelectElement ||
        element instanceof HTMLTextAreaElement || element instanceof HTMLLabelElement || element.localName === "summary") ||
    CONTROL.test(attribute(element, "role").trim().toLowerCase()) || attribute(element, "onclick") !== "";

  const controlOf = (element) => {
    for (let node = element; node; node = parentOf(node)) {
      if (!(node instanceof Element) || !isControl(node)) continue;
      return node instanceof HTMLLabelElement ? node.control ?? node : node;
    }
    return null;
  };

  const TEXT = /^(text|password|email|number|search|tel|url|date|datetime-local|month|time|week)$/;
  const isMultiline = (element) => element instanceof HTMLTextAreaElement || element.isContentEditable === true;
  const isText = (element) => isMultiline(element) || (element instanceof HTMLInputElement && TEXT.test(element.type));

  const CARD = /\b(cc|card|credit|cvc|cvv|csc|iban|bic|kontonummer|karte|carte|tarjeta|carta)|(card|konto|account).?(number|nr|no)\b|kart|卡号|カード番号/i;
  const CODE = /one.?time|\b(otp|totp|2fa|mfa|tan|pin)\b|(verification|security|auth\w*|sms).?(code|pin)|passcode/i;

  const fieldOf = (element) => {
    if (!isText(element)) return {};
    const completes = attribute(element, "autocomplete").toLowerCase();
    const called = [attribute(element, "name"), element.id, attribute(element, "placeholder"), nameOf(element)]
      .join(" ").replace(/_/g, " ").replace(/([a-z])([A-Z])/g, "$1 $2").slice(0, 600);
    return {
      password: element.type === "password" || /password/.test(completes),
      card: /\bcc-/.test(completes) || CARD.test(called),
      code: /one-time-code/.test(completes) || CODE.test(called),
    };
  };

  const nameOf = (element) => {
    try {
      return collapse(page.nameOf(element)).slice(0, MOST_WORDS);
    } catch {
      return "";
    }
  };

  const textOf = (element) => collapse(element instanceof HTMLElement ? element.innerText : element.textContent);

  // Everything that the element says of itself, to people and to programs.
  const wordsOf = (element) => {
    const images = [...element.querySelectorAll("img[alt], svg title, [aria-label], [title]")].slice(0, 20);
    const said = [nameOf(element), textOf(element), attribute(element, "aria-label"), attribute(element, "title")];
    if (element instanceof HTMLInputElement && !isText(element)) said.push(element.value, attribute(element, "alt"));
    for (const image of images) {
      said.push(attribute(image, "alt"), attribute(image, "aria-label"), attribute(image, "title"), image.textContent);
    }
    return [...new Set(said.map((text) => collapse(text).slice(0, MOST_WORDS)).filter(Boolean))];
  };

  // What is short around a place that is no control: pages make buttons of anything.
  const wordsNear = (element) => {
    const said = [];
    for (let node = element; node instanceof HTMLElement && said.length < NEAR; node = parentOf(node)) {
      const text = textOf(node);
      if (text.length > SHORT || node === document.body) break;
      said.push(...wordsOf(node).filter((words) => words.length <= SHORT));
    }
    return [...new Set(said)];
  };

  const formAround = (element) => {
    const own = "form" in element && !(element instanceof HTMLFormElement) ? element.form : null;
    if (own instanceof HTMLFormElement) return own;
    for (let node = element; node; node = parentOf(node)) if (node instanceof HTMLFormElement) return node;
    return null;
  };

  const submits = (element) =>
    (element instanceof HTMLButtonElement || element instanceof HTMLInputElement) && /^(submit|image)$/.test(element.type);

  const formOf = (element) => {
    const form = formAround(element);
    if (!form) return null;
    const fields = [...formElements(form)], kinds = fields.map(fieldOf), button = fields.find(submits);
    const by = submits(element) ? element : button;
    return {
      method: by?.formMethod || formMethod(form),
      target: URL.parse((by?.hasAttribute("formaction") ? attribute(by, "formaction") : attribute(form, "action")) || document.URL, document.baseURI)?.href ?? "",
      password: kinds.some((kind) => kind.password),
      card: kinds.some((kind) => kind.card),
      code: kinds.some((kind) => kind.code),
      files: fields.some((field) => field instanceof HTMLInputElement && field.type === "file" && field.files.length > 0),
      words: button ? wordsOf(button) : [],
    };
  };

  const factsOf = (element) => {
    const control = controlOf(element), main = control ?? element;
    const isLink = main instanceof HTMLAnchorElement || main instanceof HTMLAreaElement;
    return {
      role: page.roleOf(main),
      name: nameOf(main) || textOf(main).slice(0, SHORT),
      words: control ? wordsOf(control) : wordsNear(element),
      submits: submits(main),
      link: isLink ? main.href : null,
      download: isLink && main.hasAttribute("download"),
      text: isText(main),
      multiline: isMultiline(main),
      input: main instanceof HTMLInputElement,
      form: formOf(main),
      ...fieldOf(main),
      // A closed shadow root shows nothing of what is inside.
      blind: element.localName.includes("-") && !shadowRoot(element) && !control,
    };
  };

  // A secret stands in a field that was masked for it.
  const holdsSecret = (root) =>
    [...root.querySelectorAll("*")].some(
      (element) =>
        (element.style?.getPropertyPriority("-webkit-text-security") === "important" && (element.value || element.textContent)) ||
        (shadowRoot(element) && holdsSecret(shadowRoot(element))),
    );

  // ---------------------------------------------------------------------------------------------------

  const meet = (root, [kind, ...numbers]) => {
    if (kind === "at") return { element: elementAt(...numbers.map(Number)), point: numbers.map(Number) };
    if (kind === "focus") return { element: focused(), point: null };
    if (kind === "self") return { element: root, point: null };
    const element = pressed(root), { x, y, width, height } = boxOf(root);
    return { element, point: [x + width / 2, y + height / 2] };
  };

  const tell = (root, wish) => {
    if (wish === "secret") return { secret: Boolean(holdsSecret(Document.prototype.querySelectorAll.call(document, "html")[0] ?? document)) };
    const { element, point } = meet(root, wish.split(" "));
    if (!element) return { url: location.href, element: null };
    if (!isFrame(element)) return { url: location.href, element: factsOf(element) };
    return { url: location.href, frame: true, point: point && inFrame(element, point) };
  };

  const queryAll = (root, wish) => {
    if (give === "frame") return [meet(root, wish.split(" ")).element].filter(Boolean);
    const answer = Document.prototype.createElement.call(document, "i");
    answer.setAttribute("facts", JSON.stringify(tell(root, wish)));
    return [answer];
  };

  return { query: (root, wish) => queryAll(root, wish)[0], queryAll };
})
