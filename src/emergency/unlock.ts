import type { Mode } from '../access/policy/modes.ts'
import { audit } from '../audit/audit.ts'
import { type AuditContext, taskContext } from '../audit/event.ts'
import type { AuditSource } from '../http/request-context.ts'
import type { Sql } from '../platform/postgres.ts'
import { recordBlock } from './blocks.ts'
import { awaitRecorded, findBlockIds, removeBlocks, setMode } from './store.ts'

export type Unlocked = {
  /** The mode until then; undefined where it was unknown. */
  readonly before: Mode | undefined
  /** How many blocks were removed. */
  readonly blocks: number
}

/**
 * Sets the mode to normal and removes every block, for operators who cannot sign in. Its caller has the database. Running instances
 * receive the invalidation like any other; nothing waits for them, because it takes no access away.
 */
export const unlock = async (sql: Sql, source: AuditSource): Promise<Unlocked> => {
  const context: AuditContext = taskContext(source, 'admin:unlock')
  const before = await sql.begin(async (tx) => {
    const set = await setMode(tx, { mode: 'normal', reason: '', by: null, lastsS: undefined })
    const values = { before: { mode: set.before?.mode }, after: { mode: 'normal' } }
    audit.record(tx, {
      action: 'mode.unlocked',
      actor: 'system',
      target: { type: 'mode', id: null },
      context,
      ...values,
    })
    await awaitRecorded(tx)
    return set.before?.mode
  })
  let blocks = 0
  // In batches, each of which locks the accounts of its blocks.
  for (let removed = -1; removed !== 0; blocks += removed) {
    removed = await sql.begin(async (tx) => {
      const rows = await removeBlocks(tx, await findBlockIds(tx, 'all'))
      for (const row of rows) recordBlock(tx, { actor: 'system', context }, 'block.removed', row)
      await awaitRecorded(tx)
      return rows.length
    })
  }
  return { before, blocks }
}
