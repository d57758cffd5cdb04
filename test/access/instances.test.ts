import { afterEach, describe, expect, mock, test } from 'bun:test'
import fc from 'fast-check'
import { type Instances, places, startInstances } from './instances.ts'

afterEach(() => mock.restore())

const place = fc.constantFrom(...places)
const does = (name: Parameters<Instances['step']>[1], weight: number) => ({
  weight,
  arbitrary: place.map((at) => ({ name: `${name} ${at}`, run: (all: Instances) => all.step(at, name) })),
})
const anyStep = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.nat(600).map((ms) => ({ name: `pass ${ms}`, run: (all: Instances) => all.pass(ms) })),
  },
  does('receive', 8),
  does('receiveUnapplied', 10),
  does('apply', 4),
  does('receiveAll', 20),
  does('sendHeartbeat', 16),
  does('check', 24),
  does('change', 5),
  does('commit', 8),
  does('send', 8),
  does('read', 4),
  does('answer', 10),
  does('redis', 8),
  does('redisAll', 14),
  does('flush', 3),
  does('sweep', 2),
  does('open', 4),
  does('lose', 2),
  {
    weight: 3,
    arbitrary: place.map((at) => ({ name: `freeze or thaw ${at}`, run: (all: Instances) => all.freeze(at) })),
  },
  {
    weight: 1,
    arbitrary: fc.tuple(place, fc.boolean()).map(([at, politely]) => ({
      name: `replace ${at} ${politely}`,
      run: (all: Instances) => all.replace(at, politely),
    })),
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom('down', 'up', 'up', 'restart', 'evict').map((how) => ({
      name: `redis ${how}`,
      run: async (all: Instances) => all.loseRedis(how as 'down'),
    })),
  },
)

const anyStepOrDrop = fc.oneof({ weight: 100, arbitrary: anyStep }, does('drop', 8))

/** Every instance is connected, holds a lease and knows the others. */
const begin = async (all: Instances) => {
  for (const at of places) await all.step(at, 'open')
  for (let passed = 0; passed < 2_000; passed += 250) {
    await all.pass(250)
    for (const at of places) await all.step(at, 'sendHeartbeat')
    for (const at of places) await all.step(at, 'receiveAll')
  }
}

const total = { checks: 0, fromL1: 0, fromL2: 0, changes: 0, lost: 0 }
const anyHistory = (options: Parameters<typeof startInstances>[0] = {}, drops = false) =>
  fc.asyncProperty(
    fc.boolean(),
    fc.array(drops ? anyStepOrDrop : anyStep, { minLength: 100, maxLength: 250, size: 'max' }),
    async (warm, steps) => {
      const all = startInstances(options)
      if (warm) await begin(all)
      const stepNames: string[] = []
      for (const { name, run } of steps) {
        stepNames.push(name)
        await run(all)
        if (all.stale.length > 0) throw new Error(`${JSON.stringify(all.stale)} after\n${stepNames.join('\n')}`)
      }
      for (const name of Object.keys(total) as (keyof typeof total)[]) total[name] += all.counts[name]
    },
  )

const histories = Number(process.env['HISTORIES'] ?? 1600)

/**
 * Runs `least` histories, and then more until they have `reached` their goal, up to twice as many. What a number of histories
 * reaches is a matter of chance; that twice as many fall short of a goal they usually reach is not.
 */
const tryHistories = async (least: number, drops: boolean, reached: () => boolean) => {
  for (const name of Object.keys(total) as (keyof typeof total)[]) total[name] = 0
  await fc.assert(anyHistory({}, drops), { numRuns: least })
  for (let more = 0; more < 10 && !reached(); more += 1) {
    await fc.assert(anyHistory({}, drops), { numRuns: Math.ceil(least / 10) })
  }
  expect({ ...total, reached: reached() }).toMatchObject({ reached: true })
}

describe('three instances under any interleaving of steps and faults', () => {
  test('never answer from before a change whose writer was answered', async () => {
    // The histories exercised every tier.
    await tryHistories(
      histories,
      false,
      () => total.changes > histories && total.fromL1 > 0.8 * histories && total.fromL2 > histories / 40,
    )
  }, 120_000)

  test('never do so while events are dropped on the way to any of them', async () => {
    await tryHistories(histories / 4, true, () => total.lost > histories / 8)
  }, 120_000)

  test('do so where heartbeats do not send what a writer has committed and not sent', async () => {
    const { failed } = await fc.check(anyHistory({ heartbeatsSend: false }), {
      numRuns: 10 * histories,
      endOnFailure: true,
    })
    expect(failed).toBeTrue()
  }, 120_000)

  test('do so without acknowledgements', async () => {
    const { failed } = await fc.check(anyHistory({ acknowledge: false }), {
      numRuns: 10 * histories,
      endOnFailure: true,
    })
    expect(failed).toBeTrue()
  }, 120_000)
})
