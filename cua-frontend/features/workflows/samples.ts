import type { WorkflowCreate } from "@/lib/api";

export const SAMPLE_NAME = "Buy tea in the sample shop";

/** Buys something in the little shop that comes with this web app. */
export function sampleShop(origin: string): WorkflowCreate {
  return {
    name: SAMPLE_NAME,
    parameters: {
      type: "object",
      properties: {
        product: {
          enum: ["Sencha green tea", "Kyusu teapot", "Bamboo whisk", "Speckled mug"],
          default: "Sencha green tea",
          description: "What to put into the cart.",
        },
        quantity: { type: "integer", minimum: 1, maximum: 9, default: 2 },
        name: { type: "string", default: "Ada Lovelace", description: "Who it is for." },
      },
    },
    definition: {
      title: SAMPLE_NAME,
      timeout: 8000,
      steps: [
        { type: "setViewport", width: 1180, height: 780, deviceScaleFactor: 1, isMobile: false, hasTouch: false, isLandscape: false },
        { type: "navigate", url: `${origin}/sample-shop/index.html` },
        {
          type: "extract",
          name: "products",
          selectors: [["#products > li"]],
          many: true,
          fields: { name: { selectors: [["h2"]] }, price: { selectors: [[".price"]], type: "number" } },
        },
        {
          type: "click",
          selectors: [['aria/{{ params.product }}[role="link"]'], ["text/{{ params.product }}"]],
          assertedEvents: [{ type: "navigation", url: `${origin}/sample-shop/product.html*` }],
        },
        { type: "change", selectors: [["aria/Quantity"], ["#quantity"]], value: "{{ params.quantity }}" },
        {
          type: "click",
          selectors: [["aria/Add to cart"], ["#add"]],
          assertedEvents: [{ type: "navigation", url: `${origin}/sample-shop/cart.html*` }],
        },
        { type: "screenshot", name: "cart" },
        { type: "change", selectors: [["aria/Name"], ["#name"]], value: "{{ params.name }}" },
        {
          type: "click",
          selectors: [["aria/Place the order"], ["#order"]],
          assertedEvents: [{ type: "navigation", url: `${origin}/sample-shop/thanks.html*` }],
        },
        {
          type: "extract",
          name: "order",
          fields: {
            thanks: { selectors: [["h1"]] },
            number: { selectors: [["#number"]] },
            total: { selectors: [["#total"]], type: "number" },
          },
        },
        { type: "screenshot", name: "confirmation" },
      ],
    },
  };
}

export const EMPTY_WORKFLOW: WorkflowCreate = {
  name: "New workflow",
  definition: { title: "New workflow", steps: [{ type: "navigate", url: "https://example.com/" }] },
};

export const READ_A_PAGE: WorkflowCreate = {
  name: "Read a page",
  parameters: {
    type: "object",
    properties: { page: { type: "string", format: "uri", default: "https://example.com/", description: "The page to read." } },
  },
  definition: {
    title: "Read a page",
    steps: [
      { type: "navigate", url: "{{ params.page }}" },
      { type: "extract", name: "page", fields: { heading: { selectors: [["h1"]] }, links: { selectors: [["a"]], type: "url", many: true } } },
      { type: "screenshot", name: "picture", fullPage: true },
    ],
  },
};

export const ASK_FIRST: WorkflowCreate = {
  name: "Ask before going on",
  definition: {
    title: "Ask before going on",
    steps: [
      { type: "navigate", url: "https://example.com/" },
      { type: "approve", title: "Is this the right page?", timeout: 3_600_000 },
      { type: "screenshot", name: "picture" },
    ],
  },
};

const PRIVATE = /^[^.:]+$|^(127\.|10\.|192\.168\.|169\.254\.|172\.(1[6-9]|2\d|3[01])\.|\[::1\]|\[f[cd])|\.(local|internal|localhost)$/;

/** Whether an address is one that browsers of runs reach only where private networks are allowed. */
export function isPrivate(hostname: string): boolean {
  return PRIVATE.test(hostname);
}
