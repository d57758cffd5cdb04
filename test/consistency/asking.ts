import type { Credential, Question } from './fixture.ts'
import type { Instance } from './instances.ts'

export type Ways = 'check' | 'batch' | 'get' | 'explain'

/** One request with some questions, and what it said to each; undefined is no answer: 503, or a connection that broke. */
export type Asked = {
  readonly instance: Instance
  readonly way: Ways
  readonly sentMs: number
  readonly answeredMs: number
  /** Undefined when the connection broke. */
  readonly status: number | undefined
  readonly answers: readonly (boolean | undefined)[]
  /** Where an explanation says the facts came from. */
  readonly tier: string | undefined
}

const authorization = '/api/v1/authorization'
const places = { project: '/api/v1/projects', generation: '/api/v1/generations', media: '/api/v1/media' } as const

const bodyOf = ({ credential, userId, action, thing }: Question) => ({
  ...(credential.kind === 'key' && { user_id: userId }),
  action,
  resource: thing,
})

export type Reply = {
  readonly status: number
  // biome-ignore lint/suspicious/noExplicitAny: as sent
  readonly body: any
}

/** One request; undefined when the connection broke. */
export const send = async (
  { server }: Instance,
  { token }: Pick<Credential, 'token'>,
  method: string,
  path: string,
  body?: object,
): Promise<Reply | undefined> => {
  try {
    const response = await fetch(server.baseUrl + path, {
      method,
      headers: { authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }) },
      ...(body && { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    return { status: response.status, body: text === '' ? undefined : JSON.parse(text) }
  } catch {
    return undefined
  }
}

const request = (instance: Instance, way: Ways, questions: readonly [Question, ...Question[]]) => {
  const [question] = questions
  const { credential, thing } = question
  if (way === 'get') return send(instance, credential, 'GET', `${places[thing.type]}/${thing.id}`)
  if (way === 'explain') return send(instance, credential, 'POST', `${authorization}/explain`, bodyOf(question))
  if (way === 'check') return send(instance, credential, 'POST', `${authorization}/check`, bodyOf(question))
  return send(instance, credential, 'POST', `${authorization}/check/batch`, { checks: questions.map(bodyOf) })
}

const read = (way: Ways, reply: Reply | undefined, count: number): readonly (boolean | undefined)[] => {
  const all = (answer: boolean | undefined) => Array.from({ length: count }, () => answer)
  if (reply?.status === 401) return all(false)
  if (way === 'get') return all(reply?.status === 200 ? true : reply?.status === 404 ? false : undefined)
  if (reply?.status !== 200) return all(undefined)
  if (way === 'batch') return reply.body.results.map(({ allowed }: { allowed: boolean }) => allowed)
  return [reply.body.allowed]
}

interface TracedLayer {
  layer: number
  tier: string | null
}

/** Asks one instance; with more than one question, or in the way of a batch, by one credential. */
export const ask = async (
  instance: Instance,
  way: Ways,
  questions: readonly [Question, ...Question[]],
): Promise<Asked> => {
  const sentMs = performance.now()
  const reply = await request(instance, way, questions)
  const answeredMs = performance.now()
  const layers: TracedLayer[] = (way === 'explain' && reply?.status === 200 && reply.body.layers) || []
  const tier = layers.find(({ layer }) => layer === 7)?.tier ?? undefined
  return { instance, way, sentMs, answeredMs, status: reply?.status, answers: read(way, reply, questions.length), tier }
}
