import type { Person } from '../../harness.ts'

/** One order as its customer knows it from the responses. */
export type OrderRecord = {
  readonly number: number
  readonly ownerId: string
  /** Undefined: no response arrived, so the order may exist or not. */
  id?: string
  cancelled?: true
  deleted?: true
}

const remoteShare = 0.4
const cancelledShare = 0.12
const deletedShare = 0.05
const repeatedShare = 0.1
/** Share of the requests without a response that are not retried. */
const abandonedShare = 0.4
const cancelledWithinMs = 3_000
/** Besides that share, every tenth order is cancelled as soon as it is accepted, so that some are cancelled on any machine. */
const cancelledAtOnceEvery = 10
const responseTimeoutMs = 10_000
const pauseMs = 50

const chance = (share: number) => Math.random() < share

type Options = {
  readonly persons: readonly Person[]
  /** The instance for the next request; it may be down. */
  readonly baseUrl: () => string
}

/**
 * Customers who order pictures from any instance, each order with an idempotency key. An order without a response is retried
 * with its key or abandoned. Some accepted orders are sent again, cancelled or deleted at a random time.
 */
export const createCustomers = ({ persons, baseUrl }: Options) => {
  const orders: OrderRecord[] = []
  const violations: string[] = []
  const pending: Promise<void>[] = []
  let repeated = 0

  /** Undefined: no response, or a 5xx. */
  const send = async (method: string, path: string, { token }: Person, body?: object, headers: object = {}) => {
    const response = await fetch(`${baseUrl()}/api/v1/generations${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }), ...headers },
      ...(body && { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(responseTimeoutMs),
    }).catch(() => undefined)
    const text = await response?.text().catch(() => undefined)
    if (response === undefined || text === undefined || response.status >= 500) return undefined
    return { status: response.status, body: text === '' ? undefined : JSON.parse(text) }
  }
  const sendUntilAnswered = async (...request: Parameters<typeof send>) => {
    for (;;) {
      const answer = await send(...request)
      if (answer !== undefined) return answer
      await Bun.sleep(pauseMs)
    }
  }

  const remove = async (order: OrderRecord, person: Person) => {
    await Bun.sleep(Math.random() * cancelledWithinMs)
    const { status } = await sendUntilAnswered('DELETE', `/${order.id}`, person)
    // 404: an earlier attempt deleted it, and its response was lost.
    if (status === 204 || status === 404) order.deleted = true
    else violations.push(`Deleting order ${order.number} got status ${status}`)
  }
  const cancel = async (order: OrderRecord, person: Person, withinMs = cancelledWithinMs) => {
    await Bun.sleep(Math.random() * withinMs)
    const { status, body } = await sendUntilAnswered('POST', `/${order.id}/cancel`, person)
    if (status === 200) order.cancelled = true
    else if (body?.code !== 'generation.finished')
      violations.push(`Cancelling order ${order.number} got status ${status}`)
  }

  return {
    orders: orders as readonly OrderRecord[],
    violations,
    get repeated() {
      return repeated
    },
    order: async (number: number): Promise<void> => {
      const person = persons[number % persons.length] as Person
      const order: OrderRecord = { number, ownerId: person.id }
      orders.push(order)
      const local = { model: 'local/procedural', parameters: { width: 64, height: 64 } }
      const body = { ...(chance(remoteShare) ? { model: 'openai/gpt-image-2' } : local), prompt: `order ${number}` }
      const place = () => send('POST', '', person, body, { 'idempotency-key': `order-${number}` })
      let answer = await place()
      if (answer === undefined && chance(abandonedShare)) return
      for (; answer === undefined; answer = await place()) {
        repeated += 1
        await Bun.sleep(pauseMs)
      }
      if (answer.status !== 201) {
        violations.push(`Order ${number} got status ${answer.status}`)
        return
      }
      order.id = answer.body.id
      if (chance(repeatedShare)) {
        repeated += 1
        const again = await place()
        if (again !== undefined && again.body?.id !== order.id) violations.push(`Order ${number} was accepted twice`)
      }
      if (number % cancelledAtOnceEvery === 0) pending.push(cancel(order, person, 0))
      else if (chance(cancelledShare)) pending.push(cancel(order, person))
      else if (chance(deletedShare)) pending.push(remove(order, person))
    },
    /** Resolves when all cancellations and deletions are answered. */
    done: () => Promise.all(pending),
  }
}
