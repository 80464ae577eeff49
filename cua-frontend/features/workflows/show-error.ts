const DRAWN_MS = 60; // the words of the server are drawn a little later than they are heard

/** Brings what is wrong with a form into view, once it is drawn: the first wrong field, else what is said above. */
export function showError(form: HTMLFormElement | null): void {
  setTimeout(() => {
    const wrong = form?.querySelector<HTMLElement>("[aria-invalid=true]") ?? form?.querySelector<HTMLElement>("[role=alert]");
    wrong?.scrollIntoView({ block: "center" });
    wrong?.focus();
  }, DRAWN_MS);
}
