#!/usr/bin/env bash
# Deno 2.9.6: monitorEventLoopDelay of node:perf_hooks does not notice a blocked event loop, so the metrics of prom-client
# 15.1.3 do not either. Bun 1.4.5: all callers of monitorEventLoopDelay share one histogram, and prom-client resets it each
# time its metrics are read.
# Expected: a function that works as in Node or does not exist.
# Seen after a block of 500 ms: Node reports a maximum of about 500 ms in each case. Deno reports a few ms. Bun reports 500
# ms, but 0 for a histogram beside prom-client. On Deno and Bun eventLoopUtilization reports 0.
# Consequence: an alarm on the event loop that was written for Node never fires. A timer that measures how late it runs
# notices the block on all three.
# Upstream: pull request 33591 of Bun describes the shared histogram. Issue 20961 of Deno asked for the function because
# prom-client failed without it.
# Exits with 1 when this changes. Needs npm and Node 20 or later.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit deno@2.9.6 bun@1.4.5 prom-client@15.1.3 >/dev/null
cat >probe.mjs <<'JS'
import { monitorEventLoopDelay, performance as hooks } from 'node:perf_hooks'
import client from 'prom-client'

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const enabled = () => {
  const histogram = monitorEventLoopDelay({ resolution: 10 })
  histogram.enable()
  return histogram
}
const lagOfPromClient = async () => {
  const metrics = await client.register.getMetricsAsJSON()
  return metrics.find(({ name }) => name === 'nodejs_eventloop_lag_max_seconds').values[0].value * 1e9
}
const cases = {
  'one histogram': () => {
    const histogram = enabled()
    return { 'one histogram': () => histogram.max }
  },
  'beside prom-client': () => {
    const histogram = enabled()
    client.collectDefaultMetrics()
    return { 'prom-client': lagOfPromClient, 'histogram beside prom-client': () => histogram.max }
  },
  others: () => {
    const before = hooks.eventLoopUtilization()
    let latest = 0
    let due = performance.now() + 10
    setInterval(() => {
      latest = Math.max(latest, performance.now() - due)
      due = performance.now() + 10
    }, 10)
    const utilization = () => hooks.eventLoopUtilization(before).utilization * 500e6
    return { eventLoopUtilization: utilization, 'a timer': () => latest * 1e6 }
  },
}
const figures = cases[globalThis.Deno?.args[0] ?? process.argv[2]]()
await sleep(200)
const start = performance.now()
while (performance.now() - start < 500);
await sleep(100)
for (const [name, figure] of Object.entries(figures)) {
  const ms = (await figure()) / 1e6
  console.log(`${name}: ${ms >= 250 ? 'sees' : 'does not see'} the block`)
  console.error(`  ${ms.toFixed(1)} ms`)
}
process.exit()
JS
run() {
  for name in 'one histogram' 'beside prom-client' others; do "$@" probe.mjs "$name"; done
}
seen=$(
  echo "Deno $(node_modules/.bin/deno eval 'console.log(Deno.version.deno)')"
  run node_modules/.bin/deno run --allow-all --quiet
  echo "Bun $(node_modules/.bin/bun --version)"
  run node_modules/.bin/bun
  echo Node
  run node
)
echo "$seen"
[ "$seen" = 'Deno 2.9.6
one histogram: does not see the block
prom-client: does not see the block
histogram beside prom-client: does not see the block
eventLoopUtilization: does not see the block
a timer: sees the block
Bun 1.4.5
one histogram: sees the block
prom-client: sees the block
histogram beside prom-client: does not see the block
eventLoopUtilization: does not see the block
a timer: sees the block
Node
one histogram: sees the block
prom-client: sees the block
histogram beside prom-client: sees the block
eventLoopUtilization: sees the block
a timer: sees the block' ]
