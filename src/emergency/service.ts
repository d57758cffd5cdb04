import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Caller } from '../access/principal.ts'
import { recorderOf } from '../audit/audit.ts'
import { type AuditContext, taskContext } from '../audit/event.ts'
import { Fault } from '../fault.ts'
import type { AuditSource, RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import type { Operators } from '../identity/users/operators.ts'
import { toPage } from '../kit/cursor.ts'
import type { Deadline } from '../kit/deadline.ts'
import { createNetworkSet } from '../kit/network-set.ts'
import type { Log } from '../platform/log.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import {
  type AnomalousAddress,
  addBlock,
  addBlockOfAnomaly,
  columnsOf,
  maxForAnomalies,
  recordBlock,
  toBlock,
} from './blocks.ts'
import {
  type Block,
  type BlockKind,
  defaultBlockS,
  defaultModeS,
  type ModeAnswer,
  type NewBlock,
  type NewMode,
} from './model.ts'
import type { SettableOwnMode } from './own-mode.ts'
import { findBlockIds, isModeExpired, type ModeRow, type RestrictionStore, removeBlocks, setMode } from './store.ts'

const recordMode = recorderOf('mode')

/** What a reader of the audit log needs of a mode. */
const auditedMode = (row: ModeRow | undefined) =>
  row && { mode: row.mode, reason: row.reason, expires_at: row.expires_at?.toISOString() ?? null }

const toMode = (row: ModeRow, instance: SettableOwnMode): ModeAnswer => ({
  mode: row.mode,
  reason: row.reason,
  set_by: row.set_by,
  set_at: row.set_at.toISOString(),
  expires_at: row.expires_at?.toISOString() ?? null,
  instance_mode: instance.current === 'normal' ? null : instance.current,
})

/** What an instance answers where the row is gone: it is locked down until an operator sets a mode. */
const unknownMode: ModeRow = { mode: 'lockdown', reason: '', set_by: null, set_at: new Date(0), expires_at: null }

type Dependencies = {
  store: RestrictionStore
  operators: Pick<Operators, 'requireForShare' | 'requireForNoKeyUpdate'>
  changes: Changes
  ownMode: SettableOwnMode
  /** Makes every instance forget the verdict on an address, as limits count it, when the transaction commits. */
  liftVerdict: (tx: TransactionSql, address: string) => Promise<void>
  auditSource: AuditSource
  startDeadline: () => Deadline
  record: RecordSecurityEvent
  log: Log
}

/**
 * The mode of the service and the blocks, as operators set them. The routes admit operators only, and their role is rechecked
 * inside the transaction.
 *
 * Guarantee: when a call that sets a mode or a block resolves, it is in force on every instance. An operator cannot block the own
 * account, nor the address of the call. Removing a block of the detection of anomalies also lifts its verdict. `endExpired` ends
 * what has expired, by the clock of Postgres: until it has run, expired modes and blocks are still in force.
 */
export const createRestrictions = ({
  store,
  operators,
  changes,
  ownMode,
  liftVerdict,
  auditSource,
  startDeadline,
  record,
  log,
}: Dependencies) => ({
  getMode: async (context: RequestContext): Promise<ModeAnswer> =>
    toMode((await store.findMode(context.deadline)) ?? unknownMode, ownMode),

  setMode: async (
    context: RequestContext,
    caller: Caller,
    { mode, reason = '', expires_in = defaultModeS }: NewMode,
    address: string,
  ): Promise<ModeAnswer> => {
    const { before, after } = await changes.commitAndInvalidate(context.deadline, async (tx) => {
      await operators.requireForShare(tx, caller)
      const lastsS = mode === 'normal' ? undefined : expires_in
      const set = await setMode(tx, { mode, reason, by: caller.userId, lastsS })
      const values = { before: auditedMode(set.before), after: auditedMode(set.after) }
      recordMode(tx, context, caller, null, 'mode.changed', values)
      return set
    })
    const answer = toMode(after, ownMode)
    const { mode: set, expires_at } = answer
    record(context, 'mode.changed', {
      address,
      by: caller.userId,
      before: before?.mode ?? null,
      after: set,
      expires_at,
    })
    return answer
  },

  listBlocks: async (
    context: RequestContext,
    place: { after: string | null; limit: number; kind?: BlockKind | undefined },
  ) => {
    const { items, next_cursor } = toPage(await store.listBlocks(context.deadline, place), place.limit)
    return { items: items.map(toBlock), next_cursor }
  },

  addBlock: async (
    context: RequestContext,
    caller: Caller,
    { kind, value, reason = '', expires_in = defaultBlockS }: NewBlock,
    address: string,
  ): Promise<Block> => {
    const { network, user_id } = columnsOf({ kind, value })
    if (network !== null && createNetworkSet([network]).has(address)) throw new Fault('block.own_address')
    if (user_id === caller.userId) throw new Fault('block.own_account')
    const block = await changes.commitAndInvalidate(context.deadline, async (tx) => {
      if (user_id === null) await operators.requireForShare(tx, caller)
      else await operators.requireForNoKeyUpdate(tx, caller, user_id)
      const given = { kind, value, reason, lastsS: expires_in, by: caller.userId }
      return addBlock(tx, given, { actor: caller, context })
    })
    record(context, 'block.added', { address, by: caller.userId, block_id: block.id, kind })
    return block
  },

  removeBlock: async (context: RequestContext, caller: Caller, id: string, address: string): Promise<void> => {
    await changes.commitAndInvalidate(
      context.deadline,
      async (tx) => {
        await operators.requireForShare(tx, caller)
        const [removed] = await removeBlocks(tx, [id])
        if (removed === undefined) throw new Fault('block.not_found')
        recordBlock(tx, { actor: caller, context }, 'block.removed', removed)
        // Else the next finding about the address would block it again.
        if (removed.source === 'anomaly' && removed.network !== null) {
          await liftVerdict(tx, removed.network.replace(/\/32$/, ''))
        }
      },
      { grantsOnly: true },
    )
    record(context, 'block.removed', { address, by: caller.userId, block_id: id })
  },

  /** For the detection of anomalies: blocks addresses for a time, together. Throws where Postgres is away. */
  blockAnomalous: async (addresses: readonly AnomalousAddress[]): Promise<void> => {
    const added = await changes.commitAndInvalidate(startDeadline(), async (tx) => {
      const by = { actor: 'system', context: taskContext(auditSource, 'anomalies') } as const
      const blocks: Block[] = []
      for (const each of addresses) {
        const block = await addBlockOfAnomaly(tx, each, by)
        if (block === 'full') {
          const fields = { event: 'block.too_many', limit: maxForAnomalies }
          log.warn(fields, 'an address was not blocked, because too many are')
        } else if (block !== undefined) blocks.push(block)
      }
      return blocks
    })
    for (const { id, value, reason, expires_at } of added) {
      const fields = { event: 'block.added', block_id: id, address: value, reason, expires_at }
      log.warn(fields, 'the detection of anomalies blocked an address')
    }
  },

  /** Run it often: how late it is, modes and blocks last longer. */
  endExpired: async (): Promise<void> => {
    if (!(await store.hasExpired())) return
    const { mode, blocks } = await changes.commitAndInvalidate(
      startDeadline(),
      async (tx) => {
        const context: AuditContext = taskContext(auditSource, 'restrictions')
        const removed = await removeBlocks(tx, await findBlockIds(tx, 'expired'))
        for (const row of removed) recordBlock(tx, { actor: 'system', context }, 'block.expired', row)
        const isExpired = await isModeExpired(tx)
        const ended = isExpired
          ? await setMode(tx, { mode: 'normal', reason: '', by: null, lastsS: undefined })
          : undefined
        const before = auditedMode(ended?.before)
        if (isExpired) recordMode(tx, context, 'system', null, 'mode.expired', { before, after: { mode: 'normal' } })
        return { mode: ended?.before?.mode, blocks: removed.map(({ id }) => id) }
      },
      { grantsOnly: true },
    )
    if (mode !== undefined)
      log.info({ event: 'mode.expired', before: mode }, 'the mode has expired, and is normal again')
    if (blocks.length > 0) log.info({ event: 'block.expired', block_ids: blocks }, 'blocks have expired')
  },
})

export type RestrictionService = ReturnType<typeof createRestrictions>
