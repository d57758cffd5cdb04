import type { InvalidationKeys } from './model.ts'
import { toInvalidationKeys } from './model.ts'

/** The identity of a database, and the position of the newest event committed there. */
export type DatabasePosition = { readonly identity: string; readonly position: number }

/** The channel every instance listens to. */
export const commonChannel = 'velro'
/** The channel only this instance listens to. */
export const channelOf = (instance: string): string => `${commonChannel}:${instance}`

/**
 * The version of events and heartbeats. Version 1 has no positions. An instance of another version is never taken at its
 * word: a writer waits until its lease is over.
 */
export const wireVersion = 2

/** The message of each topic. The first five belong to the bus, the rest to features. */
export type TopicMessages = {
  /**
   * A transaction invalidated facts. `writer` waits for acknowledgements; `stored`: the keys are in the event's row.
   * `position` is one higher than that of the event committed before; undefined in another version than ours.
   */
  event: {
    readonly id: string
    readonly writer: string | undefined
    readonly position: number | undefined
    readonly keys: Exclude<InvalidationKeys, 'everything'> | 'stored'
  }
  /** `seen` is what the heartbeat saw of the database; undefined in another version than ours. */
  heartbeat: {
    readonly instance: string
    readonly heartbeatId: string
    readonly seen: DatabasePosition | undefined
  }
  acknowledgement: { readonly instance: string; readonly eventIds: readonly string[] }
  /** An instance gave up its lease and is no longer a member. */
  leave: { readonly instance: string }
  /** Redis deleted the keys of these events under the prefix of this epoch. */
  confirmed: { readonly epoch: string; readonly eventIds: readonly string[] }
  /** How far an attempt at a generation is, from 0 to 1. */
  progress: { readonly generationId: string; readonly attempt: number; readonly fraction: number }
  /** A job was added to the queue. */
  job: Record<never, never>
  cancelled: { readonly generationId: string }
  /** An operator lifted a limit: what is counted of this key of a budget is forgotten. */
  limit_lifted: { readonly budget: string; readonly key: string }
  /** Media objects lost their last reference. */
  orphans: Record<never, never>
}
export type TopicName = keyof TopicMessages
export type TopicListener<T extends TopicName> = (message: TopicMessages[T]) => void

type Topic<Message> = {
  /** The first word of the payload. */
  readonly word: string
  /** The words after it. */
  readonly encode: (message: Message) => readonly (string | number)[]
  /** Undefined: malformed. */
  readonly parse: (words: readonly string[]) => Message | undefined
}

const noWriter = '-'
const parsePosition = (word: string | undefined): number | undefined => {
  const position = word === undefined ? Number.NaN : Number(word)
  return Number.isSafeInteger(position) ? position : undefined
}
const decode = (word: string): string | undefined => {
  try {
    return decodeURIComponent(word)
  } catch {
    return undefined
  }
}
const noMessage = { encode: () => [], parse: () => ({}) }
const ofInstance = {
  encode: ({ instance }: { readonly instance: string }) => [instance],
  parse: ([instance]: readonly string[]) => (instance ? { instance } : undefined),
}

/** How each topic is written on a channel: words with one blank between them. Functions in sql/ send `event` and `orphans`. */
const topics: { readonly [T in TopicName]: Topic<TopicMessages[T]> } = {
  // Instances of version 1 read the keys from the row, because of the `*`. Any version begins with these words.
  event: {
    word: 'event',
    encode: ({ id, writer = noWriter, position, keys }) => [
      id,
      writer,
      '*',
      ...(position === undefined ? [] : [wireVersion, position, ...(keys === 'stored' ? ['*'] : keys)]),
    ],
    parse: ([id, writerWord = noWriter, mark, version, positionWord, ...words]) => {
      if (!id) return undefined
      const writer = writerWord === noWriter ? undefined : writerWord
      const position = mark === '*' && version === String(wireVersion) ? parsePosition(positionWord) : undefined
      if (position === undefined) return { id, writer, position, keys: 'stored' }
      const keys = toInvalidationKeys(words)
      return { id, writer, position, keys: keys === 'everything' ? 'stored' : keys }
    },
  },
  heartbeat: {
    word: 'beat',
    encode: ({ instance, heartbeatId, seen }) => [
      instance,
      heartbeatId,
      ...(seen === undefined ? [] : [wireVersion, seen.identity, seen.position]),
    ],
    parse: ([instance, heartbeatId, version, identity, positionWord]) => {
      if (!instance || !heartbeatId) return undefined
      const position = version === String(wireVersion) ? parsePosition(positionWord) : undefined
      return { instance, heartbeatId, seen: identity && position !== undefined ? { identity, position } : undefined }
    },
  },
  acknowledgement: {
    word: 'ack',
    encode: ({ instance, eventIds }) => [instance, ...eventIds],
    parse: ([instance, ...eventIds]) => (instance ? { instance, eventIds } : undefined),
  },
  leave: { word: 'bye', ...ofInstance },
  confirmed: {
    word: 'confirmed',
    encode: ({ epoch, eventIds }) => [epoch, ...eventIds],
    parse: ([epoch, ...eventIds]) => (epoch ? { epoch, eventIds } : undefined),
  },
  progress: {
    word: 'progress',
    encode: ({ generationId, attempt, fraction }) => [generationId, attempt, fraction],
    parse: ([generationId, attemptWord, fractionWord]) => {
      const [attempt, fraction] = [Number(attemptWord), Number(fractionWord)]
      if (!generationId || !Number.isSafeInteger(attempt) || !(fraction >= 0 && fraction <= 1)) return undefined
      return { generationId, attempt, fraction }
    },
  },
  job: { word: 'job', ...noMessage },
  cancelled: {
    word: 'cancelled',
    encode: ({ generationId }) => [generationId],
    parse: ([generationId]) => (generationId ? { generationId } : undefined),
  },
  limit_lifted: {
    word: 'lifted',
    encode: ({ budget, key }) => [budget, encodeURIComponent(key)],
    parse: ([budget, key]) => {
      const decoded = key === undefined ? undefined : decode(key)
      return budget && decoded ? { budget, key: decoded } : undefined
    },
  },
  orphans: { word: 'orphans', ...noMessage },
}

const topicOfWord = new Map((Object.keys(topics) as TopicName[]).map((topic) => [topics[topic].word, topic]))

const wordsOf = (names: readonly TopicName[]) => new Set(names.map((name) => topics[name].word))
const keeperWords = wordsOf(['event', 'heartbeat'])
const busWords = wordsOf(['event', 'heartbeat', 'acknowledgement', 'leave', 'confirmed'])
const wordOf = (payload: string): string => payload.split(' ', 1)[0] ?? ''
/** Whether the lease depends on messages like this one. */
export const isOfKeeper = (payload: string): boolean => keeperWords.has(wordOf(payload))
/** Whether the message belongs to the bus, and not to a feature. */
export const isOfBus = (payload: string): boolean => busWords.has(wordOf(payload))

/** The payload of a notification, for `pg_notify` on a channel. A payload of 8,000 bytes or more is refused by Postgres. */
export const encodeMessage = <T extends TopicName>(topic: T, message: TopicMessages[T]): string =>
  [topics[topic].word, ...topics[topic].encode(message)].join(' ')

/** The listener of each topic; one at most. */
export type TopicListeners = { [T in TopicName]?: TopicListener<T> }

/** Calls the listener of the payload's topic. Ignores an unknown topic, a malformed message and a topic without listener. */
export const dispatch = (listeners: TopicListeners, payload: string): void => {
  const [word = '', ...words] = payload.split(' ')
  const topic = topicOfWord.get(word)
  if (topic !== undefined) deliver(listeners, topic, words)
}

const deliver = <T extends TopicName>(listeners: TopicListeners, topic: T, words: readonly string[]): void => {
  const listener: TopicListener<T> | undefined = listeners[topic]
  if (listener === undefined) return
  const message = topics[topic].parse(words)
  if (message !== undefined) listener(message)
}
