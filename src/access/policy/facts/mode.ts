import { type Mode, modes } from '../modes.ts'
import { exactly, type FactDefinition, oneOf, type RowSource } from './definition.ts'

/** The one row that holds for the whole service; see sql/functions/restrictions.sql. */
export const restrictionsId = '00000000-0000-0000-0000-000000000000'

/** The mode that an operator has set. Every decision depends on it. */
export type ModeFact = { readonly mode: Mode }

type Row = { readonly mode_mode: Mode }

const row: RowSource<ModeFact, Row> = {
  alias: 'mo',
  select: { mode_mode: 'mo.mode' },
  toFact: (row) => ({ mode: row.mode_mode }),
}

export const mode: FactDefinition<'mode', ModeFact> = {
  kind: 'mode',
  schema: exactly({ mode: oneOf(modes) }),
  table: 'restrictions',
  columns: ['mode'],
  row,
  heldWithoutL1: true,
}
