import type { AnomalyMode } from '../config.ts'
import type { OpenIncident } from '../incidents/report.ts'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../platform/log.ts'
import { startThread, type Thread } from '../platform/thread.ts'
import type { Delta, PrincipalKind } from './delta.ts'
import type { AnomalyExchange } from './exchange.ts'
import { toReport } from './incidents.ts'
import { writtenTo } from './ring.ts'
import { type Reason, reasons } from './rules.ts'
import type { Signals } from './signals.ts'
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
  /** How many accounts have live sessions that were opened from the address. */
  readonly countAccountsAt: (address: string) => Promise<number>
  readonly openIncident: OpenIncident
  readonly clock: Clock
  readonly log: Log
  readonly workerUrl?: URL
}

/** Accounts with live sessions from which on an address counts as shared: an office, a household, a mobile network. */
const sharedBy = 2

/** The verdicts on principals, by their ids. */
const createHeldVerdicts = ({
  mode,
  signals,
  countAccountsAt,
  openIncident,
  clock,
  log,
}: Omit<Dependencies, 'exchange' | 'near' | 'workerUrl'>) => {
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

  /** Of addresses whose accounts are counted, one at a time: what cannot be counted now is taken for shared. */
  let isCounting = false
  /** Blocks an address only where no more than one account is signed in from it. */
  const holdAddress = async (verdict: Verdict, id: string) => {
    const mild: Verdict = { ...verdict, level: 2 }
    if (verdict.level < 3) return hold(verdict, id)
    if (isCounting) return hold(mild, id)
    isCounting = true
    const accounts = await countAccountsAt(id).catch(() => sharedBy)
    isCounting = false
    hold(accounts < sharedBy ? verdict : mild, id)
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
 * and an incident.
 *
 * Guarantee: no request waits for it. `monitor` opens incidents and changes no limit. A verdict on an address never concerns
 * sessions and known devices there, and never blocks an address from which several accounts are signed in. Degrades: while the
 * thread is away there are no new verdicts, the others expire, and the thread starts anew with an empty memory.
 */
export const createAnomalies = ({
  mode,
  signals,
  exchange,
  near,
  countAccountsAt,
  openIncident,
  clock,
  log,
  workerUrl = new URL('./worker.ts', import.meta.url),
}: Dependencies) => {
  const held = createHeldVerdicts({ mode, signals, countAccountsAt, openIncident, clock, log })
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
    /** For tests. */
    tick,
    close: (): void => {
      isClosed = true
      clearInterval(timer)
      thread?.end()
    },
  }
}

export type Anomalies = ReturnType<typeof createAnomalies>
