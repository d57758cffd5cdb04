import { admitBy } from '../../http/elysia-adapter.ts'
import type { Entry, Gate } from '../../http/input.ts'
import type { RequestContext } from '../../http/request-context.ts'
import { type MaybePromise, mapMaybePromise } from '../../kit/maybe-promise.ts'
import type { Spending } from '../../limits/spending.ts'
import type { Access } from '../access.ts'
import type { Scope } from '../policy/matrix.ts'
import type { Caller, Credential, Service } from '../principal.ts'
import { type Authentication, claimsIn, requireOperator } from './authentication.ts'

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

/** How a gate admits; see `Gate`. */
type Admit = (request: Request, context: RequestContext, query: unknown) => MaybePromise<Admitted | undefined>

const toAdmitted = (
  credential: Credential,
  isConfirmed: boolean,
  caller: Caller | undefined,
  service: Service | undefined,
): Admitted => ({ isConfirmed, credential, caller, service })

/** The gates: authentication before the input is read. */
export const createGates = (access: Access, { readCredential, authenticate, authenticateService }: Authentication) => {
  /** Admits a session that memory knows. One that it does not know, and one with a small body, is confirmed later. */
  const admitSession = (credential: Credential, context: RequestContext): Admitted => {
    const claims = claimsIn(credential)
    const caller = isSmall(context) ? undefined : access.authenticateFromMemory(claims)
    return toAdmitted(credential, caller !== undefined, caller, undefined)
  }

  const admitPerson: Admit = (request, context) => {
    const credential = readCredential(request, context)
    return credential instanceof Promise
      ? credential.then((read) => admitSession(read, context))
      : admitSession(credential, context)
  }

  const admitPersonOrService =
    (scope: Scope): Admit =>
    (request, context) =>
      mapMaybePromise(readCredential(request, context), (credential): MaybePromise<Admitted> => {
        if (credential.kind === 'token') return admitSession(credential, context)
        return mapMaybePromise(access.authenticateService(credential.key, scope, context.deadline), (service) =>
          toAdmitted(credential, true, undefined, service),
        )
      })

  return {
    admitPerson,
    admitPersonOrService,

    admitUnless:
      (hasOtherCredential: (query: unknown) => boolean): Admit =>
      (request, context, query) =>
        hasOtherCredential(query) ? undefined : admitPerson(request, context, query),

    admitService:
      (scope: Scope): Admit =>
      (request, context) =>
        mapMaybePromise(readCredential(request, context), (credential) =>
          mapMaybePromise(authenticateService(credential, context, scope), (service) =>
            toAdmitted(credential, true, undefined, service),
          ),
        ),

    admitOperator: ((request, context) =>
      mapMaybePromise(readCredential(request, context), (credential) =>
        mapMaybePromise(authenticate(credential, context), (caller) =>
          toAdmitted(credential, true, requireOperator(caller), undefined),
        ),
      )) satisfies Admit,

    /** For `introspect`: counts a request whose caller the gate knows, before its body is read. */
    countBy: (spend: Spending, admit: Admit) => {
      const countEntry = (context: RequestContext, entry: Admitted | undefined): MaybePromise<Entry | undefined> => {
        if (entry?.caller !== undefined) return after(spend.person(context, entry.caller), entry)
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
        // A request that is refused for its body is counted too.
        confirm: (entry, context) =>
          mapMaybePromise(access.authenticate(claimsIn((entry as Admitted).credential), context.deadline), (caller) =>
            spend.person(context, caller),
          ),
      }
      const setGate = admitBy(gate)
      return (hook: unknown): void => {
        spend.readRoute(hook)
        setGate(hook)
      }
    },
  }
}
