import { createChainStore } from '../../src/audit/chain-store.ts'
import { createChainer } from '../../src/audit/chainer.ts'
import { createAuditSource, prepareEvent, taskContext } from '../../src/audit/event.ts'
import { createAuditKeys } from '../../src/audit/keys.ts'
import { createSinkStore } from '../../src/audit/sink-store.ts'
import { verifyAudit } from '../../src/audit/verify.ts'
import { withSnapshot } from '../../src/audit/verify-store.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import { createLog } from '../../src/platform/log.ts'
import type { Sql } from '../../src/platform/postgres.ts'
import { createKeyedHash, type KeyedHash } from '../../src/platform/secrets.ts'
import { generateSigningKey, importKey } from '../../src/platform/tokens.ts'
import { until } from '../faults/support.ts'

/** An audit log in a database, with its keys. `keyedHash`: that of a service, which can then verify the log. */
export const createAuditLog = async (
  sql: Sql,
  keyedHash: KeyedHash = createKeyedHash((name) => Buffer.from(name.padEnd(32))),
  hooks: Pick<Parameters<typeof createChainer>[0], 'onMoved'> = {},
) => {
  const source = createAuditSource(keyedHash)
  const { publicJwk, privateJwk } = await generateSigningKey()
  const key = { kid: 'k1', privateKey: await importKey(privateJwk), publicKey: await importKey(publicJwk), publicJwk }
  const keys = createAuditKeys({ signer: () => key, keyedHash })
  const sinkStore = createSinkStore(sql)
  const written: string[] = []
  const newChainer = () =>
    createChainer({
      store: createChainStore(sql),
      keys,
      clock: systemClock,
      log: createLog('info', { write: (line: string) => void written.push(line) }),
      recordings: source,
      ...hooks,
    })
  const chainer = newChainer()

  /** Writes events of one person. */
  const add = async (count: number, userId = newId()): Promise<void> => {
    for (let left = count; left > 0; left -= 2_000) {
      const events = Array.from({ length: Math.min(left, 2_000) }, (_, at) =>
        prepareEvent({
          action: 'project.changed',
          actor: { userId, sessionId: newId() },
          target: { type: 'project', id: newId() },
          after: { changed: ['name'], at },
          address: '203.0.113.7',
          context: taskContext(source, 'a request'),
        }),
      )
      await sinkStore.write(events, undefined)
    }
  }

  /** Waits for other transactions of the server, such as those of other tests. */
  const link = async (by = chainer): Promise<void> => {
    await until(async () => {
      await by.poll()
      const [row] = await sql<{ left: number }[]>`
        select (select count(*) from audit_events)::int - (select count(*) from audit_links)::int as left`
      return row?.left === 0
    }, 'every event is linked')
  }

  const write = async (count: number): Promise<void> => {
    await add(count)
    await link()
  }

  return {
    source,
    keys,
    keyedHash,
    sinkStore,
    chainer,
    newChainer,
    written,
    add,
    link,
    write,
    verify: (heads: readonly string[] = [], limit?: number) =>
      withSnapshot(sql, (store) =>
        verifyAudit({ store, keys, macOf: source.macOf }, { heads, ...(limit !== undefined && { limit }) }),
      ),
    head: async (): Promise<string> => {
      const [row] = await sql<{ token: string }[]>`select token from audit_heads order by month desc limit 1`
      return row?.token ?? ''
    },
  }
}

export type AuditLog = Awaited<ReturnType<typeof createAuditLog>>
