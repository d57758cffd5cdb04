import { audit } from '../audit/audit.ts'
import type { AuditActor, AuditContext } from '../audit/event.ts'
import { Fault, invalidInput } from '../fault.ts'
import { addressForLimits, canonicalAddress, isAddress, networkOf } from '../kit/client-address.ts'
import { isId, newId } from '../kit/id.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { Block, BlockKind } from './model.ts'
import {
  type BlockRow,
  findAnomalyBlock,
  hasServiceKey,
  insertBlock,
  lockAndCountNetworks,
  lockUserForBlock,
} from './store.ts'

/** Every instance keeps them in memory, and reads them again when one changes. */
export const maxNetworks = 5_000
/** Beyond so many the detection of anomalies adds none, so that operators still can. */
export const maxForAnomalies = 4_000
/** Its block that ends so little earlier is left as it is: each instance asks for the same one. */
const nearlyS = 30

/** No network that is larger can be blocked: it would hold too much of the internet. */
const shortestPrefix = { v4: 8, v6: 19 }

export type BlockTarget = { readonly kind: BlockKind; readonly value: string }

export type BlockToAdd = BlockTarget & {
  readonly reason: string
  readonly lastsS: number
  /** The operator. */
  readonly by: string
}

/** Found by the detection of anomalies. An IPv6 network of /64 may be written for its addresses. */
export type AnomalousAddress = { readonly address: string; readonly reason: string; readonly lastsS: number }

export const toBlock = (row: BlockRow): Block => ({
  id: row.id,
  kind: row.kind,
  value: row.network === null ? (row.user_id ?? row.key_id ?? '') : textOf(row.kind, row.network),
  source: row.source,
  reason: row.reason,
  created_by: row.created_by,
  created_at: row.created_at.toISOString(),
  expires_at: row.expires_at.toISOString(),
})

/** An IPv4 address without the length of its prefix. */
const textOf = (kind: BlockKind, network: string): string =>
  kind === 'address' ? network.replace(/\/32$/, '') : network

const refused = (detail: string) => invalidInput('body', '/value', detail)

/** The network of an address, as a block stores it and limits count it. */
export const networkOfAddress = (value: string): string => {
  if (!isAddress(value)) throw refused('must be an IPv4 or IPv6 address')
  const counted = addressForLimits(canonicalAddress(value))
  return counted.includes('/') ? counted : `${counted}/32`
}

/** The canonical network of a text in CIDR notation. Throws `request.invalid`, also where bits after the prefix are set. */
export const toNetwork = (value: string): string => {
  const [address = '', length = '', ...rest] = value.split('/')
  const isCidr = isAddress(address) && /^(0|[1-9]\d{0,2})$/.test(length) && rest.length === 0
  if (!isCidr || /^::ffff:/i.test(address)) throw refused('must be a network in CIDR notation, such as 203.0.113.0/24')
  const canonical = canonicalAddress(address)
  const isV4 = !canonical.includes(':')
  const bits = Number(length)
  const [least, most] = isV4 ? [shortestPrefix.v4, 32] : [shortestPrefix.v6, 128]
  if (bits < least || bits > most) throw refused(`must have a prefix of ${least} to ${most} bits`)
  const network = networkOf(canonical, { v4: bits, v6: bits })
  if (network !== `${canonical}/${bits}`) throw refused(`must have no bits set after the prefix: ${network}`)
  return network
}

type Columns = Pick<BlockRow, 'network' | 'user_id' | 'key_id'>
const nothing: Columns = { network: null, user_id: null, key_id: null }

/** The columns that name a target. Throws `request.invalid` for a value that does not suit its kind. */
export const columnsOf = ({ kind, value }: BlockTarget): Columns => {
  if (kind === 'address') return { ...nothing, network: networkOfAddress(value) }
  if (kind === 'network') return { ...nothing, network: toNetwork(value) }
  if (!isId(value)) throw refused(kind === 'user' ? 'must be the id of a user' : 'must be the id of a service key')
  return kind === 'user' ? { ...nothing, user_id: value } : { ...nothing, key_id: value }
}

/** Who adds or removes a block, for the audit log. */
export type BlockActor = { readonly actor: AuditActor; readonly context: AuditContext }

/** An address names a person, so it is erasable. */
export const recordBlock = (
  tx: TransactionSql,
  { actor, context }: BlockActor,
  action: 'block.added' | 'block.removed' | 'block.expired',
  { id, kind, network, user_id, key_id, source, reason, expires_at }: BlockRow,
): void => {
  const values = { kind, user_id, key_id, source, reason, expires_at: expires_at.toISOString() }
  audit.record(tx, {
    action,
    actor,
    target: { type: 'block', id },
    userId: user_id,
    context,
    ...(action === 'block.added' ? { after: values } : { before: values }),
    ...(network !== null && { names: { network } }),
  })
}

/**
 * Adds a block of an operator in a transaction of `commitAndInvalidate`: it is in force on every instance when that resolves. Locks
 * the account or the key, so call it after other locks on accounts. Throws `block.exists`, `user.not_found`,
 * `service_key.not_found` and `block.too_many`.
 */
export const addBlock = async (tx: TransactionSql, block: BlockToAdd, by: BlockActor): Promise<Block> => {
  const columns = columnsOf(block)
  if (columns.user_id !== null && !(await lockUserForBlock(tx, columns.user_id))) throw new Fault('user.not_found')
  if (columns.key_id !== null && !(await hasServiceKey(tx, columns.key_id))) throw new Fault('service_key.not_found')
  if (columns.network !== null && (await lockAndCountNetworks(tx)) >= maxNetworks) {
    throw new Fault('block.too_many', { extensions: { limit: maxNetworks } })
  }
  const { kind, reason, lastsS } = block
  const row = await insertBlock(
    tx,
    { id: newId(), kind, ...columns, source: 'operator', reason, created_by: block.by, lastsS },
    { extend: false },
  )
  if (row === undefined) throw new Fault('block.exists')
  recordBlock(tx, by, 'block.added', row)
  return toBlock(row)
}

/**
 * As `addBlock`, for the detection of anomalies: its block of the same address is extended. Undefined: there is one that lasts as
 * long. `full`: there are so many that none is added.
 */
export const addBlockOfAnomaly = async (
  tx: TransactionSql,
  { address, reason, lastsS }: AnomalousAddress,
  by: BlockActor,
): Promise<Block | undefined | 'full'> => {
  const columns = columnsOf({ kind: 'address', value: address.replace(/\/64$/, '') })
  const count = await lockAndCountNetworks(tx)
  const found = await findAnomalyBlock(tx, columns.network, lastsS - nearlyS)
  if (found === 'lasting') return undefined
  if (found === undefined && count >= maxForAnomalies) return 'full'
  const row = await insertBlock(
    tx,
    { id: newId(), kind: 'address', ...columns, source: 'anomaly', reason, created_by: null, lastsS },
    { extend: true },
  )
  if (row === undefined) return undefined
  recordBlock(tx, by, 'block.added', row)
  return toBlock(row)
}
