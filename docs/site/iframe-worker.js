// Search where pages come from disk: a browser starts no worker from a file. A hidden frame of the same origin runs the
// worker's script instead, and passes messages as a worker would (https://html.spec.whatwg.org/multipage/workers.html).
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = null
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      this.scope = frame.contentWindow
      this.scope.postMessage = (data) => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        this.onmessage?.(event)
      }
      const script = this.scope.document.createElement("script")
      script.src = url
      this.ready = new Promise((resolve) => { script.onload = resolve })
      this.scope.document.body.append(script)
    }

    postMessage(data) {
      this.ready.then(() => {
        const event = new MessageEvent("message", { data })
        this.scope.dispatchEvent(event)
        this.scope.onmessage?.(event)
      })
    }

    terminate() {
      this.scope.frameElement.remove()
    }
  }
}
