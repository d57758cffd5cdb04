import { type HistogramSlice, LogHistogram } from './log-histogram.ts'

/** A window slides by steps: it holds the step under way and as many before it as fit into `ms`. */
export type WindowLength = { readonly ms: number; readonly stepMs: number }

/** The values of a window. */
export type WindowReading = { readonly slice: HistogramSlice; readonly failed: number }

/** Every window slides by a multiple of this. */
const tickMs = 1_000

type Cell = { readonly step: number; readonly slice: HistogramSlice; readonly failed: number }

/** One window: closed steps, and a histogram of all of them that the oldest is taken out of when it is over. */
const createWindow = ({ ms, stepMs }: WindowLength) => {
  const steps = ms / stepMs
  const all = new LogHistogram()
  const open = new LogHistogram()
  let openStep = 0
  let openFailed = 0
  let closed: Cell[] = []

  const close = () => {
    if (open.count === 0) return
    closed.push({ step: openStep, slice: open.freeze(), failed: openFailed })
    open.clear()
    openFailed = 0
  }

  return {
    add: (slice: HistogramSlice, failed: number, atMs: number): void => {
      const step = Math.floor(atMs / stepMs)
      if (step !== openStep) close()
      openStep = step
      open.add(slice)
      openFailed += failed
      all.add(slice)
    },
    /** Removes the steps that are over at this time. */
    slide: (nowMs: number): void => {
      const now = Math.floor(nowMs / stepMs)
      if (now !== openStep) close()
      const oldest = now - steps
      let over = 0
      for (let cell = closed[0]; cell !== undefined && cell.step <= oldest; cell = closed[over]) {
        all.remove(cell.slice)
        over += 1
      }
      if (over > 0) closed = closed.slice(over)
    },
    read: (): WindowReading => {
      let { sum, max } = open
      let failed = openFailed
      // Sums of the parts: a sum that parts were subtracted from would drift.
      for (const cell of closed) {
        sum += cell.slice.sum
        max = Math.max(max, cell.slice.max)
        failed += cell.failed
      }
      return { slice: { ...all.freeze(), sum, max }, failed }
    },
  }
}

/**
 * Values of the last minute, of the last hour, or of any other window, as histograms.
 *
 * Guarantee: a window holds every value that was recorded in its last `ms` less one step, and none that is older than `ms`. Values
 * recorded later than `nowMs` of an earlier call are never lost. Cost: `record` writes to one histogram, which is added to every
 * window once a second, and before a window is read.
 */
export class RollingWindows<N extends string> {
  readonly #windows: ReadonlyMap<N, ReturnType<typeof createWindow>>
  readonly #current = new LogHistogram()
  /** Of all values since the start. */
  readonly #total = new LogHistogram()
  #currentFailed = 0
  #totalFailed = 0
  #tick = 0
  #nextTickMs = Number.NEGATIVE_INFINITY

  constructor(lengths: Readonly<Record<N, WindowLength>>) {
    const entries = Object.entries(lengths) as [N, WindowLength][]
    this.#windows = new Map(entries.map(([name, length]) => [name, createWindow(length)]))
  }

  record(value: number, failed: boolean, nowMs: number): void {
    if (nowMs >= this.#nextTickMs) this.#advance(nowMs)
    this.#current.record(value)
    if (failed) this.#currentFailed += 1
  }

  read(name: N, nowMs: number): WindowReading {
    if (nowMs >= this.#nextTickMs) this.#advance(nowMs)
    else this.#addCurrent()
    const window = this.#windows.get(name)
    if (window === undefined) throw new Error(`There is no window ${name}`)
    return window.read()
  }

  /** All values since the start. */
  total(): WindowReading {
    this.#addCurrent()
    return { slice: this.#total.freeze(), failed: this.#totalFailed }
  }

  #addCurrent(): void {
    if (this.#current.count === 0) return
    const slice = this.#current.freeze()
    for (const window of this.#windows.values()) window.add(slice, this.#currentFailed, this.#tick * tickMs)
    this.#total.add(slice)
    this.#totalFailed += this.#currentFailed
    this.#current.clear()
    this.#currentFailed = 0
  }

  #advance(nowMs: number): void {
    this.#addCurrent()
    this.#tick = Math.floor(nowMs / tickMs)
    this.#nextTickMs = (this.#tick + 1) * tickMs
    for (const window of this.#windows.values()) window.slide(nowMs)
  }
}
