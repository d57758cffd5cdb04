/** Runs the program of MAIN, and writes four times a second how late a timer of this process was, in milliseconds. */
import process from 'node:process'

const everyMs = 5
let lags: string[] = []
let dueMs = performance.now() + everyMs
setInterval(() => {
  const nowMs = performance.now()
  lags.push(Math.max(0, nowMs - dueMs).toFixed(1))
  dueMs = nowMs + everyMs
}, everyMs).unref()
setInterval(() => {
  const taken = lags
  lags = []
  if (taken.length > 0) process.stderr.write(`LAG ${Date.now()} ${taken.join(' ')}\n`)
}, 250).unref()
await import(process.env['MAIN'] ?? '')
