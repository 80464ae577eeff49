// The shop's three moving parts: a rating in a shadow root, the payment frame, and the checkout around it.

customElements.define("shop-rating", class extends HTMLElement {
  connectedCallback() {
    const star = (n) => `<button type="button" aria-label="Rate ${n} of 5" data-n="${n}">★</button>`;
    const root = this.attachShadow({ mode: "open" });
    root.innerHTML = `<link rel="stylesheet" href="/shop.css">${[1, 2, 3, 4, 5].map(star).join("")}
      <output>Not rated yet</output>`;
    root.addEventListener("click", ({ target }) => {
      const given = Number(target.dataset.n ?? 0);
      if (!given) return;
      for (const button of root.querySelectorAll("button")) {
        button.classList.toggle("on", Number(button.dataset.n) <= given);
      }
      root.querySelector("output").textContent = `You gave ${given} of 5`;
    });
  }
});

document.getElementById("confirm")?.addEventListener("click", () => {
  const card = document.getElementById("card");
  const digits = card.value.replaceAll(/\D/g, "");
  card.setCustomValidity(digits.length === 16 ? "" : "A card number has 16 digits.");
  if (card.reportValidity()) parent.postMessage({ card: digits.slice(-4) }, location.origin);
});

addEventListener("message", (event) => {
  if (event.origin !== location.origin || !event.data.card) return;
  document.getElementById("paid").textContent = `Card ending in ${event.data.card}`;
  setTimeout(() => { document.getElementById("place").disabled = false; }, 300);
});
