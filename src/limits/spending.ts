import { budgetOfRoute, type CountedOn, maxBytesOf } from '../http/contract.ts'
import type { RequestContext } from '../http/request-context.ts'
import { type MaybePromise, mapMaybePromise } from '../kit/maybe-promise.ts'
import type { Limits, Person, Service } from './limits.ts'
import type { PlanBudget } from './policy.ts'

/** One unit pays for that much of a request body: of JSON, and of an upload. */
export const bytesPerUnit = 65_536
export const uploadBytesPerUnit = 1_048_576
/** One unit pays for ten items of a batch. */
export const itemsPerUnit = 10

/** The units of a request by the length of its body; one of unknown length counts as the longest that the route takes. */
export const unitsOfBody = (contentLength: number | undefined, maxBytes: number, perUnit: number): number => {
  const bytes = Math.min(contentLength ?? maxBytes, maxBytes)
  return bytes <= perUnit ? 1 : Math.ceil(bytes / perUnit)
}

export const unitsOfItems = (items: number): number => (items <= itemsPerUnit ? 1 : Math.ceil(items / itemsPerUnit))

type Signed = Person & { readonly sessionId: string }

/** Counts the requests of one route, each once: before its body is read where the gate knows the caller, else after. */
export type Spending = {
  /** Reads the options of the route. */
  readRoute(hook: unknown): void
  person(context: RequestContext, caller: Signed): MaybePromise<void>
  service(context: RequestContext, service: Service): MaybePromise<void>
  /** Counts a request of a service that acts for a person: on the limit of its key, and as a request of the person. */
  acting(context: RequestContext, service: Service, caller: Person): MaybePromise<void>
  /** Counts the items of a batch beyond what its bytes have paid for. */
  items(context: RequestContext, who: Person | Service, items: number): MaybePromise<void>
}

export type SpendingOfRoutes = {
  create(): Spending
  /** Refuses a token that has to be verified, from an address that has sent many that were not valid. */
  refuseUnknown(request: Request, context: RequestContext): void
}

const planBudgetOf = (counted: CountedOn | undefined): PlanBudget =>
  counted === 'generation' || counted === 'media' ? counted : 'api'

export const createSpendingOfRoutes = (limits: Limits): SpendingOfRoutes => {
  const isOff = limits.mode === 'off'

  const create = (): Spending => {
    let budget: PlanBudget = 'api'
    let maxBytes = 0
    let perUnit = bytesPerUnit

    /** Only a route that takes more than the bytes of one unit looks at the length. */
    const pay = (context: RequestContext): number => {
      const units = maxBytes <= perUnit ? 1 : unitsOfBody(context.contentLength, maxBytes, perUnit)
      context.paidUnits = units
      return units
    }

    return {
      readRoute: (hook) => {
        const { detail } = hook as { detail?: unknown }
        budget = planBudgetOf(budgetOfRoute(detail))
        maxBytes = maxBytesOf(detail)
        if (budget === 'media') perUnit = uploadBytesPerUnit
      },
      person: (context, caller) => {
        context.principal = caller
        return isOff || context.paidUnits !== undefined
          ? undefined
          : limits.person(context, caller, budget, pay(context))
      },
      service: (context, service) => {
        context.principal = service
        return isOff || service.limitPerSecond === null || context.paidUnits !== undefined
          ? undefined
          : limits.service(context, service, pay(context))
      },
      acting: (context, service, caller) => {
        context.principal = service
        if (isOff || context.paidUnits !== undefined) return undefined
        const units = pay(context)
        return mapMaybePromise(limits.service(context, service, units), () =>
          limits.person(context, caller, budget, units),
        )
      },
      items: (context, who, items) => {
        const paid = context.paidUnits ?? 0
        const missing = unitsOfItems(items) - paid
        if (isOff || paid === 0 || missing <= 0) return undefined
        return 'keyId' in who ? limits.service(context, who, missing) : limits.person(context, who, budget, missing)
      },
    }
  }

  return {
    create,
    refuseUnknown: (request, context) => limits.unknownCredential(context, context.addressForLimits?.(request)),
  }
}
