import { client } from "./api/client.gen";
import { getToken } from "./auth/session";
import { Problem, problemOf } from "./problem";

client.setConfig({ baseUrl: "" });
client.interceptors.request.use(async (request) => {
  const token = await getToken();
  if (token) request.headers.set("authorization", `Bearer ${token}`);
  return request;
});

interface Answer<T> {
  data?: T;
  error?: unknown;
  response?: Response;
}

/** The reply's body; throws a Problem for any that says so, and for a server that is not reached. */
async function settled<T>(asked: Promise<Answer<T>>): Promise<T> {
  const { data, error, response } = await asked;
  if (!response) throw new Problem({ status: 0, code: "offline", title: "The server cannot be reached" });
  if (!response.ok || data === undefined) throw await problemOf(response, error ?? {});
  return data;
}

/** What an operation of `lib/api` answers with, out of its envelope. */
export async function call<T>(asked: Promise<Answer<{ data: T }>>): Promise<T> {
  return (await settled(asked)).data;
}

export interface Page<T> {
  data: T[];
  next_cursor: string | null;
}

/** A page of a list. */
export async function page<T>(asked: Promise<Answer<Page<T>>>): Promise<Page<T>> {
  const { data, next_cursor } = await settled(asked);
  return { data, next_cursor };
}

/** A picture or file of the API, which wants a token, as bytes. */
export async function fetchBlob(path: string, signal?: AbortSignal): Promise<Blob> {
  const token = await getToken();
  const headers = token ? { authorization: `Bearer ${token}` } : undefined;
  const reply = await fetch(path, { headers, signal });
  if (!reply.ok) throw await problemOf(reply);
  return reply.blob();
}
