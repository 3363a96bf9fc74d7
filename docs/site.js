/* What scrolls sideways can be reached by the keyboard, and the bar of each block of code has a name of its own. The
   theme makes both after the page is loaded. */
"use strict";

const mend = () => {
  for (const part of document.querySelectorAll(".md-typeset__scrollwrap, pre > code")) part.tabIndex = 0;
  document.querySelectorAll(".md-code__nav").forEach((bar, place) => (bar.ariaLabel = `Code ${place + 1}`));
};

document.addEventListener("DOMContentLoaded", () => {
  mend();
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
});
