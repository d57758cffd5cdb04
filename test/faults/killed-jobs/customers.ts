import type { Person } from '../../harness.ts'

/** What somebody was told about one order of theirs. */
export type Told = {
  readonly number: number
  readonly ownerId: string
  /** Undefined: it was never answered, so it may be there or not. */
  id?: string
  cancelled?: true
  deleted?: true
}

const remoteShare = 0.4
const cancelledShare = 0.12
const deletedShare = 0.05
const repeatedShare = 0.1
/** Of those that were not answered. */
const givenUpShare = 0.4
const calledOffWithinMs = 3_000
const answerWithinMs = 10_000
const pauseMs = 50

const chance = (share: number) => Math.random() < share

type Options = {
  readonly persons: readonly Person[]
  /** Where somebody is asked now; they may be gone. */
  readonly baseUrl: () => string
}

/**
 * People who order pictures with a key each, from whoever answers: what is not answered is sent again with its key, or given
 * up. Some of what was accepted is sent again all the same, called off, or deleted, at any time.
 */
export const createCustomers = ({ persons, baseUrl }: Options) => {
  const told: Told[] = []
  const wrong: string[] = []
  const later: Promise<void>[] = []
  let repeated = 0

  /** What somebody answers. Undefined: nobody does, or not now. */
  const ask = async (method: string, path: string, { token }: Person, body?: object, headers: object = {}) => {
    const response = await fetch(`${baseUrl()}/api/v1/generations${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }), ...headers },
      ...(body && { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(answerWithinMs),
    }).catch(() => undefined)
    const text = await response?.text().catch(() => undefined)
    if (response === undefined || text === undefined || response.status >= 500) return undefined
    return { status: response.status, body: text === '' ? undefined : JSON.parse(text) }
  }
  const insist = async (...asked: Parameters<typeof ask>) => {
    for (;;) {
      const answer = await ask(...asked)
      if (answer !== undefined) return answer
      await Bun.sleep(pauseMs)
    }
  }

  const remove = async (order: Told, person: Person) => {
    await Bun.sleep(Math.random() * calledOffWithinMs)
    const { status } = await insist('DELETE', `/${order.id}`, person)
    // Not found: it was deleted, and the answer was lost.
    if (status === 204 || status === 404) order.deleted = true
    else wrong.push(`Deleting order ${order.number} was answered ${status}`)
  }
  const cancel = async (order: Told, person: Person) => {
    await Bun.sleep(Math.random() * calledOffWithinMs)
    const { status, body } = await insist('POST', `/${order.id}/cancel`, person)
    if (status === 200) order.cancelled = true
    else if (body?.code !== 'generation.finished') wrong.push(`Cancelling order ${order.number} was answered ${status}`)
  }

  return {
    told: told as readonly Told[],
    wrong,
    get repeated() {
      return repeated
    },
    order: async (number: number): Promise<void> => {
      const person = persons[number % persons.length] as Person
      const order: Told = { number, ownerId: person.id }
      told.push(order)
      const local = { model: 'local/procedural', parameters: { width: 64, height: 64 } }
      const body = { ...(chance(remoteShare) ? { model: 'openai/gpt-image-2' } : local), prompt: `order ${number}` }
      const send = () => ask('POST', '', person, body, { 'idempotency-key': `order-${number}` })
      let answer = await send()
      if (answer === undefined && chance(givenUpShare)) return
      for (; answer === undefined; answer = await send()) {
        repeated += 1
        await Bun.sleep(pauseMs)
      }
      if (answer.status !== 201) {
        wrong.push(`Order ${number} was answered ${answer.status}`)
        return
      }
      order.id = answer.body.id
      if (chance(repeatedShare)) {
        repeated += 1
        const again = await send()
        if (again !== undefined && again.body?.id !== order.id) wrong.push(`Order ${number} was accepted twice`)
      }
      if (chance(cancelledShare)) later.push(cancel(order, person))
      else if (chance(deletedShare)) later.push(remove(order, person))
    },
    /** Resolves when nobody wants anything any more. */
    done: () => Promise.all(later),
  }
}
