import { Elysia } from 'elysia'
import * as identity from '../identity/model.ts'
import { createDeadlines } from '../kit/deadline.ts'
import type { Services } from '../services.ts'
import type { ClientAddresses } from './client-addresses.ts'
import { contract } from './contract.ts'
import { contextSlot } from './elysia-adapter.ts'
import { closed, t } from './schema-types.ts'

const tags = ['plain']

const alive = closed({ status: t.Literal('alive') })
const readiness = closed({
  status: t.Union([t.Literal('ready'), t.Literal('degraded'), t.Literal('not_ready')]),
  reasons: t.Array(t.String()),
})

type Reasons = { readonly notReady: string[]; readonly degraded: string[] }

const probeMs = 1_000
/** How long after the end of a lease a reason is reported that may pass by itself. */
const passingMs = 3_000

export const healthRoutes = (
  {
    database,
    keys,
    lifecycle,
    clock,
    leaseClock,
    objectProbe,
    caches,
    mail,
    redis,
    watch,
    staleReads,
    notificationQueue,
  }: Services,
  addresses: Pick<ClientAddresses, 'hasUntrustedProxy'>,
) => {
  const startDeadline = createDeadlines(clock)
  const busReasons = (): string[] => {
    const { bus } = caches
    const reason = bus.noLeaseReason()
    const isPassing = reason === 'connecting' || reason === 'late'
    if (reason === undefined || (isPassing && leaseClock.monotonic() - bus.lease.untilMs < passingMs)) return []
    return [`bus.${reason}`]
  }
  const redisReasons = (): string[] => {
    if (redis === undefined) return []
    if (redis.state() !== 'up') return ['redis.unavailable']
    const use = caches.redisUse()
    return use === 'other_server' || use === 'other_secret' ? [`redis.${use}`] : []
  }
  const isReachable = (): Promise<boolean> =>
    watch.isOpen()
      ? Promise.resolve(false)
      : database.ping(startDeadline(probeMs)).then(
          () => true,
          () => false,
        )
  const findReasons = async (): Promise<Reasons> => {
    if (lifecycle.draining) return { notReady: ['server.stopping'], degraded: [] }
    const [reachable, storing] = await Promise.all([isReachable(), objectProbe.isWorking()])
    const withoutDatabase = reachable ? [] : ['database.unavailable']
    const isServing = reachable || staleReads.areAllowed()
    return {
      notReady: isServing ? [] : withoutDatabase,
      degraded: [
        ...(isServing ? withoutDatabase : []),
        ...(storing ? [] : ['storage.unavailable']),
        ...redisReasons(),
        ...(mail.isWorking() ? [] : ['mail.unavailable']),
        ...(reachable ? busReasons() : []),
        ...(notificationQueue.isFilling ? ['bus.queue_filling'] : []),
        ...(addresses.hasUntrustedProxy ? ['proxy.untrusted'] : []),
      ],
    }
  }
  let probing: Promise<Reasons> | undefined
  /** Probes that come while one is under way share its result, so that a flood of them sends one statement at a time. */
  const findSharedReasons = (): Promise<Reasons> => {
    probing ??= findReasons().finally(() => {
      probing = undefined
    })
    return probing
  }
  return new Elysia()
    .decorate(contextSlot)
    .get('/health', () => ({ status: 'alive' as const }), {
      ...contract(
        {},
        { 200: alive },
        { summary: 'Liveness: the process answers; checks nothing else', tags, open: true, budget: 'free' },
      ),
    })
    .get(
      '/ready',
      async ({ status }) => {
        const { notReady, degraded } = await findSharedReasons()
        const reasons = [...notReady, ...degraded]
        if (notReady.length > 0) return status(503, { status: 'not_ready' as const, reasons })
        return status(200, { status: degraded.length > 0 ? ('degraded' as const) : ('ready' as const), reasons })
      },
      {
        ...contract(
          {},
          { 200: readiness, 503: readiness },
          {
            summary:
              'Readiness: whether to send requests here, and if not, why. `degraded`: to send, though something is slower or fails',
            tags,
            open: true,
            budget: 'free',
          },
        ),
      },
    )
    .get(
      '/.well-known/jwks.json',
      ({ set }) => {
        set.headers['cache-control'] = 'public, max-age=300'
        return keys.jwks() as { keys: identity.PublicKey[] }
      },
      {
        ...contract(
          {},
          { 200: identity.jwks },
          { summary: 'The public keys that verify access tokens (RFC 7517)', tags, open: true, budget: 'free' },
        ),
      },
    )
}
