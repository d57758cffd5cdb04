import { type GenerationStatus, generationStatuses } from '../../access/policy/matrix.ts'

/** State of a generation. Progress is in thousandths of the current attempt. Null: not known. */
export type State = {
  readonly status: GenerationStatus
  readonly attempt: number
  readonly progress: number | null
  readonly position: number | null
}

/** The part of a state that a client has received. Null: not sent. */
export type SentState = State

export type StateEvent = {
  readonly event: 'status' | 'position' | 'progress'
  readonly id: string
  readonly data: object
}

export const isFinal = (status: GenerationStatus): boolean => status !== 'queued' && status !== 'processing'

/** The id of an event encodes everything sent up to it, so that any instance can resume the stream from `Last-Event-ID`. */
export const toEventId = ({ status, attempt, progress, position }: SentState): string =>
  isFinal(status) ? status : `${status}.${attempt}.${progress ?? '-'}.${position ?? '-'}`

const eventIdPattern = /^(queued|processing)\.(\d{1,9})\.(-|\d{1,4})\.(-|\d{1,9})$/

/** Undefined when the id is not one of ours: the client starts from the beginning. */
export const parseEventId = (id: string | null): SentState | undefined => {
  const final = generationStatuses.find((status) => status === id)
  if (final !== undefined && isFinal(final)) return { status: final, attempt: 0, progress: null, position: null }
  const parts = eventIdPattern.exec(id ?? '')
  if (parts === null) return undefined
  const [, status, attempt, progress, position] = parts
  const toNumber = (text: string | undefined) => (text === '-' ? null : Number(text))
  return {
    status: status as GenerationStatus,
    attempt: Number(attempt),
    progress: toNumber(progress),
    position: toNumber(position),
  }
}

/** The events that bring a client from the state it was sent to the current one, and the state it has been sent after them. */
export const diffEvents = (
  sentBefore: SentState | undefined,
  current: State,
): { events: StateEvent[]; sent: SentState } => {
  const events: StateEvent[] = []
  let sent: SentState = sentBefore ?? { ...current, progress: null, position: null }
  const add = (event: StateEvent['event'], data: object, sentAfter: SentState) => {
    sent = sentAfter
    events.push({ event, id: toEventId(sentAfter), data })
  }
  const { status, attempt, progress, position } = current
  if (sentBefore?.status !== status || sentBefore.attempt !== attempt) {
    add('status', { status, attempt }, { status, attempt, progress: null, position: null })
  }
  if (position !== null && position !== sent.position) add('position', { position }, { ...sent, position })
  // After a reconnect to another instance, our state may be older than the one the client was sent.
  if (progress !== null && progress > (sent.progress ?? -1)) {
    add('progress', { progress: progress / 1_000 }, { ...sent, progress })
  }
  return { events, sent }
}
