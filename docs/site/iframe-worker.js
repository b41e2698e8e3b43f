// The search of the site runs in a web worker, which browsers do not start for pages that were opened from disk. There,
// this file runs the script of the worker in a hidden frame instead. Material for MkDocs loads a file with this name
// from another host unless mkdocs.yml names one, and its search looks for the name IFrameWorker.
if (location.protocol === 'file:') {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement('iframe')
      frame.hidden = true
      document.body.append(frame)
      this.inside = frame.contentWindow
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent('message', { data }))
      this.ready = new Promise((loaded) => {
        const script = frame.contentDocument.createElement('script')
        script.src = url
        script.onload = loaded
        frame.contentDocument.body.append(script)
      })
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent('message', { data })))
    }
  }
}
