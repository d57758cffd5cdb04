/**
 * Runs the program of MAIN, and writes four times a second for each tick of a timer of this process how late it was and how
 * much processor time the process had used since the tick before, in milliseconds. On a busy machine a tick is late also because
 * other processes run; processor time is not.
 */
import process from 'node:process'

const everyMs = 5
const usedMs = () => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1_000
}
let ticks: string[] = []
let dueMs = performance.now() + everyMs
let lastUsedMs = usedMs()
setInterval(() => {
  const nowMs = performance.now()
  const nowUsedMs = usedMs()
  ticks.push(`${Math.max(0, nowMs - dueMs).toFixed(1)}/${(nowUsedMs - lastUsedMs).toFixed(1)}`)
  dueMs = nowMs + everyMs
  lastUsedMs = nowUsedMs
}, everyMs).unref()
setInterval(() => {
  const taken = ticks
  ticks = []
  if (taken.length > 0) process.stderr.write(`TICKS ${Date.now()} ${taken.join(' ')}\n`)
}, 250).unref()
await import(process.env['MAIN'] ?? '')
