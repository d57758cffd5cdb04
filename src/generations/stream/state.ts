import { type GenerationStatus, generationStatuses } from '../../access/policy/matrix.ts'

/**
 * How far a generation is, and what a client was told of that. Progress is in thousandths of the attempt under way. Null is
 * what is not known, or not yet told.
 */
export type State = {
  readonly status: GenerationStatus
  readonly attempt: number
  readonly progress: number | null
  readonly position: number | null
}

export type Told = { readonly event: 'status' | 'position' | 'progress'; readonly id: string; readonly data: object }

export const isOver = (status: GenerationStatus): boolean => status !== 'queued' && status !== 'processing'

/** All that was told up to an event, in its id: any instance can go on from there. */
export const toEventId = ({ status, attempt, progress, position }: State): string =>
  isOver(status) ? status : `${status}.${attempt}.${progress ?? '-'}.${position ?? '-'}`

const ids = /^(queued|processing)\.(\d{1,9})\.(-|\d{1,4})\.(-|\d{1,9})$/

/** Undefined for what is no id of ours: then nothing was told. */
export const parseEventId = (id: string | null): State | undefined => {
  const status = generationStatuses.find((known) => known === id)
  if (status !== undefined && isOver(status)) return { status, attempt: 0, progress: null, position: null }
  const parts = ids.exec(id ?? '')
  if (parts === null) return undefined
  const [, begun, attempt, progress, position] = parts
  const number = (text: string | undefined) => (text === '-' ? null : Number(text))
  return {
    status: begun as GenerationStatus,
    attempt: Number(attempt),
    progress: number(progress),
    position: number(position),
  }
}

/** What is news to somebody who was told that much, and what they were told with it. */
export const newsSince = (told: State | undefined, now: State): { news: Told[]; told: State } => {
  const news: Told[] = []
  let said: State = told ?? { ...now, progress: null, position: null }
  const say = (event: Told['event'], data: object, then: State) => {
    said = then
    news.push({ event, id: toEventId(then), data })
  }
  const { status, attempt, progress, position } = now
  if (told?.status !== status || told.attempt !== attempt) {
    say('status', { status, attempt }, { status, attempt, progress: null, position: null })
  }
  if (position !== null && position !== said.position) say('position', { position }, { ...said, position })
  // What an instance has read may be older than what the client heard from another.
  if (progress !== null && progress > (said.progress ?? -1)) {
    say('progress', { progress: progress / 1_000 }, { ...said, progress })
  }
  return { news, told: said }
}
