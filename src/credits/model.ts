import { closed, id, oneOf, pageOf, pageQuery, type Static, t, text, timestamp } from '../http/schema-types.ts'

export const entryKinds = ['welcome', 'grant', 'reserve', 'settle', 'refund'] as const
export type EntryKind = (typeof entryKinds)[number]

/** Largest amount of one grant. */
const maxGrant = 1_000_000
const maxNoteLength = 500

export const page = closed(pageQuery)

export const balance = closed({
  balance: t.Integer({ minimum: 0, description: 'Credits that can be spent, without reserved ones' }),
})
export type Balance = Static<typeof balance>

const entryProperties = {
  id: id('Entry'),
  kind: oneOf(entryKinds),
  amount: t.Integer({ description: 'Change of the balance: negative for a reservation, 0 for a settlement' }),
  balance_after: t.Integer({ minimum: 0 }),
  generation_id: t.Union([id('Generation'), t.Null()]),
  note: t.String(),
  created_at: timestamp(),
}

export const entry = closed(entryProperties)
export type Entry = Static<typeof entry>
export const entryPage = pageOf(entry)

export const newGrant = closed({
  user_id: id('Account that receives the credits'),
  amount: t.Integer({ minimum: 1, maximum: maxGrant }),
  note: text(1, maxNoteLength),
})
export type NewGrant = Static<typeof newGrant>

export const grant = closed({
  ...entryProperties,
  user_id: id('Account that received the credits'),
  created_by: id('Operator who granted them'),
})
export type Grant = Static<typeof grant>
