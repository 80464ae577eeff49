/** Where the API listens, as the web server reaches it. */
export const API_ORIGIN = process.env.CUA_API_ORIGIN ?? "http://127.0.0.1:8000";
