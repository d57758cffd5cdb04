import { type AnyElysia, Elysia, ElysiaCustomStatusResponse } from 'elysia'
import { returnsRequestId } from './access/authzen/authzen.ts'
import { authzenRoutes } from './access/authzen/routes.ts'
import { accessRoutes } from './access/routes.ts'
import { auditRoutes } from './audit/routes.ts'
import { breakerRoutes } from './breakers/routes.ts'
import { creditRoutes } from './credits/routes.ts'
import { dashboardRoutes } from './dashboard/routes.ts'
import { restrictionFaultsOf } from './emergency/route-classes.ts'
import { restrictionRoutes } from './emergency/routes.ts'
import { Fault } from './fault.ts'
import { featureFlagRoutes } from './flags/features/routes.ts'
import { tierFlagRoutes } from './flags/tiers/routes.ts'
import { generationRoutes } from './generations/routes.ts'
import { generationStreamRoutes } from './generations/stream/routes.ts'
import { contentLengthOf, refuseAmbiguousLength } from './http/body.ts'
import { challengeOf, credentialOf } from './http/challenge.ts'
import { type ClientAddresses, createClientAddresses } from './http/client-addresses.ts'
import { docsRoutes } from './http/docs-routes.ts'
import { adapter, contextSlot, type DirectContext, directRoutes } from './http/elysia-adapter.ts'
import { createFrontDoor, type Steps } from './http/front-door.ts'
import { healthRoutes } from './http/health-routes.ts'
import { createLoggablePath } from './http/loggable-path.ts'
import { kindOf, priorityOf } from './http/priority.ts'
import { givenRequestId, type RequestContext } from './http/request-context.ts'
import { addCookies, addRateLimit, createResponder, type Responder } from './http/responder.ts'
import { createRouteIndex } from './http/route-index.ts'
import { toFault } from './http/to-fault.ts'
import { exportRoutes } from './identity/export/routes.ts'
import { identityProviderRoutes } from './identity/identity-providers/routes.ts'
import { quotaRoutes } from './identity/quota-routes.ts'
import { recoveryPageRoutes } from './identity/recovery/page-routes.ts'
import { recoveryRoutes } from './identity/recovery/routes.ts'
import { identityRoutes } from './identity/routes.ts'
import { userRecoveryRoutes } from './identity/users/recovery-routes.ts'
import { userRoutes } from './identity/users/routes.ts'
import { incidentRoutes } from './incidents/routes.ts'
import { createAdmittedDeadlines } from './kit/admitted-deadline.ts'
import { createHostCheck, pathOf } from './kit/authority.ts'
import type { Deadline } from './kit/deadline.ts'
import { createTraceIds, traceIdOf } from './kit/trace-id.ts'
import { createAnonymousCount } from './limits/anonymous.ts'
import { limitRoutes } from './limits/routes.ts'
import { mediaRoutes } from './media/routes.ts'
import { modelRoutes } from './models/routes.ts'
import { alertRoutes } from './monitoring/alerts/routes.ts'
import { prometheusRoutes } from './monitoring/prometheus/routes.ts'
import { monitoringRoutes } from './monitoring/routes.ts'
import { projectRoutes } from './projects/routes.ts'
import { serviceKeyRoutes } from './service-keys/routes.ts'
import type { Services } from './services.ts'
import { teamRoutes } from './teams/routes.ts'
import { operatorWebhookRoutes, teamWebhookRoutes } from './webhooks/routes.ts'

const methods = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const

/** The methods that a path supports, as the `Allow` header names them; undefined where no route has the path. */
const allowedMethods = (app: AnyElysia, path: string): string | undefined => {
  const own = methods.filter(
    (method) => app.router.static[path]?.[method] !== undefined || app.router.http.find(method, path),
  )
  if (own.length === 0) return undefined
  return [...own.flatMap((method) => (method === 'GET' ? ['GET', 'HEAD'] : [method])), 'OPTIONS'].join(', ')
}

/** Whether the request carried a token, a key, a link or a ticket that is not valid. */
const isInvalidCredential = ({ code }: Fault, { authorization, byCookie }: RequestContext): boolean =>
  code === 'media.link_refused' ||
  code === 'service_key.expired' ||
  code === 'generation.stream_ticket_refused' ||
  (code === 'identity.not_signed_in' && (authorization !== null || byCookie === true))

type Parts = {
  readonly services: Services
  readonly responder: Responder
  readonly addresses: ClientAddresses
  /** The `Allow` of a path; undefined where no route has it. */
  readonly allowedMethods: (path: string) => string | undefined
  readonly loggablePath: (path: string) => string
  /** The path of the route of a request that did not get there; undefined where no route has its path. */
  readonly routeOf: (request: Request) => string | undefined
}

/** What every request passes, by Elysia's pipeline or by the front door. */
const createSteps = ({ services, responder, addresses, allowedMethods, loggablePath, routeOf }: Parts): Steps => {
  const { config, clock, log, lifecycle, staleReads, limits, signals, barrier, requestRecorder } = services
  const newTraceId = createTraceIds()
  const startDeadline = createAdmittedDeadlines({
    clock,
    admissions: services.admissions,
    priorityOf,
    kindOf,
    requireAvailable: services.watch.requireAvailable,
  })
  const hasValidHost = createHostCheck()
  const audit = { macOf: services.auditSource.macOf, recorded: services.auditSource.recorded, addressOf: addresses.of }

  /** Marks every response of a request that got stale facts, refusals included, but no 5xx: it answers nothing by them. */
  const markStaleReads = (response: Response, deadline: Deadline): Response => {
    if (staleReads.isUsedBy(deadline) && response.status < 500) response.headers.set('velro-degraded', 'stale-reads')
    return response
  }

  /** Marks a finished response, and adds the cookies that it sets. */
  const finish = (response: Response, { deadline, setCookies }: RequestContext): Response =>
    addCookies(markStaleReads(response, deadline), setCookies)

  return {
    begin: (request, authorization, route, arrivedMs) => {
      const deadline = startDeadline(config.requestTimeoutMs, request)
      const context: RequestContext = {
        requestId: traceIdOf(request.headers.get('traceparent')) ?? newTraceId(),
        contentLength: contentLengthOf(request),
        deadline,
        arrivedMs: arrivedMs ?? deadline.startedMs ?? clock.monotonic(),
        route,
        authorization,
        request,
        addressOf: addresses.of,
        address: undefined,
        userAgent: undefined,
        contextFinding: undefined,
        audit,
        byCookie: false,
        setCookies: undefined,
        addressForLimits: addresses.forLimits,
        rateLimit: undefined,
        limitedAs: undefined,
        paidUnits: undefined,
        principal: undefined,
        place: undefined,
        asked: undefined,
        isRefused: false,
        bodyMs: 0,
      }
      deadline.owner = context
      return context
    },

    admit: (request, context) => {
      if (!hasValidHost(request.url, request.headers.get('host'))) throw new Fault('request.host_invalid')
      if (request.method === 'OPTIONS') return
      if (lifecycle.stopping && !request.url.endsWith('/health') && !request.url.endsWith('/ready')) {
        throw new Fault('server.stopping')
      }
      refuseAmbiguousLength(context)
      barrier.refuseEarly(request)
    },

    answer: (response, { request, context, set }) => {
      if (response instanceof Response) {
        signals?.answered(request, context, response.status, undefined)
        const given = addRateLimit(finish(response, context), context.rateLimit)
        requestRecorder.answered(request, context, response.status)
        return given
      }
      const custom = response instanceof ElysiaCustomStatusResponse ? response : undefined
      const status = custom === undefined ? set.status : custom.code
      const code = typeof status === 'number' ? status : 200
      const returned = custom === undefined ? response : custom.response
      signals?.answered(request, context, code, returned)
      const answer = responder.json(returned, {
        status: code,
        requestId: context.requestId,
        origin: responder.originOf(request),
        headers: set.headers,
        rateLimit: context.rateLimit,
      })
      const finished = finish(answer, context)
      requestRecorder.answered(request, context, code)
      return finished
    },

    refuse: (code, error, { request, context }) => {
      const path = pathOf(request.url)
      let fault = toFault(code, error)
      if (fault.code === 'route.not_found') {
        const allow = allowedMethods(path)
        if (allow !== undefined) fault = new Fault('route.method_not_allowed', { headers: { allow } })
      }
      const given = returnsRequestId(path) ? givenRequestId(request) : undefined
      const requestId = given ?? context.requestId
      const { method } = request
      const entry = { code: fault.code, request_id: requestId, method, path: loggablePath(path), ...fault.detail }
      signals?.refused(request, context, fault)
      if (isInvalidCredential(fault, context)) limits.invalidCredential(addresses.forLimits(request))
      // Refusals under overload are counted, not logged one by one.
      if (fault.status >= 500 && fault.code !== 'server.overloaded')
        log.error({ ...entry, error: fault.cause }, 'request failed')
      else log.debug(entry, 'request refused')
      // Without a valid Host the path is not known.
      const instance = fault.code === 'request.host_invalid' ? '/' : path
      const problem = responder.problem(fault, instance, {
        requestId,
        origin: responder.originOf(request),
        challenge: challengeOf(fault, context),
        fromRequest: fault.code === 'identity.not_signed_in' ? { credential: credentialOf(context) } : undefined,
        rateLimit: context.rateLimit,
      })
      const finished = finish(problem, context)
      context.isRefused = true
      context.route ??= routeOf(request)
      requestRecorder.answered(request, context, fault.status)
      return finished
    },
  }
}

/** The routes that are asked most, which the front door serves. */
export const frontDoorRoutes = [
  'POST /api/v1/authorization/check',
  'POST /api/v1/authorization/check/batch',
  'POST /api/v1/authorization/explain',
  'POST /access/v1/evaluation',
  'POST /access/v1/evaluations',
  'GET /api/v1/auth/me',
]

/**
 * The application. The order matters: the error handler is added before anything can fail; then the request hook, which sets
 * the request id and the deadline and refuses requests without a valid Host or with two lengths; then the features.
 */
export const createApp = (services: Services, peerOf: (request: Request) => string) => {
  const { config, log, limits, barrier } = services
  const responder = createResponder(config.corsOrigins)
  const addresses = createClientAddresses({ trustedProxies: config.trustedProxies, peerOf, log })
  const anonymous = createAnonymousCount({
    limits,
    addresses,
    claimsOf: services.identity.claimsOf,
    cookieTokenOf: services.sessionCookies.peekAccessToken,
  })
  const steps = createSteps({
    services,
    responder,
    addresses,
    allowedMethods: (path) => allowedMethods(app, path),
    loggablePath: createLoggablePath(() => app.routes),
    routeOf: (request) => routeOf(request)?.path,
  })

  /** When requests came, some of which wait before the application gets them. */
  const arrivals = new WeakMap<Request, number>()
  const begin = (request: Request) =>
    steps.begin(request, request.headers.get('authorization'), undefined, arrivals.get(request))

  /** The methods of a path, to a preflight (CORS) as to any other OPTIONS request. */
  const answerOptions = (request: Request, context: RequestContext): Response => {
    const allow = allowedMethods(app, pathOf(request.url))
    if (allow === undefined) throw new Fault('route.not_found')
    const answer = responder.options({
      requestId: context.requestId,
      origin: responder.originOf(request),
      methods: allow,
      requested: request.headers.get('access-control-request-headers'),
    })
    services.requestRecorder.answered(request, context, answer.status)
    return answer
  }

  const app = new Elysia({ adapter, normalize: false, handler: { standardHostname: false } })
    .decorate(contextSlot)
    .onError(({ code, error, request, route, context = begin(request) }) => {
      // Empty where no route was found.
      if (route) context.route = route
      return steps.refuse(code, error, { request, context })
    })
    // Not awaited, because its source has no `return f(`: see elysia-adapter.ts.
    .onRequest((incoming) => {
      const { request } = incoming
      incoming.context = begin(request)
      steps.admit(request, incoming.context)
      const isOptions = request.method === 'OPTIONS'
      barrier.refuse(request)
      if (!isOptions) anonymous.refuse(request, incoming.context)
      return isOptions ? answerOptions(request, incoming.context) : undefined
    })
    .mapResponse(({ response, set, request, route, context }) => {
      // Elysia maps what the error handler returns too.
      if (context.isRefused) return response as Response
      context.route = route
      return steps.answer(response, { request, context, set: set as DirectContext['set'] })
    })
    .use(healthRoutes(services, addresses))
    .use(docsRoutes(responder, restrictionFaultsOf))
    .use(dashboardRoutes(responder))
    .use(identityRoutes({ ...services, addressOf: addresses.of }))
    .use(exportRoutes({ ...services, responder, addressOf: addresses.of }))
    .use(recoveryRoutes({ ...services, addressOf: addresses.of }))
    .use(recoveryPageRoutes(responder))
    .use(identityProviderRoutes({ ...services, responder, addressOf: addresses.of }))
    .use(userRoutes({ ...services, addressOf: addresses.of }))
    .use(userRecoveryRoutes({ ...services, addressOf: addresses.of }))
    .use(quotaRoutes(services))
    .use(limitRoutes({ ...services, addressOf: addresses.of }))
    .use(accessRoutes(services))
    .use(authzenRoutes(services))
    .use(serviceKeyRoutes({ ...services, addressOf: addresses.of }))
    .use(breakerRoutes({ ...services, addressOf: addresses.of }))
    .use(tierFlagRoutes(services))
    .use(featureFlagRoutes({ ...services, addressOf: addresses.of }))
    .use(incidentRoutes({ ...services, addressOf: addresses.of }))
    .use(auditRoutes({ ...services, responder }))
    .use(restrictionRoutes({ ...services, addressOf: addresses.of }))
    .use(alertRoutes(services))
    .use(monitoringRoutes({ ...services, responder }))
    .use(prometheusRoutes({ ...services, responder }))
    .use(teamRoutes({ ...services, addressOf: addresses.of }))
    .use(operatorWebhookRoutes({ ...services, addressOf: addresses.of }))
    .use(teamWebhookRoutes({ ...services, addressOf: addresses.of }))
    .use(projectRoutes({ ...services, addressOf: addresses.of }))
    .use(generationRoutes(services))
    .use(generationStreamRoutes({ ...services, responder }))
    .use(mediaRoutes({ ...services, responder }))
    .use(modelRoutes(services))
    .use(creditRoutes(services))
  // Compiles every schema now, so that an invalid one fails the start and not the first request.
  app.compile()
  anonymous.readRoutes(app.routes)
  barrier.readRoutes(app.routes, addresses)
  const routeOf = createRouteIndex(app.routes)
  const counted = barrier.admitBefore(anonymous.countBefore(app.fetch))
  const general = (request: Request, arrivedMs = services.clock.monotonic()) => {
    arrivals.set(request, arrivedMs)
    return counted(request)
  }
  const direct = directRoutes(app.routes, frontDoorRoutes)
  return Object.assign(app, { serve: createFrontDoor({ routes: direct, steps, general }) })
}
