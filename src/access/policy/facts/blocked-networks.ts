import { Type as t } from '@sinclair/typebox'
import { exactly, type FactDefinition, type RowSource } from './definition.ts'

/** The networks whose requests are refused, in CIDR notation. */
export type BlockedNetworksFact = { readonly networks: readonly string[] }

type Row = { readonly blocked_networks: readonly string[] }

const row: RowSource<BlockedNetworksFact, Row> = {
  alias: 'bn',
  select: { blocked_networks: 'bn.networks' },
  toFact: (row) => ({ networks: row.blocked_networks }),
}

export const blockedNetworks: FactDefinition<'blocked_networks', BlockedNetworksFact> = {
  kind: 'blocked_networks',
  schema: exactly({ networks: t.Array(t.String()) }),
  table: 'restrictions',
  columns: ['networks'],
  row,
  memoryOnly: true,
  heldWithoutL1: true,
  secret: true,
  /** An address with its place in the set that is made of it, measured. */
  extraBytes: ({ networks }) => 200 * networks.length,
}
