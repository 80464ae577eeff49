import { isObject, type Json } from "@/lib/json";
import { Problem } from "@/lib/problem";

type ParameterKind = "text" | "long" | "number" | "integer" | "boolean" | "choice" | "json";

/** One of a workflow's parameters, as a form shows it. */
export interface Parameter {
  name: string;
  label: string;
  description?: string;
  kind: ParameterKind;
  /** Of an input: `date`, `email` and the like. */
  inputType: string;
  required: boolean;
  initial: string;
  options: { value: string; label: string }[];
  schema: Json;
}

const INPUT_TYPES: Record<string, string> = {
  date: "date",
  time: "time",
  "date-time": "datetime-local",
  email: "email",
  uri: "url",
  url: "url",
  password: "password",
};

/** The name of the field for all params that have none of their own; no property that has a field is called so. */
const OTHERS = "";

function propertiesOf(schema: Json): Json {
  return isObject(schema.properties) ? schema.properties : {};
}

/** Whether a schema takes params that it does not name. */
function takesOthers(schema: Json): boolean {
  return [schema.additionalProperties, schema.patternProperties].some((told) => told === true || isObject(told));
}

/** The parameters that a JSON Schema declares, and one more for what it takes besides. */
export function parametersOf(schema: Json): Parameter[] {
  const others: Parameter = {
    name: OTHERS,
    label: "Other params",
    description: 'Those without a field of their own, as a JSON object: {"name": "value"}.',
    kind: "json",
    inputType: "text",
    required: false,
    initial: "",
    options: [],
    schema: { type: "object" },
  };
  return [...namedParameters(schema), ...(takesOthers(schema) ? [others] : [])];
}

function namedParameters(schema: Json): Parameter[] {
  const properties = propertiesOf(schema);
  const required = Array.isArray(schema.required) ? schema.required : [];
  return Object.entries(properties).map(([name, told]) => {
    const property = isObject(told) ? told : {};
    const options = Array.isArray(property.enum) ? property.enum.map((value) => ({ value: JSON.stringify(value), label: asText(value) })) : [];
    const kind: ParameterKind = options.length > 0 ? "choice" : kindOf(property);
    const format = typeof property.format === "string" ? property.format : "";
    return {
      name,
      label: typeof property.title === "string" ? property.title : name,
      description: typeof property.description === "string" ? property.description : undefined,
      kind,
      inputType: INPUT_TYPES[format] ?? "text",
      required: required.includes(name) && property.default === undefined,
      initial: property.default === undefined ? "" : rawOf(property.default, kind),
      options,
      schema: property,
    };
  });
}

function kindOf(property: Json): ParameterKind {
  const types = Array.isArray(property.type) ? property.type.filter((type) => type !== "null") : [property.type ?? typeOf(property.default)];
  switch (types.length === 1 ? types[0] : undefined) {
    case "integer":
      return "integer";
    case "number":
      return "number";
    case "boolean":
      return "boolean";
    case "string":
      return property.format === "textarea" || (typeof property.maxLength === "number" && property.maxLength > 200) ? "long" : "text";
    case "array":
    case "object":
      return "json";
    default:
      return "text";
  }
}

function typeOf(value: unknown): string | undefined {
  if (Array.isArray(value)) return "array";
  return typeof value === "object" ? (value === null ? undefined : "object") : typeof value;
}

function asText(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** A value as a form holds it: everything is text there, and empty where nothing was given. */
function rawOf(value: unknown, kind: ParameterKind): string {
  if (kind === "choice" || kind === "boolean") return JSON.stringify(value);
  if (kind === "json" && typeof value !== "string") return JSON.stringify(value, null, 2);
  return asText(value);
}

/** What the form starts with: what was given before, else the defaults. */
export function rawParams(parameters: Parameter[], given: Json = {}): Record<string, string> {
  const others = Object.fromEntries(Object.entries(given).filter(([name]) => !parameters.some((each) => each.name === name)));
  const known = Object.keys(others).length > 0 ? { ...given, [OTHERS]: others } : given;
  return Object.fromEntries(
    parameters.map(({ name, kind, initial }) => [name, known[name] === undefined ? initial : rawOf(known[name], kind)]),
  );
}

/** The params that were filled in, and by name what cannot be right. */
export function readParams(parameters: Parameter[], raw: Record<string, string>): { params: Json; wrong: Record<string, string> } {
  const params: Json = {};
  const wrong: Record<string, string> = {};
  for (const parameter of parameters) {
    const { name, kind, required, initial } = parameter;
    const text = raw[name] ?? "";
    if (text === "") {
      if (required) wrong[name] = "This is needed";
      else if (initial !== "" && (kind === "text" || kind === "long")) params[name] = ""; // left out it would be its default
      continue;
    }
    try {
      const value = valueOf(text, kind, parameter.schema);
      if (name === OTHERS) Object.assign(params, othersOf(value, parameters));
      else params[name] = value;
    } catch (error) {
      wrong[name] = error instanceof Error ? error.message : String(error);
    }
  }
  return { params, wrong };
}

function othersOf(value: unknown, parameters: Parameter[]): Json {
  if (!isObject(value)) throw new Error('Write a JSON object, as {"a": 1}');
  const own = parameters.find(({ name }) => name !== OTHERS && name in value);
  if (own) throw new Error(`“${own.name}” has a field of its own`);
  return value;
}

function valueOf(text: string, kind: ParameterKind, schema: Json): unknown {
  if (kind === "integer" || kind === "number") {
    const number = Number(text);
    if (!Number.isFinite(number)) throw new Error("Give a number");
    if (kind === "integer" && !Number.isInteger(number)) throw new Error("Give a whole number");
    return number;
  }
  if (kind === "choice" || kind === "boolean") return JSON.parse(text);
  if (kind === "json") {
    try {
      return JSON.parse(text);
    } catch {
      throw new Error(schema.type === "array" ? 'Write a JSON list, as ["a", "b"]' : 'Write a JSON object, as {"a": 1}');
    }
  }
  return schema.format === "date-time" && /^\d{4}-\d\d-\d\dT\d\d:\d\d$/.test(text) ? new Date(text).toISOString() : text;
}

/** What the server says of single params; of those without a field by the one for all of them. */
export function wrongParams(error: Error | null, schema: Json): Record<string, string> {
  if (!(error instanceof Problem) || error.code !== "invalid_params") return {};
  const named = propertiesOf(schema);
  const wrong = error.errors.flatMap(({ loc: [name], msg }) => {
    if (name === undefined) return [];
    if (name in named) return [[name, msg]];
    return takesOthers(schema) ? [[OTHERS, `${name}: ${msg}`]] : [];
  });
  return Object.fromEntries(wrong);
}

const PLACEHOLDER = /\{\{\s*params\.([A-Za-z_][\w-]*)/g;

/** A schema of what the steps name, for a recording that came without its own; null where they name nothing. */
export function parametersNamedIn(definition: unknown): Json | null {
  const names = [...new Set([...JSON.stringify(definition).matchAll(PLACEHOLDER)].map((match) => match[1] ?? ""))];
  if (names.length === 0) return null;
  return { type: "object", properties: Object.fromEntries(names.map((name) => [name, { type: "string" }])), required: names };
}
