import { createForgeryReport } from '../../access/cache/forgery-report.ts'
import { scripts } from '../../access/cache/redis-cache.ts'
import { stateScript } from '../../access/cache/shared-outage.ts'
import type { CacheTiming } from '../../access/caches.ts'
import { anomalyScripts } from '../../anomaly/exchange.ts'
import { createAuditSource, taskContext } from '../../audit/event.ts'
import { withAudit } from '../../audit/security-events.ts'
import { createAuditSink } from '../../audit/sink.ts'
import { createSinkStore } from '../../audit/sink-store.ts'
import { type Config, maxAccessTokenTtlMs } from '../../config.ts'
import { createOriginRule } from '../../http/origin-rule.ts'
import { createSecurityEvents } from '../../http/security-events.ts'
import { createSessionCookies } from '../../http/session-cookies.ts'
import { createPasswordRules } from '../../identity/password-rules.ts'
import { type Argon2Cost, createPasswords } from '../../identity/passwords.ts'
import { sessionLife } from '../../identity/session-rules.ts'
import { createSigningKeys } from '../../identity/signing-keys.ts'
import { createIdentityStore } from '../../identity/store.ts'
import type { OpenIncident, Severity } from '../../incidents/report.ts'
import { createIncidentReports, type IncidentReports } from '../../incidents/reports.ts'
import { createIncidentStore } from '../../incidents/store.ts'
import { createAdmission } from '../../kit/admission.ts'
import type { Admissions } from '../../kit/admitted-deadline.ts'
import { type Clock, createLeaseClock, systemClock } from '../../kit/clock.ts'
import { createReaders } from '../../kit/readers.ts'
import { limitScripts } from '../../limits/redis-exchange.ts'
import { createImages } from '../../media/images/images.ts'
import { createBreachedPasswords } from '../../platform/breached-passwords.ts'
import {
  type BreakerChange,
  BreakerOpen,
  type Breakers,
  createBreakers,
  type Dependency,
  heldOpen,
} from '../../platform/breaker.ts'
import { createDiskObjects } from '../../platform/disk-objects.ts'
import type { Geoip } from '../../platform/geoip.ts'
import { guardObjects } from '../../platform/guarded-objects.ts'
import { createLog, type Log } from '../../platform/log.ts'
import { createObjectProbe } from '../../platform/object-probe.ts'
import {
  type Connection,
  createDatabase,
  type Database,
  isUnavailable,
  type PoolName,
  type PoolSize,
} from '../../platform/postgres.ts'
import type { SafeFetch } from '../../platform/safe-fetch.ts'
import type { SafePost } from '../../platform/safe-post.ts'
import { createSecrets, type KeyedHash } from '../../platform/secrets.ts'
import { createSharedClock } from '../../platform/shared-clock.ts'
import { MailRefused, type SendMail } from '../../platform/smtp.ts'
import { createSecretStore } from '../../secrets/store.ts'
import { openWrappedKeys } from '../../secrets/wrapped-keys.ts'
import { prepareDatabase } from '../prepare-database.ts'
import { composeMeasurement } from './measurement.ts'
import { composeSecurityContext } from './security-context.ts'
import { composeSignals, withSignals } from './signals.ts'

export type ServiceConfig = Config & { readonly secret: string }

/** All but the first two are for tests and benchmarks. */
export type Overrides = {
  log?: Log
  /** Gets a line about each step of the start that takes long. */
  report?: (line: string) => void
  clock?: Clock
  onStatement?: (text: string, pool: PoolName) => void
  onNotice?: (text: string, pool: PoolName) => void
  /** Fetches the outputs of providers. */
  safeFetch?: SafeFetch
  /** Sends events to webhooks. */
  safePost?: SafePost
  /** Sends mails, in place of SMTP_URL. */
  sendMail?: SendMail
  /** Where addresses are, in place of the databases. */
  geoip?: Geoip
  /** Makes hashing cheap, for tests that are not about passwords. */
  passwordCost?: Argon2Cost
  /** Shortens leases and the intervals of the outbox, for tests. */
  cacheTiming?: CacheTiming
}

/** How often the log says that the database has no connection left. */
const refusedWarningMs = 60_000

const createRefusedWarning = (clock: Clock, log: Log) => {
  let warnAgainAtMs = 0
  return (error: unknown, pool: PoolName) => {
    if (clock.monotonic() < warnAgainAtMs) return
    warnAgainAtMs = clock.monotonic() + refusedWarningMs
    log.warn(
      { event: 'database.no_connection_left', pool, error },
      'the database has no connection left; requests wait for those that are open: raise max_connections or lower DB_CONNECTIONS',
    )
  }
}

/** What requests do on Postgres, by its kind. Work that no request waits for is not admitted. */
const createAdmissions = ({ auth, read, write, analytics, admin, batch }: Record<PoolName, PoolSize>) => {
  const admit = (max: number, fixed = false) =>
    createAdmission({ clock: systemClock, max, fixed, isGone: isUnavailable })
  return {
    statements: admit(auth.max + read.max + analytics.max + admin.max + batch.max),
    // Each takes a connection of the same pool for many decisions at once, and leaves half of them to single ones.
    batches: admit(Math.ceil(auth.max / 2)),
    // Changes wait for the locks of others and for acknowledgements, which is no sign of load: a limit by their times would hold
    // up all for one row. What they do at once is bounded by the connections for writing.
    changes: admit(write.max, true),
  } satisfies Admissions
}

/** For development: every reader of the log can follow the links. */
const createLoggedMail =
  (log: Log): SendMail =>
  async ({ to, subject, text }) =>
    log.info({ event: 'mail.logged', to, subject, text }, 'a mail was written to the log, because SMTP_URL is log:')

const outageSeverity: Readonly<Record<Dependency, Severity>> = {
  postgres: 'critical',
  redis: 'high',
  storage: 'high',
  provider: 'medium',
  mail: 'medium',
  siem: 'medium',
  breached_passwords: 'low',
}

/** Opens an incident when a breaker opens by itself. */
const reportTo =
  (open: OpenIncident) =>
  ({ name, dependency, state, reason = 'unknown' }: BreakerChange) => {
    if (state === 'closed' || reason === heldOpen) return
    const subject = { type: 'dependency', id: name } as const
    open({ kind: 'dependency.unavailable', severity: outageSeverity[dependency], subject, evidence: { reason } })
  }

/** Breakers whose changes are in the audit log, also those from while Postgres was down, and open incidents. */
const composeBreakers = (
  log: Log,
  open: OpenIncident,
  { auditSink, auditSource }: ReturnType<typeof composeAuditSink>,
): Breakers => {
  const breakers = createBreakers({ clock: systemClock, log })
  breakers.onChange(reportTo(open))
  breakers.onChange(({ name, state, reason, atMs }) =>
    auditSink.event({
      action: state === 'open' ? 'breaker.opened' : 'breaker.closed',
      actor: 'system',
      target: { type: 'breaker', id: name },
      after: { state, reason: reason ?? null, seen_at: new Date(atMs).toISOString() },
      context: taskContext(auditSource, 'breaker'),
    }),
  )
  return breakers
}

/** Sends through a breaker: while that is open each mail fails at once, and its task is tried again later. */
const guardMail = (send: SendMail, breakers: Breakers): SendMail => {
  const breaker = breakers.create({
    dependency: 'mail',
    isFailure: (error) => error instanceof MailRefused && !error.isPermanent,
  })
  return (message, signal) =>
    breaker
      .execute(() => send(message, signal))
      .catch((error) => {
        throw error instanceof BreakerOpen ? new MailRefused('BREAKER_OPEN', undefined, false) : error
      })
}

/** What no instance wrote into Redis opens an incident. */
const reportForgeries = ({ open }: Pick<IncidentReports, 'open'>, log: Log) => {
  const forgeries = createForgeryReport({ clock: systemClock, log })
  forgeries.onReport(({ what, key, count }) =>
    open({
      kind: 'cache.entry_forged',
      severity: 'critical',
      subject: { type: 'dependency', id: 'redis' },
      evidence: { what, key, count },
    }),
  )
  return forgeries
}

/** How long closing waits for statements that no request waits for any more. */
const closingMs = 500

/** What records events: those of changes take the source, the others the queue, which is written when the process ends. */
const composeAuditSink = (
  { batch }: Pick<Database, 'batch'>,
  keyedHash: KeyedHash,
  log: Log,
  openIncident: OpenIncident,
  stack: AsyncDisposableStack,
) => {
  const auditSource = createAuditSource(keyedHash)
  const auditSink = createAuditSink({
    store: createSinkStore(batch),
    source: auditSource,
    clock: systemClock,
    log,
    onDropped: (dropped) =>
      openIncident({
        kind: 'audit.events_dropped',
        severity: 'high',
        subject: { type: 'deployment', id: 'audit' },
        evidence: { dropped },
      }),
  })
  stack.defer(() => auditSink.flush().catch((error) => log.warn({ error }, 'the last audit events were not stored')))
  return { auditSource, auditSink }
}

/**
 * First step: what reaches outside the process, and worker threads. When this resolves the database is migrated and the
 * signing keys are open. Throws when the database cannot be reached or does not suit, when a migration is refused, or when
 * the keys were sealed under another SECRET.
 */
export const composeInfrastructure = async (
  config: ServiceConfig,
  connection: Connection,
  overrides: Overrides,
  stack: AsyncDisposableStack,
) => {
  const log = overrides.log ?? createLog(config.logLevel)
  const clock = createSharedClock(overrides.clock ?? systemClock, log)
  const measurement = composeMeasurement(clock, stack)
  const prepared = await prepareDatabase(connection, config, log, overrides.report ?? (() => {}))
  const { budget, flags, route, migrations } = prepared

  const database = createDatabase({
    connection,
    route,
    budget,
    onStatement: overrides.onStatement,
    onNotice: overrides.onNotice,
    onRefused: createRefusedWarning(clock, log),
    onAnswered: measurement.recorder.statement,
  })
  stack.defer(() => database.close(closingMs))
  const incidentStore = createIncidentStore(database.admin, database.batch)
  const incidentReports = createIncidentReports({ store: incidentStore, clock, log })
  const forgeries = reportForgeries(incidentReports, log)
  stack.defer(() => incidentReports.flush().catch((error) => log.warn({ error }, 'reports of incidents not stored')))
  const admissions = createAdmissions(database.sizes)
  await clock.synchronize(database.admin)
  const secrets = createSecrets(config.secret, config.previousSecret)
  const identityStore = createIdentityStore(database.auth)
  const keys = createSigningKeys({ store: identityStore, secrets, clock, maxTokenTtlMs: maxAccessTokenTtlMs })
  await keys.refresh()
  const secretStore = createSecretStore(database.batch)
  const keyedHash = await openWrappedKeys({ store: secretStore, secrets })
  const signals = composeSignals(config.anomaly, keyedHash)
  const { auditSource, auditSink } = composeAuditSink(database, keyedHash, log, incidentReports.open, stack)

  const breakers = composeBreakers(log, incidentReports.open, { auditSink, auditSource })

  // The clients of Redis and S3 are loaded only where they are configured: ioredis alone is a tenth of a start.
  const redis =
    config.redisUrl === undefined
      ? undefined
      : (await import('../../platform/redis.ts')).createRedis({
          url: config.redisUrl,
          clock,
          log,
          breakers,
          scripts: { ...scripts, ...limitScripts, ...anomalyScripts, state: stateScript },
        })
  stack.defer(() => redis?.close())
  const passwords = createPasswords({
    workers: config.hashWorkers,
    maxQueued: config.hashQueue,
    cost: overrides.passwordCost,
  })
  stack.defer(passwords.close)
  const passwordRules = createPasswordRules({
    minLength: config.passwordMinLength,
    words: config.passwordWords,
    breached:
      config.passwordBreachUrl === undefined
        ? undefined
        : createBreachedPasswords({ url: config.passwordBreachUrl, log, breakers }),
  })
  const recordSecurityEvent = withAudit(withSignals(createSecurityEvents(log), signals), auditSink, auditSource)
  const securityContext = await composeSecurityContext(
    config,
    { secrets, clock, record: recordSecurityEvent, placeOf: signals?.placeOf },
    overrides.geoip,
  )
  const images = createImages({ workers: config.renderWorkers, maxQueued: config.renderQueue })
  stack.defer(images.close)
  const identityProviderLibrary =
    config.identityProviders.length === 0 ? undefined : await import('../../platform/openid-client.ts')
  const objects = guardObjects(
    config.s3 === undefined
      ? createDiskObjects({ directory: config.mediaDirectory })
      : (await import('../../platform/s3-objects.ts')).createS3Objects(config.s3),
    breakers,
  )

  const sendMail =
    overrides.sendMail ??
    (config.mail?.server === undefined
      ? createLoggedMail(log)
      : guardMail(await (await import('../../platform/smtp.ts')).createSmtp(config.mail.server), breakers))

  return {
    config,
    clock,
    /** False for a clock of a test, which moves without the clock of Postgres. */
    isSystemClock: overrides.clock === undefined,
    /** Waits bound what other processes do, so they are measured in real time, also where a test sets `clock`. */
    realClock: systemClock,
    leaseClock: createLeaseClock(systemClock),
    log,
    ...measurement,
    recordSecurityEvent,
    /** Undefined: ANOMALY is off. */
    signals,
    ...securityContext,
    sessionCookies: createSessionCookies({
      sameSite: config.cookieSameSite,
      originRule: createOriginRule(config),
      sessionSeconds: sessionLife.idleMs / 1_000,
      deviceSeconds: sessionLife.deviceMs / 1_000,
    }),
    database,
    incidentStore,
    incidentReports,
    admissions,
    breakers,
    readers: createReaders(),
    /** The number of the newest migration that this build has. */
    migrations,
    busConnection: config.databaseBusUrl ?? connection,
    changesConnection: connection,
    route,
    storedFlags: flags,
    redis,
    forgeries,
    secrets,
    secretStore,
    keyedHash,
    auditSource,
    auditSink,
    identityStore,
    keys,
    passwords,
    passwordRules,
    images,
    identityProviderLibrary,
    objects,
    objectProbe: createObjectProbe({ objects, clock: systemClock, log }),
    safeFetch: overrides.safeFetch,
    safePost: overrides.safePost,
    sendMail: config.mail && sendMail,
    cacheTiming: overrides.cacheTiming,
  }
}

export type Infrastructure = Awaited<ReturnType<typeof composeInfrastructure>>
