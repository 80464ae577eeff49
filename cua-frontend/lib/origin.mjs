/** Where the API listens, as the web server reaches it; read when that starts. */
export const API_ORIGIN = process.env.CUA_API_ORIGIN ?? "http://127.0.0.1:8000";

const API_PATHS = /^\/(api|ws|\.well-known|docs|problems|openapi\.json|webhooks\/clerk)(\/|$)/;

/**
 * Whether the API answers there and not the web app.
 * @param {string} pathname
 */
export function isApiPath(pathname) {
  return API_PATHS.test(pathname);
}
