import type { RecheckedPermission } from '../../../src/access/permission-recheck.ts'
import type { Generation } from '../../../src/generations/model.ts'
import type { GenerationState } from '../../../src/generations/store.ts'
import { createHub, type HubDependencies } from '../../../src/generations/stream/hub.ts'
import type { State } from '../../../src/generations/stream/state.ts'
import { manualClock } from '../../../src/kit/clock.ts'
import { createLog } from '../../../src/platform/log.ts'

/** Time that moves when told to, and what is to happen in it. */
const createTime = () => {
  const clock = manualClock()
  let due: { atMs: number; everyMs: number | undefined; call: () => void }[] = []
  const add = (ms: number, call: () => void, everyMs?: number) => {
    const one = { atMs: clock.monotonic() + ms, everyMs, call }
    due.push(one)
    return () => {
      due = due.filter((other) => other !== one)
    }
  }
  /** All that was promised by now is kept. */
  const settled = async () => {
    for (let round = 0; round < 50; round += 1) await Promise.resolve()
  }
  return {
    clock,
    settled,
    after: (ms: number, call: () => void) => add(ms, call),
    every: (ms: number, call: () => void) => add(ms, call, ms),
    pending: () => due.length,
    /** Millisecond by millisecond. */
    pass: async (ms: number) => {
      await settled()
      for (let passed = 0; passed < ms; passed += 1) {
        clock.advance(1)
        for (const one of due.filter(({ atMs }) => atMs <= clock.monotonic())) {
          if (one.everyMs === undefined) due = due.filter((other) => other !== one)
          else one.atMs += one.everyMs
          one.call()
          await settled()
        }
      }
    },
  }
}

export type Event = { event: string; id: string; data: unknown }

const parse = (text: string): Event[] =>
  [...text.matchAll(/event: (\w+)\nid: (\S+)\ndata: (.*)\n\n/g)].map(([, event = '', id = '', data = '']) => ({
    event,
    id,
    data: JSON.parse(data),
  }))

/** A hub over a world of plain maps: what is stored, who may read, and how often it was asked. */
export const createWorld = (overrides: Partial<HubDependencies> = {}) => {
  const time = createTime()
  const stored = new Map<string, GenerationState>()
  const queue: string[] = []
  const asked = { states: [] as (readonly string[])[], positions: 0, whole: 0, peeks: 0, gathers: [] as number[] }
  /** What memory says of the right to each generation; undefined: it does not tell. */
  const memory = new Map<string, boolean | undefined>()
  const truth = new Map<string, boolean>()
  const broken = { states: false, whole: false, rights: false }
  const hub = createHub({
    findStates: async (_, ids) => {
      asked.states.push(ids)
      if (broken.states) throw new Error('No states')
      return new Map(ids.flatMap((id) => (stored.has(id) ? [[id, stored.get(id) as GenerationState] as const] : [])))
    },
    findPositions: async (_, ids) => {
      asked.positions += 1
      return new Map(ids.filter((id) => queue.includes(id)).map((id) => [id, queue.indexOf(id)]))
    },
    findEach: async (_, wanted) => {
      asked.whole += 1
      if (broken.whole) throw new Error('Nothing whole')
      return wanted.map(({ id, userId }) => {
        const state = stored.get(id)
        return state && ({ id, owner_id: userId, status: state.status } as Generation)
      })
    },
    rights: {
      peek: ({ ref, expiresAtMs }) => {
        asked.peeks += 1
        if (expiresAtMs <= time.clock.now()) return false
        return memory.has(ref.id) ? memory.get(ref.id) : true
      },
      gather: async (rights) => {
        asked.gathers.push(rights.length)
        await Promise.resolve()
        if (broken.rights) throw new Error('No rights')
        return rights.map(({ ref }) => truth.get(ref.id) ?? true)
      },
    },
    clock: time.clock,
    log: createLog('silent'),
    random: () => 0,
    after: time.after,
    every: time.every,
    ...overrides,
  })

  const rightTo = (id: string, given: Partial<RecheckedPermission> = {}): RecheckedPermission => ({
    userId: 'ada',
    sessionId: 'hers',
    expiresAtMs: time.clock.now() + 900_000,
    action: 'read',
    ref: { type: 'generation', id },
    ...given,
  })
  /** A client that reads on its own, unless it is told to wait. */
  const open = (id: string, given: Partial<RecheckedPermission> = {}, told?: State) => {
    const reader = hub.open(id, rightTo(id, given), told).getReader()
    const client = { text: '', ended: false, reading: true }
    const read = async () => {
      while (client.reading) {
        const { done, value } = await reader.read()
        if (done) {
          client.ended = true
          return
        }
        client.text += new TextDecoder().decode(value)
      }
    }
    void read()
    return {
      get ended() {
        return client.ended
      },
      get text() {
        return client.text
      },
      events: () => parse(client.text),
      kinds: () => parse(client.text).map(({ event, data }) => `${event} ${JSON.stringify(data)}`),
      /** After what it is waiting for. */
      stopReading: () => {
        client.reading = false
      },
      goOn: () => {
        client.reading = true
        void read()
      },
      leave: () => reader.cancel(),
    }
  }
  const put = (id: string, status: GenerationState['status'], attempt = 0, progress = 0) =>
    stored.set(id, { status, attempt, progress })
  return { time, stored, queue, asked, memory, truth, broken, hub, open, put }
}
