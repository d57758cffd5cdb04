import type { AnomalyMode } from '../config.ts'
import type { OpenIncident } from '../incidents/report.ts'
import { isPrivateAddress } from '../kit/client-address.ts'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../platform/log.ts'
import { startThread, type Thread } from '../platform/thread.ts'
import type { Delta, PrincipalKind } from './delta.ts'
import type { AnomalyExchange } from './exchange.ts'
import { toReport } from './incidents.ts'
import { writtenTo } from './ring.ts'
import { type Reason, reasons } from './rules.ts'
import type { Signals } from './signals.ts'
import type { Standing } from './store.ts'
import { createVerdicts, factors, type Verdict } from './verdicts.ts'
import type { FromWorker, NamedFinding, ToWorker } from './worker-messages.ts'

/** Interval at which the thread reads the ring and instances exchange deltas. */
export const tickMs = 2_000
/** A thread that is silent for so long is replaced. */
const silentMs = 30_000

/** Verdicts of other instances about principals that are not seen here. */
const maxUnnamed = 1_000

type Dependencies = {
  readonly mode: AnomalyMode
  readonly signals: Signals
  /** Undefined: each instance has its own deltas alone. */
  readonly exchange: AnomalyExchange | undefined
  /** Pairs of countries that are near each other. */
  readonly near: readonly (readonly [number, number])[]
  /** Who else is at an address. */
  readonly findStanding: (address: string) => Promise<Standing>
  readonly openIncident: OpenIncident
  readonly clock: Clock
  readonly log: Log
  readonly workerUrl?: URL
}

/** Accounts with live sessions from which on an address counts as shared: an office, a household, a mobile network. */
const sharedBy = 2
/** No block is shorter. */
const shortestBlockS = 60
/** Addresses that are blocked in one transaction; those that wait for it. */
const blockedAtOnce = 20
const maxWaiting = 1_000

/** An address that is to be blocked. */
export type AddressToBlock = { readonly address: string; readonly reason: Reason; readonly lastsS: number }
export type BlockAddresses = (addresses: readonly AddressToBlock[]) => Promise<void>

/** Blocks addresses, a few at a time. What cannot be blocked keeps its factor. */
const createBlocking = ({ clock, log }: Pick<Dependencies, 'clock' | 'log'>) => {
  let block: BlockAddresses | undefined
  let waiting: AddressToBlock[] = []
  let isRunning = false
  const run = async () => {
    if (block === undefined || isRunning) return
    isRunning = true
    while (waiting.length > 0) {
      const addresses = waiting.splice(0, blockedAtOnce)
      await block(addresses).catch((error) =>
        log.warn({ event: 'anomaly.not_blocked', addresses: addresses.length, error }, 'addresses were not blocked'),
      )
    }
    isRunning = false
  }
  return {
    use: (given: BlockAddresses): void => {
      block = given
    },
    add: ({ reason, untilMs }: Verdict, address: string): void => {
      if (waiting.length >= maxWaiting) return
      const lastsS = Math.max(shortestBlockS, Math.ceil((untilMs - clock.now()) / 1_000))
      waiting.push({ address, reason, lastsS })
      void run()
    },
    close: (): void => {
      waiting = []
    },
  }
}
type Blocking = ReturnType<typeof createBlocking>

/** The verdicts on principals, by their ids. */
const createHeldVerdicts = (
  { mode, signals, findStanding, openIncident, clock, log }: Omit<Dependencies, 'exchange' | 'near' | 'workerUrl'>,
  blocking: Blocking,
) => {
  const verdicts = createVerdicts(clock)
  /** Verdicts by the id of the principal, for requests. */
  const named: Readonly<Record<PrincipalKind, Map<string, Verdict>>> = {
    user: new Map(),
    key: new Map(),
    address: new Map(),
  }
  const ids = new Map<number, string>()
  /** Verdicts on principals whose id no request here has shown yet. */
  const unnamed = new Map<number, Verdict>()
  const counts = Object.fromEntries(reasons.map((reason) => [reason, 0])) as Record<Reason, number>
  const announce = (verdict: Verdict, id: string) => {
    const { kind, reason, level, untilMs } = verdict
    counts[reason] += 1
    const fields = { event: 'anomaly.found', kind, id, reason, factor: factors[level], mode }
    log.warn({ ...fields, expires_at: new Date(untilMs).toISOString() }, 'a principal behaves unlike others')
    openIncident(toReport(verdict, id, mode))
  }

  const hold = (verdict: Verdict, id: string) => {
    named[verdict.kind].set(id, verdict)
    ids.set(verdict.principal, id)
    announce(verdict, id)
  }

  /** Whether an address must not be blocked: an office, that of an operator, a proxy in front of this service. */
  const isProtected = async (address: string): Promise<boolean> => {
    if (isPrivateAddress(address.replace(/\/64$/, ''))) return true
    const { accounts, operator } = await findStanding(address)
    return operator || accounts >= sharedBy
  }
  /** One address at a time is looked up: what cannot be looked up now is taken for protected. */
  let isLooking = false
  const holdAddress = async (verdict: Verdict, id: string) => {
    const mild: Verdict = { ...verdict, level: 2 }
    if (verdict.level < 3) return hold(verdict, id)
    if (isLooking) return hold(mild, id)
    isLooking = true
    const mayBlock = !(await isProtected(id).catch(() => true))
    isLooking = false
    hold(mayBlock ? verdict : mild, id)
    if (mayBlock && mode === 'enforce') blocking.add(verdict, id)
  }

  const nameVerdict = (verdict: Verdict, id: string) => {
    if (verdict.kind === 'address') void holdAddress(verdict, id)
    else hold(verdict, id)
  }

  const onWritten = (_kind: PrincipalKind, principal: number, id: string) => {
    const verdict = unnamed.get(principal)
    if (verdict === undefined) return
    unnamed.delete(principal)
    if (unnamed.size === 0) signals.watch(undefined)
    nameVerdict(verdict, id)
  }

  const judgeFinding = (finding: NamedFinding) => {
    const verdict = verdicts.add(finding)
    if (verdict === undefined) {
      const current = verdicts.find(finding.principal)
      if (current !== undefined) extend(current)
      return
    }
    const id = finding.seen === undefined ? undefined : signals.nameOf(finding.seen, finding.principal)
    if (id !== undefined) return nameVerdict(verdict, id)
    unnamed.set(finding.principal, verdict)
    if (unnamed.size > maxUnnamed) unnamed.delete(unnamed.keys().next().value ?? 0)
    signals.watch(onWritten)
  }

  /** A finding under a verdict of the same level only makes it last. */
  const extend = ({ kind, principal, untilMs }: Verdict) => {
    const id = ids.get(principal)
    const held = id === undefined ? undefined : named[kind].get(id)
    if (id !== undefined && held !== undefined) named[kind].set(id, { ...held, untilMs })
  }

  const dropExpired = () => {
    const nowMs = clock.now()
    for (const held of Object.values(named)) {
      for (const [id, { principal, untilMs }] of held) {
        if (untilMs > nowMs) continue
        held.delete(id)
        ids.delete(principal)
      }
    }
    for (const [principal, { untilMs }] of unnamed) if (untilMs <= nowMs) unnamed.delete(principal)
  }

  const find = (kind: PrincipalKind, id: string): Verdict | undefined => {
    const held = named[kind]
    if (held.size === 0) return undefined
    const verdict = held.get(id)
    return verdict !== undefined && verdict.untilMs > clock.now() ? verdict : undefined
  }

  return {
    counts,
    add: judgeFinding,
    dropExpired,
    /** The verdict on a principal, in any mode. */
    find,
    /** The factor on the limits of a principal: 1 where there is no verdict, or nothing is enforced. */
    factorOf: (kind: PrincipalKind, id: string): number => {
      const verdict = mode === 'enforce' ? find(kind, id) : undefined
      return verdict === undefined ? 1 : factors[verdict.level]
    },
    /** In how long the verdict on a principal expires. */
    expiresInMs: (kind: PrincipalKind, id: string): number => Math.max(0, (find(kind, id)?.untilMs ?? 0) - clock.now()),
    /** An operator lifts the verdict on the principal. */
    lift: (id: string): void => {
      verdicts.lift(signals.principalOf(id))
      for (const held of Object.values(named)) held.delete(id)
    },
    active: (): number => Object.values(named).reduce((sum, held) => sum + held.size, 0),
  }
}

/**
 * Detects anomalies in a separate thread, and keeps the verdicts: a factor on the limits of a principal, with reason and expiry,
 * and an incident. An address that behaves far unlike others is also blocked, see `onBlock`.
 *
 * Guarantee: no request waits for it. `monitor` opens incidents, changes no limit and blocks nothing. A factor on an address never
 * concerns sessions and known devices there. Never blocked are an address from which several accounts are signed in, one of an
 * operator, and one of a private network. Degrades: while the
 * thread is away there are no new verdicts, the others expire, and the thread starts anew with an empty memory.
 */
export const createAnomalies = ({
  mode,
  signals,
  exchange,
  near,
  findStanding,
  openIncident,
  clock,
  log,
  workerUrl = new URL('./worker.ts', import.meta.url),
}: Dependencies) => {
  const blocking = createBlocking({ clock, log })
  const held = createHeldVerdicts({ mode, signals, findStanding, openIncident, clock, log }, blocking)
  const counts = { lost: 0, principals: 0, sessions: 0, verdicts: held.counts }
  let thread: Thread<ToWorker> | undefined
  let received: Delta[] = []
  /** When the thread was asked for a tick that it has not answered. */
  let askedAtMs: number | undefined
  let onAnswered = () => {}
  let exchanging: Promise<void> | undefined
  let isClosed = false
  let isFirst = true

  const send = (exchanged: readonly Delta[]) => {
    if (exchange === undefined || exchanging !== undefined) return
    exchanging = exchange
      .exchange(exchanged, clock.now())
      .then((deltas) => {
        received.push(...deltas)
      })
      .catch((error) => log.debug({ error }, 'deltas of anomalies were not exchanged'))
      .finally(() => {
        exchanging = undefined
      })
  }

  const onMessage = (message: FromWorker) => {
    askedAtMs = undefined
    counts.lost += message.lost
    counts.principals = message.principals
    counts.sessions = message.sessions
    for (const finding of message.findings) held.add(finding)
    send(message.exchanged)
    onAnswered()
  }

  const start = () => {
    askedAtMs = undefined
    thread = startThread<ToWorker, FromWorker>({
      url: workerUrl,
      onMessage,
      onEnd: (reason) => {
        thread = undefined
        if (!isClosed) log.warn({ event: 'anomaly.thread_ended', reason }, 'the thread that detects anomalies ended')
      },
    })
    // A thread that takes over does not judge records anew.
    const from = isFirst ? 0 : writtenTo(signals.ring)
    isFirst = false
    thread.post({ type: 'start', ring: signals.ring, from, near })
  }

  /** Resolves when the thread has answered; it may be asked already. */
  const tick = (): Promise<void> => {
    held.dropExpired()
    const nowMs = clock.monotonic()
    if (askedAtMs !== undefined && nowMs - askedAtMs > silentMs) {
      thread?.end()
      thread = undefined
    }
    if (thread === undefined) start()
    if (askedAtMs !== undefined) return Promise.resolve()
    askedAtMs = nowMs
    const answered = Promise.withResolvers<void>()
    onAnswered = answered.resolve
    thread?.post({ type: 'tick', nowMs: clock.now(), deltas: received })
    received = []
    return answered.promise
  }

  const timer = setInterval(() => void tick(), tickMs)

  return {
    mode,
    counts,
    find: held.find,
    factorOf: held.factorOf,
    expiresInMs: held.expiresInMs,
    lift: held.lift,
    active: held.active,
    /** What blocks addresses; before it is set none is blocked. */
    onBlock: blocking.use,
    /** For tests. */
    tick,
    close: (): void => {
      isClosed = true
      clearInterval(timer)
      blocking.close()
      thread?.end()
    },
  }
}

export type Anomalies = ReturnType<typeof createAnomalies>
