// The site's search runs in a worker, which browsers do not permit for pages that are opened as files. Then a hidden
// frame does its work. The theme would fetch a script for this from elsewhere; it looks for this name.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inside = this.frame.contentWindow
      addEventListener("message", (event) => {
        if (event.source === inside) this.dispatchEvent(new MessageEvent("message", { data: event.data }))
      })
      this.loaded = new Promise((resolve) => (inside.isLoaded = resolve))
      inside.document.open()
      inside.document.write(`<body><script>
        postMessage = (data) => parent.postMessage(data, "*")
        importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((resolve) => {
          const script = document.createElement("script")
          script.src = url
          script.onload = resolve
          document.body.appendChild(script)
        })), Promise.resolve())
      <\/script><script src="${url}" onload="isLoaded()"><\/script></body>`)
      inside.document.close()
    }

    postMessage(data) {
      // The frame's own function sends to this page.
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
  window.Worker = window.IFrameWorker
}
