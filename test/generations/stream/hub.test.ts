import { describe, expect, test } from 'bun:test'
import { dispatch } from '../../../src/access/invalidation/topics.ts'
import type { FactKey } from '../../../src/access/policy/facts/registry.ts'
import type { Fault } from '../../../src/fault.ts'
import { defaultPolicy } from '../../../src/limits/policy.ts'
import { createLog } from '../../../src/platform/log.ts'
import { createHubWorld } from './hub-world.ts'

const caps = defaultPolicy.streams

const keysOf = (id: string): FactKey[] => [`generation:${id}`]

/** The code and the extension members of the fault that a call throws. */
const refusalOf = (call: () => unknown): unknown[] => {
  try {
    call()
  } catch (error) {
    const { code, extensions } = error as Fault
    return [code, extensions]
  }
  throw new Error('was not refused')
}

describe('a stream', () => {
  test('sends each change of state from queued to completed, then the complete generation, then ends', async () => {
    const { time, queue, setState, hub, open } = createHubWorld()
    queue.push('other', 'g')
    setState('g', 'queued')
    const client = open('g')
    await time.advance(300)
    expect(client.text).toStartWith('retry: 1000\n\n')
    expect(client.eventTexts()).toEqual(['status {"status":"queued","attempt":0}', 'position {"position":1}'])
    queue.shift()
    hub.onQueueMoved()
    await time.advance(1_250)
    expect(client.eventTexts().at(-1)).toBe('position {"position":0}')
    setState('g', 'processing', 1)
    hub.onInvalidated(keysOf('g'))
    await time.advance(30)
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.4 })
    await time.advance(30)
    setState('g', 'completed')
    hub.onInvalidated(keysOf('g'))
    await time.advance(30)
    expect(client.eventTexts().slice(3)).toEqual([
      'status {"status":"processing","attempt":1}',
      'progress {"progress":0}',
      'progress {"progress":0.4}',
      'done {"id":"g","owner_id":"ada","status":"completed"}',
    ])
    expect(client.events().at(-1)?.id).toBe('completed')
    expect([client.ended, hub.size, time.pendingTimers()]).toEqual([true, 0, 0])
  })

  test.each(['failed', 'cancelled'] as const)('ends with a done event when the generation is %s', async (status) => {
    const { time, setState, hub, open } = createHubWorld()
    setState('g', 'processing', 1)
    const client = open('g')
    await time.advance(300)
    setState('g', status)
    hub.onInvalidated(keysOf('g'))
    await time.advance(30)
    expect([client.events().at(-1)?.data, client.ended]).toEqual([{ id: 'g', owner_id: 'ada', status }, true])
  })

  test('ends without another event when the generation is deleted', async () => {
    const { time, stored, setState, hub, open } = createHubWorld()
    setState('g', 'processing', 1)
    const client = open('g')
    await time.advance(300)
    const { text } = client
    stored.delete('g')
    hub.onInvalidated(keysOf('g'))
    await time.advance(30)
    expect([client.text, client.ended, hub.size]).toEqual([text, true, 0])
  })

  test('resumes from the state the client was sent', async () => {
    const { time, setState, open } = createHubWorld()
    setState('g', 'processing', 1, 0.5)
    const sent = { status: 'processing', attempt: 1, progress: 500, position: null } as const
    const [current, behind] = [open('g', {}, sent), open('g', {}, { ...sent, progress: 200 })]
    await time.advance(300)
    expect([current.eventTexts(), behind.eventTexts()]).toEqual([[], ['progress {"progress":0.5}']])
  })

  test('sends a heartbeat after 15 seconds without an event', async () => {
    const { time, setState, hub, open } = createHubWorld()
    setState('g', 'processing', 1)
    const client = open('g')
    await time.advance(10_000)
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.5 })
    await time.advance(14_000)
    expect(client.text).not.toContain(':\n\n')
    await time.advance(1_300)
    expect(client.text).toEndWith('\n\n:\n\n')
    await time.advance(45_000)
    expect(client.text.split(':\n\n')).toHaveLength(5)
  })
})

describe('progress in a stream', () => {
  test('never goes back within an attempt despite late messages, and restarts with the next attempt', async () => {
    const { time, setState, hub, open } = createHubWorld()
    setState('g', 'processing', 2, 0.3)
    const client = open('g')
    await time.advance(300)
    for (const [attempt, fraction] of [
      ['2', '0.5'],
      ['2', '0.4'],
      ['1', '0.9'],
      ['2', '0.6'],
    ]) {
      dispatch({ progress: hub.onProgress }, `progress g ${attempt ?? ''} ${fraction ?? ''}`)
      await time.advance(5)
    }
    // The stored progress is older than the last message.
    await time.advance(3_000)
    setState('g', 'processing', 3, 0)
    hub.onProgress({ generationId: 'g', attempt: 3, fraction: 0.1 })
    await time.advance(30)
    expect(client.eventTexts()).toEqual([
      'status {"status":"processing","attempt":2}',
      'progress {"progress":0.3}',
      'progress {"progress":0.5}',
      'progress {"progress":0.6}',
      'status {"status":"processing","attempt":3}',
      'progress {"progress":0.1}',
    ])
  })

  test('ignores a message of an earlier attempt, even as the first message', async () => {
    const { time, setState, hub, open } = createHubWorld()
    setState('g', 'processing', 2, 0.3)
    const client = open('g')
    await time.advance(300)
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.9 })
    await time.advance(3_000)
    expect(client.eventTexts().at(-1)).toBe('progress {"progress":0.3}')
  })

  test('ignores malformed messages', async () => {
    const { time, setState, hub, open } = createHubWorld()
    setState('g', 'processing', 1)
    const client = open('g')
    await time.advance(300)
    const before = client.text
    for (const words of [
      [],
      ['g'],
      ['g', '1'],
      ['g', '1', 'NaN'],
      ['g', '1', '2'],
      ['g', 'x', '0.5'],
      ['h', '1', '1'],
    ]) {
      dispatch({ progress: hub.onProgress }, `progress ${words.join(' ')}`)
    }
    await time.advance(30)
    expect(client.text).toBe(before)
  })
})

describe('the state tracker', () => {
  test('reads all watched generations in one statement, each once however many clients watch it', async () => {
    const { time, setState, open, calls } = createHubWorld({ caps: { ...caps, person: 300 } })
    for (let number = 0; number < 100; number += 1) {
      setState(`g${number}`, 'processing', 1)
      for (let copy = 0; copy < 3; copy += 1) open(`g${number}`, { sessionId: `${number} ${copy}` })
    }
    await time.advance(200)
    expect(calls.states.map((ids) => ids.length)).toEqual([100])
    await time.advance(10_000)
    // The resync every 2.5 s.
    expect(calls.states.length).toBeGreaterThanOrEqual(4)
    expect(calls.states.length).toBeLessThanOrEqual(6)
  })

  test('makes good a lost message within three seconds', async () => {
    const { time, queue, setState, open } = createHubWorld()
    queue.push('other', 'g')
    setState('g', 'queued')
    const client = open('g')
    await time.advance(1_500)
    queue.shift()
    await time.advance(3_000)
    expect(client.eventTexts().at(-1)).toBe('position {"position":0}')
    setState('g', 'processing', 1, 0.5)
    await time.advance(3_000)
    expect(client.eventTexts().at(-1)).toBe('progress {"progress":0.5}')
    setState('g', 'completed')
    await time.advance(3_000)
    expect(client.ended).toBe(true)
  })

  test('reads again after failed reads, as does the final state loader', async () => {
    const { time, setState, open, failing, calls } = createHubWorld()
    failing.states = true
    failing.finalStates = true
    setState('g', 'completed')
    const client = open('g')
    await time.advance(6_000)
    failing.states = false
    await time.advance(3_000)
    expect([client.events(), calls.finalStates > 0]).toEqual([[], true])
    failing.finalStates = false
    await time.advance(300)
    expect(client.events().map(({ event }) => event)).toEqual(['done'])
  })

  test('reads queue positions when any generation changes, because it may have left the queue', async () => {
    const { time, queue, setState, hub, open } = createHubWorld()
    queue.push('other', 'g')
    setState('g', 'queued')
    const client = open('g')
    // Just after a resync.
    await time.advance(2_800)
    queue.shift()
    hub.onInvalidated(keysOf('other'))
    await time.advance(1_100)
    expect(client.eventTexts().at(-1)).toBe('position {"position":0}')
  })

  test('reads queue positions at most once a second, and never while no watched generation is queued', async () => {
    const { time, queue, setState, hub, open, calls } = createHubWorld()
    setState('busy', 'processing', 1)
    open('busy', { sessionId: 'other' })
    hub.onQueueMoved()
    await time.advance(5_000)
    expect(calls.positions).toBe(0)
    queue.push('g')
    setState('g', 'queued')
    open('g')
    for (let ms = 0; ms < 10_000; ms += 10) {
      hub.onQueueMoved()
      hub.onInvalidated(keysOf('unwatched'))
      await time.advance(10)
    }
    expect(calls.positions).toBeGreaterThanOrEqual(7)
    expect(calls.positions).toBeLessThanOrEqual(11)
  })
})

describe('the permission of a stream', () => {
  const openStream = async () => {
    const world = createHubWorld()
    world.setState('g', 'processing', 1)
    const client = world.open('g')
    await world.time.advance(300)
    return { ...world, client, before: client.text }
  }

  test('ends the stream before another write once it is lost', async () => {
    const { client, before, inMemory, hub, time } = await openStream()
    inMemory.set('g', false)
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.7 })
    await time.advance(1)
    expect([client.text, client.ended, hub.size]).toEqual([before, true, 0])
  })

  test('is re-checked every 250 ms without an invalidation', async () => {
    const { client, before, inMemory, time } = await openStream()
    inMemory.set('g', false)
    await time.advance(260)
    expect([client.text, client.ended]).toEqual([before, true])
  })

  test.each([
    ['session:hers'],
    ['account:ada'],
    ['generation:g'],
    ['grant:ada/some-project'],
    ['grants:ada'],
  ] as FactKey[][])('is re-checked at once when %s is invalidated', async (key) => {
    const { client, inMemory, hub, time } = await openStream()
    inMemory.set('g', false)
    hub.onInvalidated(['account:unrelated', key as FactKey])
    await time.flush()
    expect(client.ended).toBe(true)
  })

  test('is re-checked once for several changed projects, and once when everything is invalidated', async () => {
    for (const keys of [['project:p', 'project:q'] as FactKey[], 'everything' as const]) {
      const { client, inMemory, hub, time, calls } = await openStream()
      inMemory.set('g', false)
      const { peeks } = calls
      hub.onInvalidated(keys)
      await time.advance(60)
      expect([client.ended, calls.peeks - peeks]).toEqual([true, 1])
    }
  })

  test('is re-checked in one statement for all streams that memory cannot decide, and no event is sent before the result', async () => {
    const { client, before, inMemory, inDatabase, hub, time, calls, setState, open } = await openStream()
    setState('h', 'processing', 1)
    const other = open('h', { sessionId: 'another' })
    await time.advance(100)
    inMemory.set('g', undefined).set('h', undefined)
    inDatabase.set('g', false)
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.7 })
    expect(client.text).toBe(before)
    await time.advance(1)
    expect([client.text, client.ended, other.ended]).toEqual([before, true, false])
    calls.gathers.length = 0
    hub.onInvalidated('everything')
    await time.advance(1)
    expect(calls.gathers).toEqual([1])
  })

  test('counts as lost when it cannot be decided', async () => {
    const { client, before, inMemory, failing, hub, time } = await openStream()
    inMemory.set('g', undefined)
    failing.permissions = true
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.7 })
    await time.advance(1)
    expect([client.text, client.ended]).toEqual([before, true])
  })

  test('ends when the access token expires', async () => {
    const { client, time } = await openStream()
    await time.advance(899_000)
    expect(client.ended).toBe(false)
    await time.advance(1_000)
    expect(client.ended).toBe(true)
  })

  test('is re-checked from memory without a statement, for a thousand streams', async () => {
    const { setState, open, time, calls } = createHubWorld()
    setState('g', 'processing', 1)
    for (let number = 0; number < 1_000; number += 1) open('g', { userId: `u${number}`, sessionId: `s${number}` })
    await time.advance(300)
    const { peeks } = calls
    await time.advance(1_000)
    expect(calls.peeks - peeks).toBe(4_000)
    expect(calls.gathers).toEqual([])
  })
})

describe('clients of a hub', () => {
  test('are removed at once when they disconnect, and the last one stops all reads and timers', async () => {
    const { setState, open, hub, time, calls } = createHubWorld()
    setState('g', 'processing', 1)
    const clients = [open('g'), open('g'), open('g')]
    await time.advance(300)
    for (const [index, client] of clients.entries()) {
      await client.disconnect()
      expect(hub.size).toBe(2 - index)
    }
    const reads = calls.states.length
    await time.advance(10_000)
    expect([time.pendingTimers(), calls.states.length]).toEqual([0, reads])
  })

  test('continue to receive events after another client disconnects', async () => {
    const { setState, open, hub, time } = createHubWorld()
    setState('g', 'processing', 1)
    const [staying, leaving] = [open('g'), open('g')]
    await time.advance(300)
    await leaving.disconnect()
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.5 })
    await time.advance(5)
    expect(staying.eventTexts().at(-1)).toBe('progress {"progress":0.5}')
  })

  test('that read slowly get the newest state when they are ready, without the skipped ones', async () => {
    const { setState, open, hub, time } = createHubWorld()
    setState('g', 'processing', 1)
    const client = open('g')
    await time.advance(300)
    client.stopReading()
    for (let percent = 1; percent <= 90; percent += 1) {
      hub.onProgress({ generationId: 'g', attempt: 1, fraction: percent / 100 })
      await time.advance(10)
    }
    client.resumeReading()
    await time.flush()
    const received = client.eventTexts().filter((kind) => kind.startsWith('progress'))
    expect(received).toEqual(['progress {"progress":0}', 'progress {"progress":0.01}', 'progress {"progress":0.9}'])
    client.stopReading()
    setState('g', 'completed')
    hub.onInvalidated(keysOf('g'))
    await time.advance(5_000)
    client.resumeReading()
    await time.flush()
    expect([client.eventTexts().at(-1), client.ended]).toEqual([
      'done {"id":"g","owner_id":"ada","status":"completed"}',
      true,
    ])
  })

  test('are disconnected after reading nothing for 60 seconds', async () => {
    const { setState, open, hub, time } = createHubWorld()
    setState('g', 'processing', 1)
    const client = open('g')
    await time.advance(300)
    client.stopReading()
    await time.advance(60_000)
    expect(hub.size).toBe(1)
    await time.advance(16_000)
    expect(hub.size).toBe(0)
  })

  test('are limited for each session, and an ended stream frees its place', async () => {
    const { setState, open, hub, time } = createHubWorld()
    setState('g', 'processing', 1)
    const clients = Array.from({ length: caps.session }, () => open('g'))
    expect(refusalOf(() => open('g'))).toEqual(['generation.too_many_streams', { limit: caps.session }])
    await clients[0]?.disconnect()
    open('g')
    expect(hub.size).toBe(caps.session)
    await time.advance(300)
  })

  test('of 16 people who open all they can leave a third of the instance to others', async () => {
    const perInstance = 1_000
    const { open, setState, hub } = createHubWorld({ perInstance })
    setState('g', 'processing', 1)
    const refused = new Map<string, unknown>()
    for (let round = 0; refused.size < 16; round += 1) {
      for (let person = 0; person < 16; person += 1) {
        const userId = `greedy-${person}`
        try {
          if (!refused.has(userId)) open('g', { userId, sessionId: `${userId}-${Math.floor(round / caps.session)}` })
        } catch (error) {
          refused.set(userId, (error as { code: string }).code)
        }
      }
    }
    expect(new Set(refused.values())).toEqual(new Set(['generation.too_many_streams']))
    expect([hub.size, hub.size <= (perInstance * 16) / (16 + 8) + 16]).toEqual([expect.any(Number), true])
    for (let stream = 0; stream < 16; stream += 1) open('g', { userId: 'bob', sessionId: 'his' })
    hub.close()
  })

  test('take the oldest one of the person with most, where the instance has none left for the first of another person', async () => {
    const { open, setState, hub, time } = createHubWorld({ perInstance: 20 })
    setState('g', 'processing', 1)
    const ada = [open('g', { userId: 'ada' }), open('g', { userId: 'ada' })]
    for (let person = 0; person < 18; person += 1) open('g', { userId: `one-${person}`, sessionId: `one-${person}` })
    await time.advance(300)
    expect(refusalOf(() => open('g', { userId: 'one-0', sessionId: 'one-0' }))).toEqual([
      'generation.too_many_streams',
      { limit: 1 },
    ])
    open('g', { userId: 'bob', sessionId: 'his' })
    await time.advance(300)
    expect([ada.map(({ ended }) => ended), hub.size]).toEqual([[true, false], 20])
    expect(refusalOf(() => open('g', { userId: 'cem', sessionId: 'other' }))).toEqual([
      'generation.streams_full',
      { limit: 20 },
    ])
    hub.close()
  })

  test('are limited for each user across sessions', async () => {
    const { open, setState, hub } = createHubWorld({ caps: { ...caps, person: 3 } })
    setState('g', 'processing', 1)
    for (const sessionId of ['one', 'two', 'three']) open('g', { sessionId })
    expect(() => open('g', { sessionId: 'four' })).toThrow(
      expect.objectContaining({ code: 'generation.too_many_streams' }),
    )
    open('g', { userId: 'bob', sessionId: 'his' })
    expect(hub.size).toBe(4)
    hub.close()
  })

  /** Opens streams from one address until one is refused, 16 for each account. */
  const fill = (open: ReturnType<typeof createHubWorld>['open'], address: string): number => {
    for (let stream = 0; ; stream += 1) {
      const userId = `account-${Math.floor(stream / 16)}-at-${address}`
      try {
        open('g', { address, userId, sessionId: userId })
      } catch (error) {
        expect((error as Fault).code).toBe('generation.too_many_streams_from_address')
        return stream
      }
    }
  }

  test('from one address with any number of accounts are a fifth of the instance, of four at most 700 of 1,000, and of any address 256', () => {
    const { open, setState, hub } = createHubWorld({ perInstance: 1_000 })
    setState('g', 'processing', 1)
    expect(fill(open, '192.0.2.1')).toBe(200)
    for (const last of [2, 3, 4]) fill(open, `192.0.2.${last}`)
    expect(hub.size).toBeLessThanOrEqual(700)
    // Who has another address, or none that limits know, gets streams.
    open('g', { address: '198.51.100.1', userId: 'bob', sessionId: 'his' })
    for (let stream = 0; stream < 16; stream += 1) open('g', { userId: 'cem', sessionId: 'other' })
    hub.close()
    const large = createHubWorld({ perInstance: 5_000 })
    fill(large.open, '192.0.2.1')
    expect(large.hub.size).toBe(caps.address)
    large.hub.close()
  })

  test('take the oldest one of the person with most at the address, where it has none left for the first of another person', async () => {
    const { open, setState, hub, time } = createHubWorld({ caps: { ...caps, address: 4 } })
    setState('g', 'processing', 1)
    const [address, elsewhere] = ['192.0.2.1', '198.51.100.1']
    const far = [1, 2, 3, 4].map(() => open('g', { address: elsewhere, userId: 'far', sessionId: 'far' }))
    const ada = [open('g', { address }), open('g', { address }), open('g', { address })]
    open('g', { address, userId: 'bea', sessionId: 'hers too' })
    await time.advance(300)
    const refused = ['generation.too_many_streams_from_address', { limit: 4 }]
    expect(refusalOf(() => open('g', { address }))).toEqual(refused)
    for (const userId of ['cem', 'dan']) open('g', { address, userId, sessionId: userId })
    await time.advance(300)
    expect([...ada, ...far].map(({ ended }) => ended)).toEqual([true, true, false, false, false, false, false])
    expect(refusalOf(() => open('g', { address, userId: 'eve', sessionId: 'eve' }))).toEqual(refused)
    hub.close()
  })

  test('of people behind one address take those of a person elsewhere who has filled the instance', () => {
    const { open, setState, hub } = createHubWorld({ perInstance: 24, caps: { ...caps, address: 20 } })
    setState('g', 'processing', 1)
    for (let person = 0; hub.size < 24; person += 1) {
      const userId = `greedy-${person}`
      for (let stream = 0; stream < 2 && hub.size < 24; stream += 1) {
        try {
          open('g', { address: `192.0.2.${person}`, userId, sessionId: userId })
        } catch {
          break
        }
      }
    }
    const office = { address: '198.51.100.1' }
    for (let person = 0; person < 3; person += 1) {
      open('g', { ...office, userId: `colleague-${person}`, sessionId: `colleague-${person}` })
    }
    expect(hub.size).toBe(24)
    hub.close()
  })

  test('from one address are not limited with LIMITS=off, and only logged with LIMITS=monitor', () => {
    for (const [mode, expected] of [
      ['off', 0],
      ['monitor', 1],
    ] as const) {
      const lines: string[] = []
      const log = createLog('info', { write: (line: string) => void lines.push(line) })
      const { open, setState, hub } = createHubWorld({ caps: { ...caps, address: 2 }, mode, log })
      setState('g', 'processing', 1)
      for (let stream = 0; stream < 5; stream += 1) open('g', { address: '192.0.2.1' })
      expect(lines.filter((line) => line.includes('generation.streams_limited'))).toHaveLength(expected)
      hub.close()
    }
  })

  test('are all disconnected when the hub closes, and new ones are refused', async () => {
    const { setState, open, hub, time } = createHubWorld()
    setState('g', 'processing', 1)
    const clients = [open('g'), open('g')]
    await time.advance(300)
    hub.close()
    await time.flush()
    expect([clients.map(({ ended }) => ended), hub.size, time.pendingTimers()]).toEqual([[true, true], 0, 0])
    expect(() => open('g')).toThrow(expect.objectContaining({ code: 'server.stopping' }))
  })
})
