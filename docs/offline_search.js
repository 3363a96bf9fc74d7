/* A page that was opened from a disk may start no worker, and the search is one. This runs it in a frame instead. */
"use strict";

if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inner = frame.contentWindow;
      const base = new URL(url, location.href).href;
      const load = (path) =>
        new Promise((done, failed) => {
          const script = inner.document.createElement("script");
          script.src = new URL(path, base).href;
          script.onload = done;
          script.onerror = () => failed(new Error(`${script.src} cannot be read`));
          inner.document.body.append(script);
        });
      inner.importScripts = (...paths) => paths.reduce((before, path) => before.then(() => load(path)), Promise.resolve());
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inner = inner;
      this.ready = load(base);
    }

    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
