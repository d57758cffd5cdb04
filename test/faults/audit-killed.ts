/**
 * Kills a server while it denies thousands of decisions a second, and reports what the audit log lacks: `bun test/faults/audit-killed.ts`.
 * A decision counts as lost where its answer arrived and the log has it not.
 */

import { newId } from '../../src/kit/id.ts'
import { connectOnce } from '../../src/platform/postgres.ts'
import { api, register, startServer } from '../harness.ts'

const seconds = Number(process.env['SECONDS'] ?? 4)
const batch = 100
const connections = 6

const server = await startServer({ runtime: 'bun', env: { LIMITS: 'off' } })
const sql = connectOnce(server.connection)
const client = api(server.baseUrl)
const person = await register(client)
/** When the answer to a batch arrived, by the ids that it denied. */
const answered: { readonly atMs: number; readonly ids: readonly string[] }[] = []
const changed: string[] = []
let stopped = false

const deny = async () => {
  while (!stopped) {
    const ids = Array.from({ length: batch }, newId)
    const checks = ids.map((id) => ({ action: 'read', resource: { type: 'project', id } }))
    const answer = await client
      .post('/api/v1/authorization/check/batch', { checks }, { token: person.token })
      .catch(() => undefined)
    if (answer?.status === 200) answered.push({ atMs: performance.now(), ids })
  }
}
const change = async () => {
  while (!stopped) {
    const answer = await client.post('/api/v1/projects', { name: 'P' }, { token: person.token }).catch(() => undefined)
    if (answer?.status === 201) changed.push(answer.body.id)
  }
}

const startedMs = performance.now()
const running = [...Array.from({ length: connections }, deny), change()]
await Bun.sleep(seconds * 1_000)
await server.kill('SIGKILL')
const killedMs = performance.now()
stopped = true
await Promise.all(running)

const denied = answered
  .flatMap(({ atMs, ids }) => ids.map((id) => ({ id, atMs })))
  .filter(({ atMs }) => atMs <= killedMs)
const rows = await sql<{ text: string }[]>`
  select content as text from audit_denials
   union all select concat(target_id, ' ', after) from audit_events where action = 'access.denied'`
const known = new Set(rows.flatMap(({ text }) => text.match(/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/g) ?? []))
const lost = denied.filter(({ id }) => !known.has(id))
const events = await sql<{ id: string }[]>`select target_id as id from audit_events where action = 'project.created'`
const recorded = new Set(events.map(({ id }) => id))
const projects = await sql<{ id: string }[]>`select id from projects`
const oldest = Math.min(killedMs, ...lost.map(({ atMs }) => atMs))
console.log({
  denies_per_second: Math.round(denied.length / ((killedMs - startedMs) / 1_000)),
  denied: denied.length,
  lost: lost.length,
  oldest_lost_ms_before_the_kill: Math.round(killedMs - oldest),
  changes: changed.length,
  acknowledged_changes_without_event: changed.filter((id) => !recorded.has(id)).length,
  projects_without_event: projects.filter(({ id }) => !recorded.has(id)).length,
  events_without_project: events.filter(({ id }) => !projects.some((each) => each.id === id)).length,
})
await sql.end()

process.exit(0)
