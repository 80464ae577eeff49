// What an origin keeps in the browser, in the form of Playwright's storage state: `read` tells its local storage
// and its databases, `write` makes databases anew. A database that cannot be told or made is left out whole:
// a site that finds half of what it kept may do worse than one that finds nothing.
(() => {
  const DATABASES_MS = 1000;
  const ARRAYS = {
    i8: Int8Array, ui8: Uint8Array, ui8c: Uint8ClampedArray, i16: Int16Array, ui16: Uint16Array,
    i32: Int32Array, ui32: Uint32Array, f32: Float32Array, f64: Float64Array,
    bi64: BigInt64Array, bui64: BigUint64Array,
  };
  const NUMBERS = { NaN: NaN, Infinity: Infinity, "-Infinity": -Infinity, "-0": -0 };

  const settled = (request) => new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

  // Values ----------------------------------------------------------------------------------------------

  const toBase64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  function encoder(room) {
    const ids = new Map();
    const spend = (bytes) => {
      if ((room -= bytes) < 0) throw new RangeError("too large");
    };
    const entries = (pairs) => Array.from(pairs, ([k, v]) => ({ k: encode(k), v: encode(v) }));
    const encode = (value) => {
      spend(typeof value === "string" ? value.length + 8 : 8);
      if (value === undefined) return { v: "undefined" };
      if (value === null) return { v: "null" };
      if (typeof value === "number") {
        const name = Object.keys(NUMBERS).find((key) => Object.is(NUMBERS[key], value));
        return name ? { v: name } : value;
      }
      if (typeof value === "boolean" || typeof value === "string") return value;
      if (typeof value === "bigint") return { bi: value.toString() };
      if (value instanceof Date) return { d: value.toJSON() };
      if (value instanceof RegExp) return { r: { p: value.source, f: value.flags } };
      if (value instanceof ArrayBuffer) {
        spend(value.byteLength * 2);
        return { ab: { b: toBase64(new Uint8Array(value)) } };
      }
      for (const [k, type] of Object.entries(ARRAYS)) {
        if (value instanceof type) {
          spend(value.byteLength * 2);
          return { ta: { b: toBase64(new Uint8Array(value.buffer, value.byteOffset, value.byteLength)), k } };
        }
      }
      if (ids.has(value)) return { ref: ids.get(value) };
      const id = ids.size + 1;
      ids.set(value, id);
      if (Array.isArray(value)) return { a: Array.from(value, encode), id };
      if (value instanceof Map) return { m: entries(value), id };
      if (value instanceof Set) return { s: Array.from(value, encode), id };
      if (Object.getPrototypeOf(value) === Object.prototype) return { o: entries(Object.entries(value)), id };
      throw new TypeError("of a kind that only the browser can keep");
    };
    return (value) => {
      ids.clear();
      return encode(value);
    };
  }

  function decode(value, made = new Map()) {
    const keep = (container, id) => {
      made.set(id, container);
      return container;
    };
    if (typeof value !== "object" || value === null) return value;
    if ("ref" in value) return made.get(value.ref);
    if ("v" in value) return value.v === "null" ? null : NUMBERS[value.v];
    if ("bi" in value) return BigInt(value.bi);
    if ("d" in value) return new Date(value.d);
    if ("r" in value) return new RegExp(value.r.p, value.r.f);
    if ("ab" in value) return fromBase64(value.ab.b).buffer;
    if ("ta" in value) return new ARRAYS[value.ta.k](fromBase64(value.ta.b).buffer);
    if ("a" in value) {
      const list = keep([], value.id);
      for (const item of value.a) list.push(decode(item, made));
      return list;
    }
    if ("m" in value) {
      const map = keep(new Map(), value.id);
      for (const { k, v } of value.m) map.set(decode(k, made), decode(v, made));
      return map;
    }
    if ("s" in value) {
      const set = keep(new Set(), value.id);
      for (const item of value.s) set.add(decode(item, made));
      return set;
    }
    if ("o" in value) {
      const object = keep({}, value.id);
      for (const { k, v } of value.o) {
        Object.defineProperty(object, k, { value: decode(v, made), configurable: true, enumerable: true, writable: true });
      }
      return object;
    }
    throw new TypeError("no value of a storage state");
  }

  // Databases -------------------------------------------------------------------------------------------

  const pathOf = ({ keyPath }) => Array.isArray(keyPath) ? { keyPathArray: keyPath } : keyPath === null ? {} : { keyPath };
  const path = ({ keyPath, keyPathArray }) => keyPathArray ?? keyPath ?? null;

  const recordsOf = (store, encode) => new Promise((resolve, reject) => {
    const records = [];
    const request = store.openCursor();
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      const cursor = request.result;
      if (!cursor) return resolve(records);
      try {
        const key = store.keyPath === null ? { keyEncoded: encode(cursor.key) } : {};
        records.push({ ...key, valueEncoded: encode(cursor.value) });
        cursor.continue();
      } catch (error) {
        reject(error);
      }
    };
  });

  async function tell(name, room) {
    const opening = indexedDB.open(name);
    opening.onupgradeneeded = () => opening.transaction.abort(); // it was deleted meanwhile
    const database = await settled(opening);
    try {
      const encode = encoder(room), names = [...database.objectStoreNames], stores = [];
      const transaction = names.length ? database.transaction(names) : null;
      for (const name of names) {
        const store = transaction.objectStore(name);
        const indexes = Array.from(store.indexNames, (name) => {
          const index = store.index(name);
          return { name, ...pathOf(index), unique: index.unique, multiEntry: index.multiEntry };
        });
        const records = await recordsOf(store, encode);
        stores.push({ name, ...pathOf(store), autoIncrement: store.autoIncrement, indexes, records });
      }
      return { name, version: database.version, stores };
    } finally {
      database.close();
    }
  }

  async function make({ name, version, stores }) {
    const opening = indexedDB.open(name, version);
    opening.onupgradeneeded = () => {
      for (const it of stores) {
        const store = opening.result.createObjectStore(it.name, { keyPath: path(it), autoIncrement: it.autoIncrement });
        for (const index of it.indexes) store.createIndex(index.name, path(index), index);
        for (const record of it.records) {
          const key = "key" in record ? record.key : decode(record.keyEncoded);
          store.add("value" in record ? record.value : decode(record.valueEncoded), key);
        }
      }
    };
    (await settled(opening)).close();
  }

  async function databases(room) {
    const told = await Promise.allSettled((await indexedDB.databases()).map(({ name }) => tell(name, room)));
    return JSON.stringify(told.flatMap(({ status, value }) => status === "fulfilled" ? [value] : []));
  }

  return {
    async read(room) {
      const told = { origin: location.origin, items: null, databases: null };
      try {
        told.items = Object.entries(localStorage);
        const late = new Promise((resolve) => setTimeout(resolve, DATABASES_MS, null));
        told.databases = await Promise.race([databases(room), late]);
      } catch { /* it has none, or none for this frame */ }
      return told;
    },
    async write(databases) {
      await Promise.allSettled(databases.map(make));
    },
  };
})()
