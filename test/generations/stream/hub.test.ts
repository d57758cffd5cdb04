import { describe, expect, test } from 'bun:test'
import { dispatch } from '../../../src/access/invalidation/topics.ts'
import type { FactKey } from '../../../src/access/policy/facts/model.ts'
import { maxPerSession } from '../../../src/generations/stream/hub.ts'
import { createWorld } from './hub-world.ts'

const touching = (id: string): FactKey[] => [`generation:${id}`]

describe('a stream', () => {
  test('tells how one generation goes, from waiting to done, and then ends', async () => {
    const { time, queue, put, hub, open } = createWorld()
    queue.push('other', 'g')
    put('g', 'queued')
    const client = open('g')
    await time.pass(300)
    expect(client.text).toStartWith('retry: 1000\n\n')
    expect(client.kinds()).toEqual(['status {"status":"queued","attempt":0}', 'position {"position":1}'])
    queue.shift()
    hub.onQueueMoved()
    await time.pass(1_250)
    expect(client.kinds().at(-1)).toBe('position {"position":0}')
    put('g', 'processing', 1)
    hub.onInvalidated(touching('g'))
    await time.pass(30)
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.4 })
    await time.pass(30)
    put('g', 'completed')
    hub.onInvalidated(touching('g'))
    await time.pass(30)
    expect(client.kinds().slice(3)).toEqual([
      'status {"status":"processing","attempt":1}',
      'progress {"progress":0}',
      'progress {"progress":0.4}',
      'done {"id":"g","owner_id":"ada","status":"completed"}',
    ])
    expect(client.events().at(-1)?.id).toBe('completed')
    expect([client.ended, hub.size, time.pending()]).toEqual([true, 0, 0])
  })

  test.each(['failed', 'cancelled'] as const)('that ends as %s says so', async (status) => {
    const { time, put, hub, open } = createWorld()
    put('g', 'processing', 1)
    const client = open('g')
    await time.pass(300)
    put('g', status)
    hub.onInvalidated(touching('g'))
    await time.pass(30)
    expect([client.events().at(-1)?.data, client.ended]).toEqual([{ id: 'g', owner_id: 'ada', status }, true])
  })

  test('of one that is deleted ends without another word', async () => {
    const { time, stored, put, hub, open } = createWorld()
    put('g', 'processing', 1)
    const client = open('g')
    await time.pass(300)
    const { text } = client
    stored.delete('g')
    hub.onInvalidated(touching('g'))
    await time.pass(30)
    expect([client.text, client.ended, hub.size]).toEqual([text, true, 0])
  })

  test('goes on from what the client was told', async () => {
    const { time, put, open } = createWorld()
    put('g', 'processing', 1, 0.5)
    const told = { status: 'processing', attempt: 1, progress: 500, position: null } as const
    const [knows, lags] = [open('g', {}, told), open('g', {}, { ...told, progress: 200 })]
    await time.pass(300)
    expect([knows.kinds(), lags.kinds()]).toEqual([[], ['progress {"progress":0.5}']])
  })

  test('shows every 15 seconds that it is there, and not when it said something anyway', async () => {
    const { time, put, hub, open } = createWorld()
    put('g', 'processing', 1)
    const client = open('g')
    await time.pass(10_000)
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.5 })
    await time.pass(14_000)
    expect(client.text).not.toContain(':\n\n')
    await time.pass(1_300)
    expect(client.text).toEndWith('\n\n:\n\n')
    await time.pass(45_000)
    expect(client.text.split(':\n\n')).toHaveLength(5)
  })
})

describe('progress', () => {
  test('does not go back within an attempt, whatever comes late, and begins anew with the next', async () => {
    const { time, put, hub, open } = createWorld()
    put('g', 'processing', 2, 0.3)
    const client = open('g')
    await time.pass(300)
    for (const [attempt, fraction] of [
      ['2', '0.5'],
      ['2', '0.4'],
      ['1', '0.9'],
      ['2', '0.6'],
    ]) {
      dispatch({ progress: hub.onProgress }, `progress g ${attempt ?? ''} ${fraction ?? ''}`)
      await time.pass(5)
    }
    // What is stored is older than what was heard.
    await time.pass(3_000)
    put('g', 'processing', 3, 0)
    hub.onProgress({ generationId: 'g', attempt: 3, fraction: 0.1 })
    await time.pass(30)
    expect(client.kinds()).toEqual([
      'status {"status":"processing","attempt":2}',
      'progress {"progress":0.3}',
      'progress {"progress":0.5}',
      'progress {"progress":0.6}',
      'status {"status":"processing","attempt":3}',
      'progress {"progress":0.1}',
    ])
  })

  test('of an attempt that is over is passed over, were it the first that is heard', async () => {
    const { time, put, hub, open } = createWorld()
    put('g', 'processing', 2, 0.3)
    const client = open('g')
    await time.pass(300)
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.9 })
    await time.pass(3_000)
    expect(client.kinds().at(-1)).toBe('progress {"progress":0.3}')
  })

  test('that makes no sense is passed over', async () => {
    const { time, put, hub, open } = createWorld()
    put('g', 'processing', 1)
    const client = open('g')
    await time.pass(300)
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
    await time.pass(30)
    expect(client.text).toBe(before)
  })
})

describe('what is read', () => {
  test('is read for all that are watched in one statement, and once for many who watch one', async () => {
    const { time, put, open, asked } = createWorld({ perPerson: 300 })
    for (let number = 0; number < 100; number += 1) {
      put(`g${number}`, 'processing', 1)
      for (let copy = 0; copy < 3; copy += 1) open(`g${number}`, { sessionId: `${number} ${copy}` })
    }
    await time.pass(200)
    expect(asked.states.map((ids) => ids.length)).toEqual([100])
    await time.pass(10_000)
    // All of them every two and a half seconds, whatever is heard.
    expect(asked.states.length).toBeGreaterThanOrEqual(4)
    expect(asked.states.length).toBeLessThanOrEqual(6)
  })

  test('makes good every message that was missed within three seconds', async () => {
    const { time, queue, put, open } = createWorld()
    queue.push('other', 'g')
    put('g', 'queued')
    const client = open('g')
    await time.pass(1_500)
    queue.shift()
    await time.pass(3_000)
    expect(client.kinds().at(-1)).toBe('position {"position":0}')
    put('g', 'processing', 1, 0.5)
    await time.pass(3_000)
    expect(client.kinds().at(-1)).toBe('progress {"progress":0.5}')
    put('g', 'completed')
    await time.pass(3_000)
    expect(client.ended).toBe(true)
  })

  test('and cannot be, is read when it can be again', async () => {
    const { time, put, open, broken, asked } = createWorld()
    broken.states = true
    broken.whole = true
    put('g', 'completed')
    const client = open('g')
    await time.pass(6_000)
    broken.states = false
    await time.pass(3_000)
    expect([client.events(), asked.whole > 0]).toEqual([[], true])
    broken.whole = false
    await time.pass(300)
    expect(client.events().map(({ event }) => event)).toEqual(['done'])
  })

  test('of the queue is read when any generation changes, for it may have left', async () => {
    const { time, queue, put, hub, open } = createWorld()
    queue.push('other', 'g')
    put('g', 'queued')
    const client = open('g')
    // Just after all was read.
    await time.pass(2_800)
    queue.shift()
    hub.onInvalidated(touching('other'))
    await time.pass(1_100)
    expect(client.kinds().at(-1)).toBe('position {"position":0}')
  })

  test('of the queue is read once a second at the most, however it moves, and not when nobody waits', async () => {
    const { time, queue, put, hub, open, asked } = createWorld()
    put('busy', 'processing', 1)
    open('busy', { sessionId: 'other' })
    hub.onQueueMoved()
    await time.pass(5_000)
    expect(asked.positions).toBe(0)
    queue.push('g')
    put('g', 'queued')
    open('g')
    for (let ms = 0; ms < 10_000; ms += 10) {
      hub.onQueueMoved()
      hub.onInvalidated(touching('somebody else’s'))
      await time.pass(10)
    }
    expect(asked.positions).toBeGreaterThanOrEqual(7)
    expect(asked.positions).toBeLessThanOrEqual(11)
  })
})

describe('the right to read', () => {
  const begin = async () => {
    const world = createWorld()
    world.put('g', 'processing', 1)
    const client = world.open('g')
    await world.time.pass(300)
    return { ...world, client, before: client.text }
  }

  test('that is lost ends the stream before anything else is sent', async () => {
    const { client, before, memory, hub, time } = await begin()
    memory.set('g', false)
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.7 })
    await time.pass(1)
    expect([client.text, client.ended, hub.size]).toEqual([before, true, 0])
  })

  test('is looked at by itself, several times a second', async () => {
    const { client, before, memory, time } = await begin()
    memory.set('g', false)
    await time.pass(260)
    expect([client.text, client.ended]).toEqual([before, true])
  })

  test.each([
    ['session:hers'],
    ['account:ada'],
    ['generation:g'],
    ['grant:ada/some-project'],
    ['grants:ada'],
  ] as FactKey[][])('is looked at when %s was changed, at once', async (key) => {
    const { client, memory, hub, time } = await begin()
    memory.set('g', false)
    hub.onInvalidated(['account:nobody', key as FactKey])
    await time.settled()
    expect(client.ended).toBe(true)
  })

  test('is looked at when any project was changed, for all together, and when anything may have been', async () => {
    for (const touched of [['project:p', 'project:q'] as FactKey[], 'everything' as const]) {
      const { client, memory, hub, time, asked } = await begin()
      memory.set('g', false)
      const { peeks } = asked
      hub.onInvalidated(touched)
      await time.pass(60)
      expect([client.ended, asked.peeks - peeks]).toEqual([true, 1])
    }
  })

  test('that memory does not tell is asked about in one statement for all, and nothing is sent until it is answered', async () => {
    const { client, before, memory, truth, hub, time, asked, put, open } = await begin()
    put('h', 'processing', 1)
    const other = open('h', { sessionId: 'another' })
    await time.pass(100)
    memory.set('g', undefined).set('h', undefined)
    truth.set('g', false)
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.7 })
    expect(client.text).toBe(before)
    await time.pass(1)
    expect([client.text, client.ended, other.ended]).toEqual([before, true, false])
    asked.gathers.length = 0
    hub.onInvalidated('everything')
    await time.pass(1)
    expect(asked.gathers).toEqual([1])
  })

  test('that cannot be known is none', async () => {
    const { client, before, memory, broken, hub, time } = await begin()
    memory.set('g', undefined)
    broken.rights = true
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.7 })
    await time.pass(1)
    expect([client.text, client.ended]).toEqual([before, true])
  })

  test('ends with the access token', async () => {
    const { client, time } = await begin()
    await time.pass(899_000)
    expect(client.ended).toBe(false)
    await time.pass(1_000)
    expect(client.ended).toBe(true)
  })

  test('of thousands costs a look into memory each, and no statement', async () => {
    const { put, open, time, asked } = createWorld({ perPerson: 1_000 })
    put('g', 'processing', 1)
    for (let number = 0; number < 1_000; number += 1) open('g', { sessionId: `s${number}` })
    await time.pass(300)
    const { peeks } = asked
    await time.pass(1_000)
    expect(asked.peeks - peeks).toBe(4_000)
    expect(asked.gathers).toEqual([])
  })
})

describe('clients', () => {
  test('that go are forgotten at once, and with the last of them everything stops', async () => {
    const { put, open, hub, time, asked } = createWorld()
    put('g', 'processing', 1)
    const clients = [open('g'), open('g'), open('g')]
    await time.pass(300)
    for (const [index, client] of clients.entries()) {
      await client.leave()
      expect(hub.size).toBe(2 - index)
    }
    const reads = asked.states.length
    await time.pass(10_000)
    expect([time.pending(), asked.states.length]).toEqual([0, reads])
  })

  test('that stay are told on when another goes', async () => {
    const { put, open, hub, time } = createWorld()
    put('g', 'processing', 1)
    const [stays, goes] = [open('g'), open('g')]
    await time.pass(300)
    await goes.leave()
    hub.onProgress({ generationId: 'g', attempt: 1, fraction: 0.5 })
    await time.pass(5)
    expect(stays.kinds().at(-1)).toBe('progress {"progress":0.5}')
  })

  test('that are slow get the newest when they are ready, and not what came and went', async () => {
    const { put, open, hub, time } = createWorld()
    put('g', 'processing', 1)
    const client = open('g')
    await time.pass(300)
    client.stopReading()
    for (let percent = 1; percent <= 90; percent += 1) {
      hub.onProgress({ generationId: 'g', attempt: 1, fraction: percent / 100 })
      await time.pass(10)
    }
    client.goOn()
    await time.settled()
    const heard = client.kinds().filter((kind) => kind.startsWith('progress'))
    expect(heard).toEqual(['progress {"progress":0}', 'progress {"progress":0.01}', 'progress {"progress":0.9}'])
    client.stopReading()
    put('g', 'completed')
    hub.onInvalidated(touching('g'))
    await time.pass(5_000)
    client.goOn()
    await time.settled()
    expect([client.kinds().at(-1), client.ended]).toEqual([
      'done {"id":"g","owner_id":"ada","status":"completed"}',
      true,
    ])
  })

  test('that take nothing for a minute are let go', async () => {
    const { put, open, hub, time } = createWorld()
    put('g', 'processing', 1)
    const client = open('g')
    await time.pass(300)
    client.stopReading()
    await time.pass(60_000)
    expect(hub.size).toBe(1)
    await time.pass(16_000)
    expect(hub.size).toBe(0)
  })

  test('have so many streams a session, and all together so many, and room again when one ends', async () => {
    const { put, open, hub, time } = createWorld({ perInstance: maxPerSession + 2 })
    put('g', 'processing', 1)
    const clients = Array.from({ length: maxPerSession }, () => open('g'))
    expect(() => open('g')).toThrow(expect.objectContaining({ code: 'generation.too_many_streams' }))
    open('g', { sessionId: 'two' })
    open('g', { sessionId: 'three' })
    expect(() => open('g', { sessionId: 'four' })).toThrow(expect.objectContaining({ code: 'generation.streams_full' }))
    await clients[0]?.leave()
    open('g')
    expect(hub.size).toBe(maxPerSession + 2)
    await time.pass(300)
  })

  test('have so many a person, in however many sessions', async () => {
    const { open, put, hub } = createWorld({ perPerson: 3 })
    put('g', 'processing', 1)
    for (const sessionId of ['one', 'two', 'three']) open('g', { sessionId })
    expect(() => open('g', { sessionId: 'four' })).toThrow(
      expect.objectContaining({ code: 'generation.too_many_streams' }),
    )
    open('g', { userId: 'bob', sessionId: 'his' })
    expect(hub.size).toBe(4)
    hub.close()
  })

  test('are all let go when the instance ends, and none is let in after', async () => {
    const { put, open, hub, time } = createWorld()
    put('g', 'processing', 1)
    const clients = [open('g'), open('g')]
    await time.pass(300)
    hub.close()
    await time.settled()
    expect([clients.map(({ ended }) => ended), hub.size, time.pending()]).toEqual([[true, true], 0, 0])
    expect(() => open('g')).toThrow(expect.objectContaining({ code: 'server.stopping' }))
  })
})
