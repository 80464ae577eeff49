"use strict";

const PRODUCTS = {
  sencha: { name: "Sencha green tea", cents: 1450, colour: "#5f8f4e", words: "First harvest from Uji, steamed and rolled, 100 g.", shape: "tin" },
  kyusu: { name: "Kyusu teapot", cents: 6400, colour: "#b4532a", words: "Red clay, a side handle, and room for two small cups.", shape: "pot" },
  whisk: { name: "Bamboo whisk", cents: 2200, colour: "#c9a45c", words: "Eighty tines cut from one piece, for matcha.", shape: "whisk" },
  mug: { name: "Speckled mug", cents: 1800, colour: "#8b9bb4", words: "Stoneware with a thumb rest, thrown by hand.", shape: "cup" },
};
const SHAPES = {
  tin: "M60 45h80v80H60zM55 33h90v14H55z",
  pot: "M58 75q42-34 84 0v30q-42 34-84 0zM142 82l30-14 4 8-32 26zM92 50h16v12H92z",
  whisk: "M92 30h16v52H92zM84 82h32l12 52H72z",
  cup: "M65 50h60v62q-30 22-60 0zM125 62q26 0 22 22t-24 18v-10q12 0 13-11t-11-9z",
};
const STORE = "sample-shop";

const find = (id) => document.getElementById(id);
const euros = (cents) => `€ ${(cents / 100).toFixed(2)}`;
const read = (name, otherwise) => JSON.parse(localStorage.getItem(`${STORE}-${name}`) ?? "null") ?? otherwise;
const write = (name, value) => localStorage.setItem(`${STORE}-${name}`, JSON.stringify(value));
const cart = () => Object.entries(read("cart", {})).filter(([id]) => Object.hasOwn(PRODUCTS, id));
const total = () => cart().reduce((sum, [id, quantity]) => sum + PRODUCTS[id].cents * quantity, 0);

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

function picture({ colour, shape }) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 200 150");
  svg.setAttribute("class", "picture");
  svg.setAttribute("aria-hidden", "true");
  const back = document.createElementNS(space, "rect");
  for (const [key, value] of Object.entries({ width: 200, height: 150, fill: colour, opacity: 0.16 })) back.setAttribute(key, String(value));
  const front = document.createElementNS(space, "path");
  front.setAttribute("d", SHAPES[shape]);
  front.setAttribute("fill", colour);
  svg.append(back, front);
  return svg;
}

const pages = {
  list() {
    for (const [id, product] of Object.entries(PRODUCTS)) {
      const link = element("a", product.name);
      link.href = `/sample-shop/product.html?id=${id}`;
      const title = element("h2");
      title.append(link);
      const price = element("p", euros(product.cents));
      price.className = "price";
      const item = element("li");
      item.append(picture(product), title, price);
      find("products").append(item);
    }
  },
  product() {
    const asked = new URLSearchParams(location.search).get("id");
    const id = asked !== null && Object.hasOwn(PRODUCTS, asked) ? asked : "sencha";
    const product = PRODUCTS[id];
    document.title = `${product.name} – Leaf & Cup`;
    find("title").textContent = product.name;
    find("price").textContent = euros(product.cents);
    find("words").textContent = product.words;
    find("picture").append(picture(product));
    find("buy").addEventListener("submit", () => {
      const kept = read("cart", {});
      write("cart", { ...kept, [id]: (kept[id] ?? 0) + Number(find("quantity").value) });
    });
  },
  cart() {
    const lines = cart();
    find("empty").hidden = lines.length > 0;
    find("filled").hidden = lines.length === 0;
    for (const [id, quantity] of lines) {
      const row = element("tr");
      const { name, cents } = PRODUCTS[id];
      row.append(element("td", name), element("td", String(quantity)), element("td", euros(cents * quantity)));
      find("lines").append(row);
    }
    find("total").textContent = euros(total());
    find("checkout").addEventListener("submit", () => {
      const number = `LC-${String(Math.floor(Math.random() * 90_000) + 10_000)}`;
      write("order", { number, name: find("name").value, total: total() });
      write("cart", {});
    });
  },
  thanks() {
    const order = read("order", { number: "–", name: "", total: 0 });
    find("thanks").textContent = order.name ? `Thank you, ${order.name}` : "Thank you";
    find("number").textContent = order.number;
    find("total").textContent = euros(order.total);
  },
};

pages[document.body.dataset.page]();
find("count").textContent = String(cart().reduce((sum, [, quantity]) => sum + quantity, 0));
