import {
  ArrowDownUp,
  Bot,
  Camera,
  CircleCheck,
  CirclePause,
  Code,
  Download,
  GitBranch,
  Hourglass,
  Keyboard,
  type LucideIcon,
  Monitor,
  MousePointer2,
  MousePointerClick,
  Move,
  Navigation,
  Puzzle,
  Repeat,
  TableProperties,
  TextCursorInput,
  Upload,
  Wifi,
  X,
} from "lucide-react";

import type { Json } from "@/lib/json";

/** How a field of a step is edited. */
type FieldKind =
  | { as: "text"; mono?: boolean; placeholder?: string }
  | { as: "long"; mono?: boolean; placeholder?: string }
  | { as: "number" }
  | { as: "boolean"; initial: boolean }
  | { as: "choice"; options: string[]; initial: string }
  | { as: "selectors" }
  | { as: "value" }
  | { as: "texts" }
  | { as: "indexes" }
  | { as: "json"; placeholder?: string }
  | { as: "extract" };

export interface StepField {
  name: string;
  label: string;
  kind: FieldKind;
  required?: boolean;
  hint?: string;
  advanced?: boolean;
}

export interface StepType {
  type: string;
  label: string;
  group: string;
  icon: LucideIcon;
  fields: StepField[];
  /** What a new one begins with. */
  template: Json;
  /** Fields that hold further steps. */
  inner: { name: string; label: string }[];
}

const text = (name: string, label: string, more: Partial<StepField> & { mono?: boolean; placeholder?: string } = {}): StepField => {
  const { mono, placeholder, ...field } = more;
  return { name, label, kind: { as: "text", mono, placeholder }, ...field };
};
const number = (name: string, label: string, more: Partial<StepField> = {}): StepField => ({ name, label, kind: { as: "number" }, ...more });
const flag = (name: string, label: string, more: Partial<StepField> & { initial?: boolean } = {}): StepField => {
  const { initial = false, ...field } = more;
  return { name, label, kind: { as: "boolean", initial }, ...field };
};
const choice = (name: string, label: string, options: string[], initial: string, more: Partial<StepField> = {}): StepField => ({
  name,
  label,
  kind: { as: "choice", options, initial },
  ...more,
});
const json = (name: string, label: string, placeholder: string, more: Partial<StepField> = {}): StepField => ({
  name,
  label,
  kind: { as: "json", placeholder },
  ...more,
});

const SELECTORS: StepField = {
  name: "selectors",
  label: "Selectors",
  kind: { as: "selectors" },
  required: true,
  hint: "Tried in order until one finds an element that can be used.",
};
const SOME_SELECTORS: StepField = { ...SELECTORS, required: false };
const OUTPUT = text("name", "Name of the output", {
  mono: true,
  required: true,
  placeholder: "results",
  hint: "Later steps know it as {{ outputs.name }}.",
});
const SCHEMA = json("schema", "Schema", '{ "type": "object" }', { advanced: true, hint: "JSON Schema that it has to fit." });
const TIMEOUT = number("timeout", "Timeout in ms", { advanced: true });
const EVENTS = json("assertedEvents", "Asserted events", '[{ "type": "navigation" }]', {
  advanced: true,
  hint: "Navigations that the step must cause. A * in an address or title binds.",
});
const TARGET = text("target", "Target", { advanced: true, mono: true, placeholder: "main", hint: "main, or the address of another tab or popup." });
const FRAME: StepField = {
  name: "frame",
  label: "Frame",
  kind: { as: "indexes" },
  advanced: true,
  hint: "The path of child frames, as 0, 1. Empty is the page itself.",
};
const ON_PAGE = [TIMEOUT, TARGET, EVENTS];
const IN_FRAME = [TIMEOUT, TARGET, FRAME, EVENTS];
const CONDITION_PAGE = [TIMEOUT, TARGET, FRAME];

const POINTER = [
  SELECTORS,
  choice("button", "Button", ["primary", "secondary", "auxiliary", "back", "forward"], "primary"),
  number("offsetX", "Offset x", { advanced: true, hint: "From the element's left; empty is its centre." }),
  number("offsetY", "Offset y", { advanced: true }),
  choice("deviceType", "Device", ["mouse", "touch", "pen"], "mouse", { advanced: true }),
  number("duration", "Held for ms", { advanced: true }),
  ...IN_FRAME,
];
const KEY = [text("key", "Key", { mono: true, required: true, placeholder: "Enter", hint: "One character, or a name such as Enter, KeyA, ArrowDown." }), ...ON_PAGE];

export const STEP_TYPES: StepType[] = [
  step("navigate", "Open an address", "Navigation", Navigation, { url: "https://example.com/" }, [
    text("url", "Address", { mono: true, required: true, placeholder: "https://example.com/" }),
    ...ON_PAGE,
  ]),
  step("setViewport", "Set the window size", "Navigation", Monitor, viewport(), [
    number("width", "Width", { required: true }),
    number("height", "Height", { required: true }),
    number("deviceScaleFactor", "Scale", { advanced: true }),
    flag("isMobile", "Mobile", { advanced: true }),
    flag("hasTouch", "Touch screen", { advanced: true }),
    flag("isLandscape", "Landscape", { advanced: true }),
    ...ON_PAGE,
  ]),
  step("emulateNetworkConditions", "Slow the network", "Navigation", Wifi, { download: 180_000, upload: 84_375, latency: 560 }, [
    number("download", "Download, bytes per second", { required: true, hint: "-1 is unlimited." }),
    number("upload", "Upload, bytes per second", { required: true }),
    number("latency", "Latency in ms", { required: true }),
    ...ON_PAGE,
  ]),
  step("close", "Close the tab", "Navigation", X, { target: "main" }, [TIMEOUT, { ...TARGET, advanced: false }, EVENTS]),
  step("click", "Click", "Pointer", MousePointerClick, { selectors: [["aria/"]] }, POINTER),
  step("doubleClick", "Double-click", "Pointer", MousePointerClick, { selectors: [["aria/"]] }, POINTER),
  step("hover", "Hover", "Pointer", MousePointer2, { selectors: [["aria/"]] }, [SELECTORS, ...IN_FRAME]),
  step("scroll", "Scroll", "Pointer", ArrowDownUp, { x: 0, y: 400 }, [
    number("x", "To x"),
    number("y", "To y"),
    { ...SOME_SELECTORS, hint: "An element to scroll in. Empty is the page." },
    ...IN_FRAME,
  ]),
  step("drag", "Drag", "Pointer", Move, { selectors: [[""]], to: { selectors: [[""]] } }, [
    { ...SELECTORS, label: "From" },
    json("to", "To an element", '{ "selectors": ["#bin"] }'),
    json("by", "Or by pixels", '{ "x": 100, "y": 0 }'),
    number("offsetX", "Offset x", { advanced: true }),
    number("offsetY", "Offset y", { advanced: true }),
    ...IN_FRAME,
  ]),
  step("change", "Fill in a field", "Keyboard", TextCursorInput, { selectors: [["aria/"]], value: "" }, [
    SELECTORS,
    {
      name: "value",
      label: "Value",
      kind: { as: "long" },
      required: true,
      hint: "May hold {{ params.name }}, {{ outputs.name }} or {{ secrets.shop.password }}. true and false set check boxes.",
    },
    ...IN_FRAME,
  ]),
  step("keyDown", "Press a key", "Keyboard", Keyboard, { key: "Enter" }, KEY),
  step("keyUp", "Release a key", "Keyboard", Keyboard, { key: "Enter" }, KEY),
  step("waitForElement", "Wait for an element", "Waiting", Hourglass, { selectors: [["aria/"]], visible: true }, [
    SELECTORS,
    choice("operator", "How many", [">=", "==", "<="], ">="),
    number("count", "Count"),
    choice("visible", "Visible", ["true", "false"], "", { hint: "No: waits until they are not there." }),
    json("attributes", "Attributes", '{ "data-state": "ready" }', { advanced: true }),
    json("properties", "Properties", '{ "textContent": "Done" }', { advanced: true }),
    ...IN_FRAME,
  ]),
  step("waitForExpression", "Wait for JavaScript", "Waiting", Code, { expression: "document.title !== ''" }, [
    { name: "expression", label: "Expression", kind: { as: "long", mono: true }, required: true, hint: "Waited for until it is true." },
    ...IN_FRAME,
  ]),
  step("pause", "Pause for a person", "Waiting", CirclePause, { title: "Please sign in" }, [
    text("title", "What for", { required: true, hint: "The run waits until somebody resumes it." }),
  ]),
  step("approve", "Ask for a yes", "Waiting", CircleCheck, { title: "Go on?" }, [
    text("title", "Question", { required: true, hint: "May hold {{ params.name }} and {{ outputs.name }}." }),
    number("timeout", "Answer within ms", { hint: "No answer is a no. Empty is a day." }),
    text("name", "Name of the answer", { mono: true, advanced: true }),
    json("arguments", "Arguments to show and edit", '{ "amount": 70 }', { advanced: true }),
    SCHEMA,
  ]),
  step("extract", "Extract data", "Data and files", TableProperties, { name: "data", fields: { heading: { selectors: [["h1"]] } } }, [
    OUTPUT,
    { ...SOME_SELECTORS, label: "Where to read", hint: "Empty is the whole page." },
    flag("many", "A list, one object for every match"),
    { name: "fields", label: "Fields", kind: { as: "extract" }, required: true },
    flag("optional", "May be missing", { advanced: true }),
    SCHEMA,
    ...IN_FRAME,
  ]),
  step("screenshot", "Take a picture", "Data and files", Camera, { name: "picture" }, [
    OUTPUT,
    flag("fullPage", "The whole page"),
    { ...SOME_SELECTORS, hint: "One element. Empty is the page." },
    ...IN_FRAME,
  ]),
  step("download", "Download a file", "Data and files", Download, { name: "file", selectors: [["aria/Download"]] }, [
    OUTPUT,
    { ...SOME_SELECTORS, hint: "What to click. Or give an address, or neither for what an earlier step began." },
    text("url", "Address", { mono: true }),
    ...IN_FRAME,
  ]),
  step("upload", "Upload files", "Data and files", Upload, { selectors: [["input[type=file]"]], files: [""] }, [
    SELECTORS,
    { name: "files", label: "Files", kind: { as: "texts" }, required: true, hint: "Ids of your files, or placeholders." },
    ...IN_FRAME,
  ]),
  step("if", "If", "Logic", GitBranch, { selectors: [["aria/"]], then: [] }, [
    { ...SOME_SELECTORS, label: "An element is visible", hint: "Give one condition: an element, an expression or a value." },
    { name: "expression", label: "Or JavaScript is true", kind: { as: "long", mono: true } },
    { name: "value", label: "Or a value", kind: { as: "value" }, hint: "As {{ outputs.order.total }}. Alone, it must not be empty." },
    choice("operator", "Compares", ["==", "!=", ">", ">=", "<", "<=", "contains"], ""),
    { name: "than", label: "With", kind: { as: "value" } },
    ...CONDITION_PAGE,
  ], [
    { name: "then", label: "Then" },
    { name: "else", label: "Else" },
  ]),
  step("forEach", "For each", "Logic", Repeat, { items: "{{ outputs.data }}", as: "item", steps: [] }, [
    { name: "items", label: "Items", kind: { as: "value" }, required: true, hint: "A list, or a placeholder for one." },
    text("as", "Each is called", { mono: true, placeholder: "item" }),
    text("name", "Name of the output", { mono: true, hint: "Collects what each round brings." }),
  ], [{ name: "steps", label: "Steps" }]),
  step("agent", "Let a model do it", "Logic", Bot, { task: "" }, [
    { name: "task", label: "Task", kind: { as: "long" }, required: true, hint: "May hold {{ params.name }} and {{ outputs.name }}." },
    text("name", "Name of the result", { mono: true }),
    SCHEMA,
  ]),
  step("customStep", "Custom step", "Logic", Puzzle, { name: "extension", parameters: {} }, [
    text("name", "Name", { mono: true, required: true }),
    json("parameters", "Parameters", "{}"),
    ...IN_FRAME,
  ]),
];

export const STEP_GROUPS = [...new Set(STEP_TYPES.map(({ group }) => group))];

const BY_TYPE = new Map(STEP_TYPES.map((each) => [each.type, each]));

export function stepType(type: unknown): StepType | undefined {
  return typeof type === "string" ? BY_TYPE.get(type) : undefined;
}

function step(
  type: string,
  label: string,
  group: string,
  icon: LucideIcon,
  template: Json,
  fields: StepField[],
  inner: StepType["inner"] = [],
): StepType {
  return { type, label, group, icon, template: { type, ...template }, fields, inner };
}

function viewport(): Json {
  return { width: 1280, height: 800, deviceScaleFactor: 1, isMobile: false, hasTouch: false, isLandscape: false };
}
