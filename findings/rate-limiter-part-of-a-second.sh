#!/usr/bin/env bash
# rate-limiter-flexible 11.4.0: with RateLimiterRedis a duration of 0.5 s never ends.
# Expected: 0.5 s, as with RateLimiterMemory, which is the usual `insuranceLimiter` and the usual limiter of tests. The
# limiter accepts any finite number that is not negative, and documents that 0 never ends.
# Seen: RateLimiterRedis rounds down to whole seconds, so the key has no expiry in Redis. After one use of all points the
# caller is refused until the key is deleted. msBeforeNext is -1, so a Retry-After that is computed from it is 0 or negative.
# customDuration and set() round down too, and 1.5 s becomes 1 s.
# Consequence: callers are locked out for good, Redis keeps a key for each of them, and tests with memory pass.
# Exits with 1 when this changes. Needs npm, Node and redis-server.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-fund --no-audit rate-limiter-flexible@11.4.0 ioredis@6.0.0 >/dev/null
redis-server --version | cut -d' ' -f1-3
redis-server --port 0 --unixsocket "$folder/redis.sock" --save '' --dir "$folder" >log &
pid=$!
until [ -S redis.sock ]; do sleep 0.1; done
cat >probe.mjs <<'JS'
import { Redis } from 'ioredis'
import { RateLimiterMemory, RateLimiterRedis } from 'rate-limiter-flexible'

const redis = new Redis({ path: 'redis.sock' })
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const stores = {
  memory: (options) => new RateLimiterMemory({ points: 1, ...options }),
  Redis: (options) => new RateLimiterRedis({ storeClient: redis, points: 1, ...options }),
}
const consume = (limiter) =>
  limiter.consume('caller').then(
    () => 'allowed',
    ({ msBeforeNext }) => (msBeforeNext < 0 ? `refused, wait ${msBeforeNext}` : `refused, wait up to ${Math.ceil(msBeforeNext / 500) / 2} s`),
  )
const seen = {}
for (const duration of [0.5, 1.5]) {
  for (const [store, create] of Object.entries(stores)) {
    const limiter = create({ keyPrefix: `${duration}`, duration })
    const answers = [await consume(limiter), await consume(limiter)]
    await sleep(duration * 1000 + 200)
    seen[`duration ${duration}, ${store}`] = [...answers, `after ${duration + 0.2} s ${await consume(limiter)}`]
  }
}
const limiter = stores.Redis({ keyPrefix: 'others', duration: 60 })
await limiter.consume('custom', 1, { customDuration: 0.5 })
await limiter.set('set', 1, 0.5)
seen['expiry in Redis'] = {
  'duration 0.5': await redis.pttl('0.5:caller'),
  'customDuration 0.5': await redis.pttl('others:custom'),
  'set(key, 1, 0.5)': await redis.pttl('others:set'),
}
redis.disconnect()
console.log(JSON.stringify(seen, null, 2))
const expected = {
  'duration 0.5, memory': ['allowed', 'refused, wait up to 0.5 s', 'after 0.7 s allowed'],
  'duration 0.5, Redis': ['allowed', 'refused, wait -1', 'after 0.7 s refused, wait -1'],
  'duration 1.5, memory': ['allowed', 'refused, wait up to 1.5 s', 'after 1.7 s allowed'],
  'duration 1.5, Redis': ['allowed', 'refused, wait up to 1 s', 'after 1.7 s allowed'],
  'expiry in Redis': { 'duration 0.5': -1, 'customDuration 0.5': -1, 'set(key, 1, 0.5)': -1 },
}
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
timeout 60 node probe.mjs
