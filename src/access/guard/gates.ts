import { admitBy } from '../../http/elysia-adapter.ts'
import type { Entry, Gate } from '../../http/input.ts'
import type { RequestContext } from '../../http/request-context.ts'
import { type MaybePromise, mapMaybePromise } from '../../kit/maybe-promise.ts'
import type { Spending } from '../../limits/spending.ts'
import type { Scope } from '../policy/matrix.ts'
import type { Caller, Credential, Service, TokenCredential } from '../principal.ts'
import { type Authentication, requireOperator } from './authentication.ts'
import type { GuardedRoute } from './guarded-route.ts'

/** Reading so small a body costs less than finding out whether its caller may have it read. */
const smallBodyBytes = 1_024

/** The credential that the gate of a route has read, so that it is read once, and whom the gate knows by it. */
export type Admitted = Entry & {
  readonly credential: Credential
  readonly caller: Caller | undefined
  readonly service: Service | undefined
}

/** For `decorate`: what the gate adds to the context. Undefined on routes without input, which need no gate. */
export const entrySlot: { entry: Admitted | undefined } = { entry: undefined }

const isSmall = ({ contentLength }: RequestContext) => contentLength !== undefined && contentLength <= smallBodyBytes

/** `value`, once the request was counted. */
export const after = <T>(counted: MaybePromise<void>, value: T): MaybePromise<T> =>
  counted instanceof Promise ? counted.then(() => value) : value

/** How callers of one kind are admitted and confirmed; see `Gate`. Those who confirm count the request. */
type Admission = {
  readonly admit: (request: Request, context: RequestContext, query: unknown) => MaybePromise<Admitted | undefined>
  readonly confirm: (credential: Credential, context: RequestContext, spend: Spending) => MaybePromise<void>
}

const toAdmitted = (
  credential: Credential,
  isConfirmed: boolean,
  caller: Caller | undefined,
  service: Service | undefined,
): Admitted => ({ isConfirmed, credential, caller, service })

/** Counts a request of a person, or of a service that acts for one. */
export const countCaller = (spend: Spending, context: RequestContext, caller: Caller): MaybePromise<void> =>
  caller.service === undefined ? spend.person(context, caller) : spend.acting(context, caller.service, caller)

/** For `introspect`: counts a request whose caller is known before its body is read. */
const countBy = (route: GuardedRoute, { admit, confirm }: Admission) => {
  const { spend } = route
  const countEntry = (context: RequestContext, entry: Admitted | undefined): MaybePromise<Entry | undefined> => {
    if (entry?.caller !== undefined) return after(countCaller(spend, context, entry.caller), entry)
    if (entry?.service !== undefined) return after(spend.service(context, entry.service), entry)
    return entry
  }
  const gate: Gate = {
    admit: (request, context, query) => {
      const entry = admit(request, context, query)
      return entry instanceof Promise
        ? entry.then((admitted) => countEntry(context, admitted))
        : countEntry(context, entry)
    },
    confirm: (entry, context) => confirm((entry as Admitted).credential, context, spend),
  }
  const setGate = admitBy(gate)
  return (hook: unknown): void => {
    route.read(hook)
    setGate(hook)
  }
}

/** The gates: authentication before the input is read. */
export const createGates = ({
  readBearer,
  readCredential,
  authenticate,
  authenticateFromMemory,
  authenticateToken,
  authenticateService,
  refuseKey,
}: Authentication) => {
  /** Admits a session that memory knows. One that it does not know, and one with a small body, is confirmed later. */
  const admitSession = (credential: TokenCredential, context: RequestContext, isWayOut = false): Admitted => {
    const caller = isSmall(context) ? undefined : authenticateFromMemory(credential, context, isWayOut)
    return toAdmitted(credential, caller !== undefined, caller, undefined)
  }
  const confirm = (
    credential: Credential,
    context: RequestContext,
    spend: Spending,
    isWayOut: boolean,
  ): MaybePromise<void> =>
    credential.kind === 'key'
      ? refuseKey(credential, context)
      : mapMaybePromise(authenticateToken(credential, context, undefined, isWayOut), (caller) =>
          spend.person(context, caller),
        )
  const confirmSession: Admission['confirm'] = (credential, context, spend) =>
    confirm(credential, context, spend, false)

  /** Admits a service, whose fact is loaded where memory does not know it. One with a small body is confirmed later. */
  const admitKey = (credential: Credential, context: RequestContext, scope: Scope): MaybePromise<Admitted> => {
    if (isSmall(context)) return toAdmitted(credential, false, undefined, undefined)
    return mapMaybePromise(authenticateService(credential, context, scope), (service) =>
      toAdmitted(credential, true, undefined, service),
    )
  }
  const confirmKey =
    (scope: Scope): Admission['confirm'] =>
    (credential, context, spend) =>
      mapMaybePromise(authenticateService(credential, context, scope), (service) => spend.service(context, service))

  /** Admits a person, and a service that acts for one where the route has a scope. */
  const person = (route: GuardedRoute): Admission => {
    const admit = (credential: Credential, request: Request, context: RequestContext): MaybePromise<Admitted> =>
      credential.kind === 'token'
        ? admitSession(credential, context, route.isWayOut())
        : mapMaybePromise(authenticate(credential, request, context, route), (caller) =>
            toAdmitted(credential, true, caller, undefined),
          )
    return {
      admit: (request, context) => {
        const credential = readCredential(request, context)
        return credential instanceof Promise
          ? credential.then((read) => admit(read, request, context))
          : admit(credential, request, context)
      },
      confirm: (credential, context, spend) => confirm(credential, context, spend, route.isWayOut()),
    }
  }

  return {
    countBy,
    person,

    personUnless: (route: GuardedRoute, hasOtherCredential: (query: unknown) => boolean): Admission => {
      const { admit, confirm } = person(route)
      return {
        admit: (request, context, query) => (hasOtherCredential(query) ? undefined : admit(request, context, query)),
        confirm,
      }
    },

    /** `read` reads the credential: with or without cookies. */
    personOrService: (scope: Scope, read = readCredential): Admission => {
      const confirmService = confirmKey(scope)
      return {
        admit: (request, context) =>
          mapMaybePromise(read(request, context), (credential) =>
            credential.kind === 'key' ? admitKey(credential, context, scope) : admitSession(credential, context),
          ),
        confirm: (credential, context, spend) =>
          (credential.kind === 'key' ? confirmService : confirmSession)(credential, context, spend),
      }
    },

    service: (scope: Scope): Admission => ({
      admit: (request, context) =>
        mapMaybePromise(readBearer(request, context), (credential) => admitKey(credential, context, scope)),
      confirm: confirmKey(scope),
    }),

    /** Authenticated before any body is read. */
    operator: (route: GuardedRoute): Admission => ({
      admit: (request, context) =>
        mapMaybePromise(readCredential(request, context), (credential) =>
          mapMaybePromise(authenticate(credential, request, context, route), (caller) =>
            toAdmitted(credential, true, requireOperator(caller), undefined),
          ),
        ),
      confirm: confirmSession,
    }),
  }
}
