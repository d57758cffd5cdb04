import type { Credential, Question } from './fixture.ts'
import type { Instance } from './instances.ts'

export type Endpoint = 'check' | 'batch' | 'get' | 'explain'

/** One request with its questions and answers. An answer is undefined after a 503 or a lost connection. */
export type Observation = {
  readonly instance: Instance
  readonly endpoint: Endpoint
  readonly sentMs: number
  readonly answeredMs: number
  /** Undefined: the connection was lost. */
  readonly status: number | undefined
  readonly answers: readonly (boolean | undefined)[]
  /** The tier of layer 7 in an explanation. */
  readonly tier: string | undefined
}

const authorization = '/api/v1/authorization'
const paths = { project: '/api/v1/projects', generation: '/api/v1/generations', media: '/api/v1/media' } as const

const bodyOf = ({ credential, userId, action, resource }: Question) => ({
  ...(credential.kind === 'key' && { user_id: userId }),
  action,
  resource: resource,
})

export type Reply = {
  readonly status: number
  // biome-ignore lint/suspicious/noExplicitAny: as sent
  readonly body: any
}

/** Sends one request; undefined where the connection was lost. */
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

const request = (instance: Instance, endpoint: Endpoint, questions: readonly [Question, ...Question[]]) => {
  const [question] = questions
  const { credential, resource } = question
  if (endpoint === 'get') return send(instance, credential, 'GET', `${paths[resource.type]}/${resource.id}`)
  if (endpoint === 'explain') return send(instance, credential, 'POST', `${authorization}/explain`, bodyOf(question))
  if (endpoint === 'check') return send(instance, credential, 'POST', `${authorization}/check`, bodyOf(question))
  return send(instance, credential, 'POST', `${authorization}/check/batch`, { checks: questions.map(bodyOf) })
}

const answersOf = (endpoint: Endpoint, reply: Reply | undefined, count: number): readonly (boolean | undefined)[] => {
  const all = (answer: boolean | undefined) => Array.from({ length: count }, () => answer)
  if (reply?.status === 401 || reply?.body?.code === 'access.blocked') return all(false)
  if (endpoint === 'get') return all(reply?.status === 200 ? true : reply?.status === 404 ? false : undefined)
  if (reply?.status !== 200) return all(undefined)
  if (endpoint === 'batch') return reply.body.results.map(({ allowed }: { allowed: boolean }) => allowed)
  return [reply.body.allowed]
}

type TracedLayer = { readonly layer: number; readonly tier: string | null }

/** Asks one instance. The questions of a batch share one credential. */
export const observe = async (
  instance: Instance,
  endpoint: Endpoint,
  questions: readonly [Question, ...Question[]],
): Promise<Observation> => {
  const sentMs = performance.now()
  const reply = await request(instance, endpoint, questions)
  const answeredMs = performance.now()
  const layers: TracedLayer[] = (endpoint === 'explain' && reply?.status === 200 && reply.body.layers) || []
  const tier = layers.find(({ layer }) => layer === 7)?.tier ?? undefined
  return {
    instance,
    endpoint,
    sentMs,
    answeredMs,
    status: reply?.status,
    answers: answersOf(endpoint, reply, questions.length),
    tier,
  }
}
