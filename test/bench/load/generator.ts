/**
 * `bun test/bench/load/generator.ts PLAN`: sends what the plan says over keep-alive connections, one request under way on
 * each, and prints `begin`, `end` and the result as JSON. A separate process, so that it does not share the event loop
 * of the server that it measures.
 */
import { readFileSync } from 'node:fs'
import type { Plan, PlannedRequest } from './plan.ts'
import { createTally } from './tally.ts'
import { headOf, readAnswer, withBody } from './wire.ts'

/** Connections that are opened at once. */
const openedAtOnce = 256
/** How long answers may take after the measurement. */
const graceMs = 10_000
const pauseMs = 50

const plan = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')) as Plan
const share = plan.share ?? { of: 1, index: 0 }
const tally = createTally(plan.kinds)

type Prepared = {
  readonly request: PlannedRequest
  readonly head: string
  readonly bytes: Buffer
  readonly opening: Buffer
}

const heads = new Map<string, string>()
const prepare = (request: PlannedRequest): Prepared => {
  const token = request.token === undefined ? undefined : plan.tokens[request.token]
  const key = `${request.method} ${request.path} ${request.token}`
  const head = heads.get(key) ?? headOf(request, `${plan.host}:${plan.ports[0]}`, token)
  heads.set(key, head)
  const bytes = withBody(head, request.body)
  return { request, head, bytes, opening: request.toggles ? withBody(head, request.toggles.openingBody) : bytes }
}
/** Beyond this many the bytes are made for each request that is sent, so that they do not fill the memory. */
const maxKept = 150_000
const kept = plan.requests.length <= maxKept ? plan.requests.map(prepare) : undefined
const preparedAt = (index: number): Prepared => kept?.[index] ?? prepare(plan.requests[index] as PlannedRequest)

/** Of each slot: the number of the change whose answer said that it is shut; 0 from when its opening is sent. */
const shutBy: number[] = []
const shutSlots = new Set<number>()
const busySlots = new Set<number>()
let changes = 0
const isOurs = (slot: number) => slot % share.of === share.index
const shutOf = (slot: number | undefined): number => (slot === undefined || !isOurs(slot) ? 0 : (shutBy[slot] ?? 0))

const refreshTokens = new Map<PlannedRequest, string>()
const refreshing = new Set<PlannedRequest>()
let number = 0

/** Walks through a lane again and again, and leaves out what cannot be sent now. */
const createLane = (indices: readonly number[]) => {
  let at = Math.floor((indices.length * share.index) / share.of)
  const next = (): Prepared => {
    at = at + 1 < indices.length ? at + 1 : 0
    return preparedAt(indices[at] as number)
  }
  return {
    next: (): Prepared => {
      for (let tries = 0; tries < 1_000; tries += 1) {
        const found = next()
        const { toggles } = found.request
        if (toggles !== undefined && (busySlots.has(toggles.slot) || !isOurs(toggles.slot))) continue
        if (refreshing.has(found.request)) continue
        return found
      }
      throw new Error('All requests of the lane wait for each other')
    },
  }
}
const lanes = plan.lanes.map(createLane)

const bytesOf = (sent: Prepared): Buffer => {
  const { request } = sent
  if (request.toggles !== undefined) {
    const { slot } = request.toggles
    busySlots.add(slot)
    shutBy[slot] = 0
    return shutSlots.has(slot) ? sent.opening : sent.bytes
  }
  if (request.numbered) {
    number += 1
    return withBody(sent.head, request.body?.replace('{n}', `${process.pid}-${number}`))
  }
  if (request.refreshToken !== undefined) {
    refreshing.add(request)
    return withBody(sent.head, request.body?.replace('{r}', refreshTokens.get(request) ?? request.refreshToken))
  }
  return sent.bytes
}

/** What the answer to a request changes here. */
const settle = ({ request }: Prepared, ok: boolean, body: string): void => {
  if (request.toggles !== undefined) {
    const { slot } = request.toggles
    busySlots.delete(slot)
    if (!ok) return
    if (shutSlots.delete(slot)) return
    changes += 1
    shutSlots.add(slot)
    shutBy[slot] = changes
  } else if (request.refreshToken !== undefined) {
    refreshing.delete(request)
    const [, token] = /"refresh_token":"([^"]+)"/.exec(body) ?? []
    if (ok && token !== undefined) refreshTokens.set(request, token)
  }
}

type Connection = {
  readonly port: number
  readonly lane: ReturnType<typeof createLane>
  socket: Bun.Socket<Connection> | undefined
  sent: Prepared | undefined
  /** From when its latency counts. */
  fromMs: number
  shutWhenSent: number
  received: Buffer | undefined
  unsent: Buffer | undefined
  /** When the requests that wait for this connection were due. */
  readonly due: number[]
  closing: boolean
}

const connections: Connection[] = []
let active = 0
let sending = true
let underWay = 0

const send = (connection: Connection, fromMs: number): void => {
  const next = connection.lane.next()
  // Only a change that is answered by now is held against the answer.
  connection.shutWhenSent = shutOf(next.request.judgedBy)
  connection.sent = next
  connection.fromMs = fromMs
  underWay += 1
  const bytes = bytesOf(next)
  const written = connection.socket?.write(bytes) ?? 0
  if (written < bytes.length) connection.unsent = bytes.subarray(Math.max(0, written))
}

const goOn = (connection: Connection, nowMs: number): void => {
  if (connection.closing) return void connection.socket?.end()
  if (plan.perSecond === undefined) {
    if (sending) send(connection, nowMs)
    return
  }
  const dueMs = connection.due.shift()
  if (dueMs !== undefined) send(connection, dueMs)
}

/** The code of a problem, after a space. */
const codeOf = (body: string): string => {
  const [, code] = /"code":"([^"]+)"/.exec(body) ?? []
  return code === undefined ? '' : ` ${code}`
}

const onAnswer = (connection: Connection, status: number, body: string): void => {
  const { sent } = connection
  if (sent === undefined) {
    tally.fail('an answer without a request')
    return
  }
  const nowMs = performance.now()
  const { request } = sent
  const ok = status === (request.status ?? 200)
  connection.sent = undefined
  underWay -= 1
  const isCheck = body.startsWith('{"allowed":')
  if (ok && isCheck) {
    const hadToBeNo = connection.shutWhenSent !== 0 && shutOf(request.judgedBy) === connection.shutWhenSent
    tally.verdict(body.startsWith('{"allowed":true'), hadToBeNo)
  }
  settle(sent, ok, body)
  tally.answer(
    request.kind,
    nowMs - connection.fromMs,
    ok ? undefined : `${plan.kinds[request.kind]}: ${status}${codeOf(body)}`,
    nowMs,
  )
  goOn(connection, nowMs)
}

const onData = (connection: Connection, chunk: Buffer): void => {
  const bytes = connection.received === undefined ? chunk : Buffer.concat([connection.received, chunk])
  const answer = readAnswer(bytes)
  connection.received = answer === undefined ? bytes : undefined
  if (answer !== undefined) onAnswer(connection, answer.status, answer.body)
}

const lose = (connection: Connection, why: string): void => {
  connection.socket = undefined
  if (connection.sent !== undefined) {
    underWay -= 1
    settle(connection.sent, false, '')
    connection.sent = undefined
    tally.fail(why)
  }
  if (!connection.closing && sending) void open(connection)
}

const handlers: Bun.SocketHandler<Connection> = {
  data: ({ data: connection }, chunk) => onData(connection, chunk),
  drain: (socket) => {
    const { unsent } = socket.data
    if (unsent === undefined) return
    const written = socket.write(unsent)
    socket.data.unsent = written < unsent.length ? unsent.subarray(Math.max(0, written)) : undefined
  },
  close: ({ data: connection }) => lose(connection, 'connection closed'),
  error: ({ data: connection }) => lose(connection, 'connection failed'),
}

const open = async (connection: Connection): Promise<void> => {
  while (sending && !connection.closing) {
    try {
      connection.socket = await Bun.connect({
        hostname: plan.host,
        port: connection.port,
        data: connection,
        socket: handlers,
      })
      connection.received = undefined
      connection.unsent = undefined
      goOn(connection, performance.now())
      return
    } catch {
      tally.fail('connection refused')
      await Bun.sleep(pauseMs)
    }
  }
}

const setActive = async (count: number): Promise<void> => {
  active = count
  for (const connection of connections.splice(count)) {
    connection.closing = true
    if (connection.sent === undefined) connection.socket?.end()
  }
  while (connections.length < count && active === count) {
    const opened: Promise<void>[] = []
    for (let left = Math.min(openedAtOnce, count - connections.length); left > 0; left -= 1) {
      const port = plan.ports[connections.length % plan.ports.length] as number
      const lane = lanes[(connections.length * share.of + share.index) % lanes.length] as ReturnType<typeof createLane>
      const state = { socket: undefined, sent: undefined, fromMs: 0, shutWhenSent: 0, received: undefined }
      const connection: Connection = { ...state, port, lane, unsent: undefined, due: [], closing: false }
      connections.push(connection)
      opened.push(open(connection))
    }
    await Promise.all(opened)
  }
}

/** Starts requests when they are due, on the connections in turn. */
const keepRate = async (perSecond: number): Promise<void> => {
  const startedMs = performance.now()
  let started = 0
  while (sending) {
    const nowMs = performance.now()
    const due = Math.floor(((nowMs - startedMs) * perSecond) / 1_000)
    for (; started < due; started += 1) {
      const connection = connections[started % connections.length]
      const dueMs = startedMs + (started * 1_000) / perSecond
      if (connection === undefined) continue
      if (connection.sent === undefined && connection.socket !== undefined && connection.due.length === 0) {
        send(connection, dueMs)
      } else {
        connection.due.push(dueMs)
      }
    }
    await Bun.sleep(1)
  }
}

const run = async (): Promise<void> => {
  const [first] = plan.phases
  if (first === undefined) throw new Error('The plan has no phase')
  await setActive(first.connections)
  const rate = plan.perSecond === undefined ? undefined : keepRate(plan.perSecond / share.of)
  await Bun.sleep(plan.warmUpSeconds * 1_000)
  tally.begin(performance.now())
  console.log('begin')
  for (const [index, { connections: count, seconds }] of plan.phases.entries()) {
    const untilMs = performance.now() + seconds * 1_000
    if (index > 0) void setActive(count)
    await Bun.sleep(untilMs - performance.now())
  }
  sending = false
  tally.end(performance.now())
  console.log('end')
  await rate
  const lateMs = performance.now() + graceMs
  const waiting = () => connections.reduce((total, { due }) => total + due.length, underWay)
  while (waiting() > 0 && performance.now() < lateMs) await Bun.sleep(5)
  for (let left = waiting(); left > 0; left -= 1) tally.fail(`no answer within ${graceMs / 1_000} s`)
  console.log(JSON.stringify(tally.result()))
  process.exit(0)
}

void run()
