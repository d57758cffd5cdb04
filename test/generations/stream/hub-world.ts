import type { StreamPermission } from '../../../src/access/permission-recheck.ts'
import type { Generation } from '../../../src/generations/model.ts'
import type { GenerationState } from '../../../src/generations/store.ts'
import { createHub, type HubDependencies } from '../../../src/generations/stream/hub.ts'
import type { SentState } from '../../../src/generations/stream/state.ts'
import { manualClock } from '../../../src/kit/clock.ts'
import { createLog } from '../../../src/platform/log.ts'

/** A manual clock with its timers. */
const createTime = () => {
  const clock = manualClock()
  let timers: { atMs: number; everyMs: number | undefined; callback: () => void }[] = []
  const add = (ms: number, callback: () => void, everyMs?: number) => {
    const timer = { atMs: clock.monotonic() + ms, everyMs, callback }
    timers.push(timer)
    return () => {
      timers = timers.filter((other) => other !== timer)
    }
  }
  /** Runs all pending microtasks. */
  const flush = async () => {
    for (let round = 0; round < 50; round += 1) await Promise.resolve()
  }
  return {
    clock,
    flush,
    after: (ms: number, callback: () => void) => add(ms, callback),
    every: (ms: number, callback: () => void) => add(ms, callback, ms),
    pendingTimers: () => timers.length,
    /** Advances in steps of 1 ms, and runs the timers that are due in each. */
    advance: async (ms: number) => {
      await flush()
      for (let passed = 0; passed < ms; passed += 1) {
        clock.advance(1)
        for (const timer of timers.filter(({ atMs }) => atMs <= clock.monotonic())) {
          if (timer.everyMs === undefined) timers = timers.filter((other) => other !== timer)
          else timer.atMs += timer.everyMs
          timer.callback()
          await flush()
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

/** A hub over in-memory fakes of the stores and of the permission re-check, which count their calls. */
export const createHubWorld = (overrides: Partial<HubDependencies> = {}) => {
  const time = createTime()
  const stored = new Map<string, GenerationState>()
  const queue: string[] = []
  const calls = { states: [] as (readonly string[])[], positions: 0, finalStates: 0, peeks: 0, gathers: [] as number[] }
  /** Decisions of `peek`, by generation; undefined: not in memory. Allowed unless set. */
  const inMemory = new Map<string, boolean | undefined>()
  /** Decisions of `gather`, by generation. Allowed unless set. */
  const inDatabase = new Map<string, boolean>()
  const failing = { states: false, finalStates: false, permissions: false }
  const hub = createHub({
    findStates: async (_, ids) => {
      calls.states.push(ids)
      if (failing.states) throw new Error('The states cannot be read')
      return new Map(ids.flatMap((id) => (stored.has(id) ? [[id, stored.get(id) as GenerationState] as const] : [])))
    },
    findPositions: async (_, ids) => {
      calls.positions += 1
      return new Map(ids.filter((id) => queue.includes(id)).map((id) => [id, queue.indexOf(id)]))
    },
    findEach: async (_, queries) => {
      calls.finalStates += 1
      if (failing.finalStates) throw new Error('The generations cannot be read')
      return queries.map(({ id, userId }) => {
        const state = stored.get(id)
        return state && ({ id, owner_id: userId, status: state.status } as Generation)
      })
    },
    permissions: {
      peek: ({ ref, expiresAtMs }) => {
        calls.peeks += 1
        if (expiresAtMs <= time.clock.now()) return false
        return inMemory.has(ref.id) ? inMemory.get(ref.id) : true
      },
      gather: async (permissions) => {
        calls.gathers.push(permissions.length)
        await Promise.resolve()
        if (failing.permissions) throw new Error('The permissions cannot be read')
        return permissions.map(({ ref }) => inDatabase.get(ref.id) ?? true)
      },
    },
    clock: time.clock,
    log: createLog('silent'),
    random: () => 0,
    after: time.after,
    every: time.every,
    ...overrides,
  })

  const permissionFor = (id: string, overridden: Partial<StreamPermission> = {}): StreamPermission => ({
    userId: 'ada',
    sessionId: 'hers',
    expiresAtMs: time.clock.now() + 900_000,
    action: 'read',
    ref: { type: 'generation', id },
    ...overridden,
  })
  /** Opens a stream as a client that reads continuously until `stopReading`. */
  const open = (
    id: string,
    { address, ...overridden }: Partial<StreamPermission> & { address?: string } = {},
    sent?: SentState,
  ) => {
    const reader = hub.open(id, { permission: permissionFor(id, overridden), address }, sent).getReader()
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
      eventTexts: () => parse(client.text).map(({ event, data }) => `${event} ${JSON.stringify(data)}`),
      /** Takes effect after the read under way. */
      stopReading: () => {
        client.reading = false
      },
      resumeReading: () => {
        client.reading = true
        void read()
      },
      disconnect: () => reader.cancel(),
    }
  }
  const setState = (id: string, status: GenerationState['status'], attempt = 0, progress = 0) =>
    stored.set(id, { status, attempt, progress })
  return { time, stored, queue, calls, inMemory, inDatabase, failing, hub, open, setState }
}
