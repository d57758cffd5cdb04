import { describe, expect, test } from 'bun:test'
import type { LoadFacts } from '../../src/access/cache/tiered-loader.ts'
import { withTurns } from '../../src/access/cache/wide-loads.ts'
import { resourceQuery } from '../../src/access/policy/facts/queries.ts'
import { manualClock, systemClock } from '../../src/kit/clock.ts'
import { createDeadlines, DeadlinePassed } from '../../src/kit/deadline.ts'
import { idOf } from './random.ts'

const queriesOf = (person: number, count: number) =>
  Array.from({ length: count }, (_, at) =>
    resourceQuery({ type: 'generation', id: idOf('generation', at) }, idOf('user', person)),
  )

/** A loader whose loads end one by one, and the people whose loads have begun. */
const start = (clock = systemClock) => {
  const begun: string[] = []
  const ends: (() => void)[] = []
  const load: LoadFacts = async (queries) => {
    begun.push(queries[0]?.userId ?? '')
    await new Promise<void>((resolve) => ends.push(resolve))
    return { facts: new Map(), tier: 'l3', redisAgesMs: new Map() }
  }
  const settle = () => new Promise((resolve) => setTimeout(resolve, 2))
  const withLimits = withTurns(load, createDeadlines(clock), 1_000)
  /** What becomes of a load that no test waits for is of no interest. */
  const send = (queries: Parameters<LoadFacts>[0]) => {
    const sent = withLimits(queries)
    sent.catch(() => {})
    return sent
  }
  return { send, begun, endNext: () => ends.shift()?.(), settle }
}

describe('loads for many decisions', () => {
  const [flooding, other, third] = [1, 2, 3].map((person) => idOf('user', person)) as [string, string, string]

  test('of one person are sent one after the other, and two of different people at once', async () => {
    const { send, begun, endNext, settle } = start()
    for (let count = 0; count < 5; count += 1) send(queriesOf(1, 200))
    send(queriesOf(2, 200))
    send(queriesOf(3, 200))
    await settle()
    expect(begun).toEqual([flooding, other])
    endNext()
    endNext()
    await settle()
    // The person with few loads is not behind all those of the other.
    expect(begun.slice(2).sort()).toEqual([flooding, third])
    endNext()
    endNext()
    await settle()
    expect(begun.slice(4)).toEqual([flooding])
  })

  test('keep no load for one decision waiting', async () => {
    const { send, begun, settle } = start()
    for (let count = 0; count < 5; count += 1) send(queriesOf(1, 17))
    for (let count = 0; count < 5; count += 1) send(queriesOf(1, 16))
    await settle()
    expect(begun).toHaveLength(6)
  })

  test('give their turn to the next also where they fail', async () => {
    let fails = 0
    const load = withTurns(
      async () => {
        fails += 1
        throw new Error('refused')
      },
      createDeadlines(systemClock),
      1_000,
    )
    for (let count = 0; count < 3; count += 1) await expect(load(queriesOf(1, 200))).rejects.toThrow('refused')
    expect(fails).toBe(3)
  })

  test('fail where their turn does not come in time', async () => {
    const clock = manualClock()
    const { send, settle } = start(clock)
    send(queriesOf(1, 200))
    const late = send(queriesOf(1, 200))
    await settle()
    clock.advance(1_000)
    await expect(late).rejects.toBeInstanceOf(DeadlinePassed)
  })
})
