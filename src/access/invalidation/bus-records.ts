import type { InvalidationKeys } from './model.ts'

/** What an instance received on the bus, in order. */
export type BusRecord =
  /** The connections are open: earlier messages may be missing. */
  | { readonly type: 'open' }
  /** A message of any topic but our own heartbeats. */
  | { readonly type: 'message'; readonly payload: string }
  /** An event whose keys did not fit into a message. */
  | {
      readonly type: 'stored_event'
      readonly id: string
      readonly writer: string | undefined
      readonly position: number | undefined
      readonly keys: InvalidationKeys
    }
  /** Events are counted from the snapshot that was prepared for this connection. */
  | { readonly type: 'reset'; readonly epoch: number; readonly isContinued: boolean }
  /** A heartbeat of our own came back on this connection. */
  | { readonly type: 'proven' }
  /** Events are missing, or the database is another one or in an older state. */
  | { readonly type: 'gap'; readonly isOther: boolean }
  /** `wasOpen`: the events of the connection were complete until then. */
  | { readonly type: 'lost'; readonly wasOpen: boolean }

/** Begins the text of a message, which no JSON does. */
const messageMark = '.'
/** Postgres notifies no more than 8,000 bytes; a row may name any number of keys. */
const maxStoredKeys = 5_000

export const encodeRecord = (record: BusRecord): string => {
  if (record.type === 'message') return messageMark + record.payload
  if (record.type !== 'stored_event' || record.keys.length <= maxStoredKeys) return JSON.stringify(record)
  return JSON.stringify({ ...record, keys: 'everything' } satisfies BusRecord)
}

/** Only for texts of `encodeRecord`. */
export const decodeRecord = (text: string): BusRecord =>
  text.startsWith(messageMark) ? { type: 'message', payload: text.slice(1) } : JSON.parse(text)
