import { Fault } from '../fault.ts'
import type { RateLimitFields, RequestContext } from '../http/request-context.ts'
import type { Clock } from '../kit/clock.ts'
import type { MaybePromise } from '../kit/maybe-promise.ts'
import { createTtlMap } from '../kit/ttl-map.ts'
import type { Log } from '../platform/log.ts'
import type { Budgets, Decided, Demand, Outcome } from './budgets.ts'
import type { Plan } from './plans.ts'
import {
  type AccountLimits,
  type Budget,
  budgetOf,
  type OpenBudget,
  openBudgetNames,
  type PlanBudget,
  type Policy,
  planBudgetNames,
  windowSeconds,
} from './policy.ts'
import { policyItem, stateItem } from './rate-limit-fields.ts'

export type LimitMode = 'on' | 'monitor' | 'off'

export type Person = { readonly userId: string; readonly plan: Plan; readonly limits: AccountLimits | null }
/** Where the answer gets its RateLimit fields from. */
type Context = Pick<RequestContext, 'rateLimit'> | undefined
export type Service = { readonly keyId: string; readonly limitPerSecond: number | null }

/** One attempt to authenticate. */
export type Attempt = {
  /** Counts the attempt a second time. */
  failed(): void
}

/** Who a limit may be adapted for. */
export type AdaptedKind = 'user' | 'key' | 'address'

/**
 * How limits are adapted to the behaviour of a principal: a factor from 0 to 1 on its limits. 1: the limits of the policy. 0: its
 * requests are refused until the factor expires.
 */
export type Adaptation = {
  factorOf(kind: AdaptedKind, id: string): number
  /** In how long the factor expires. */
  expiresInMs(kind: AdaptedKind, id: string): number
}

export const noAdaptation: Adaptation = { factorOf: () => 1, expiresInMs: () => 0 }

export type LimitCounts = Readonly<Record<Budget, { admitted: number; refused: number }>>

export const budgetNames: readonly Budget[] = [...planBudgetNames, ...openBudgetNames, 'service_key']

const windowMs = windowSeconds * 1_000
const keyWindowMs = 1_000
/** A key that stays limited is logged once in this time. */
const logEveryMs = 60_000
const noAttempt: Attempt = { failed: () => {} }

/** What follows from an outcome: counts, a log entry, the fields of the answer, and the refusal. */
const createConclusions = ({ mode, clock, log }: { mode: LimitMode; clock: Clock; log: Log }) => {
  const counts = Object.fromEntries(budgetNames.map((name) => [name, { admitted: 0, refused: 0 }])) as LimitCounts
  /** The fields while half of a budget or more is left, by budget and limit. */
  const usualFields = new Map<string, Map<number, RateLimitFields>>(budgetNames.map((name) => [name, new Map()]))
  const logged = createTtlMap<true>({ clock, ttlMs: logEveryMs, maxEntries: 10_000, jitter: 0 })

  const fieldsOf = (demand: Demand): RateLimitFields => {
    const { budget, limit } = demand
    const known = usualFields.get(budget)
    const found = known?.get(limit)
    if (found !== undefined) return found
    const made = { policy: policyItem(demand), state: undefined }
    if (known !== undefined && known.size < 1_000) known.set(limit, made)
    return made
  }

  const exceeded = ({ budget, limit, windowMs: ms, id }: Demand, retryAfterMs: number): Fault => {
    const seconds = Math.max(1, Math.ceil(retryAfterMs / 1_000))
    return new Fault('limit.exceeded', {
      extensions: {
        budget,
        limit,
        window_seconds: ms / 1_000,
        retry_after_seconds: seconds,
        'violated-policies': [budget],
      },
      headers: { 'retry-after': String(seconds) },
      detail: { budget, key: id },
    })
  }

  /** Logs a limited key once a minute, for operators. */
  const report = ({ budget, id, limit }: Demand) => {
    const name = `${budget}|${id}`
    if (logged.get(name).kind === 'hit') return
    logged.set(name, true)
    const entry = { event: 'limit.exceeded', budget, key: id, limit, mode }
    log.info(entry, mode === 'monitor' ? 'a budget is used up; nothing is refused' : 'a budget is used up')
  }

  /** Counts the outcome, sets the RateLimit fields of the answer, and throws where the demand is refused. */
  const conclude = (context: Context, demand: Demand, outcome: Outcome): void => {
    const budget = demand.budget as Budget
    const isRefused = !outcome.admitted
    counts[budget][isRefused ? 'refused' : 'admitted'] += 1
    if (context !== undefined) {
      const fields = fieldsOf(demand)
      const hasLittle = isRefused || outcome.remaining * 2 < demand.limit
      context.rateLimit = hasLittle
        ? { policy: fields.policy, state: stateItem(budget, outcome.remaining, outcome.retryAfterMs) }
        : fields
    }
    if (!isRefused) return
    report(demand)
    if (mode === 'on') throw exceeded(demand, outcome.retryAfterMs)
  }

  return { counts, conclude }
}

/** Adapts demands to the factors of their principals. */
const createAdapting = (
  adaptation: Adaptation,
  conclude: ReturnType<typeof createConclusions>['conclude'],
  openDemand: (budget: OpenBudget, id: string) => Demand,
) => {
  /**
   * The demand with the limit of its principal, one unit at least. Throws `limit.exceeded` where the principal is refused
   * altogether, until its factor expires.
   */
  const adapted = (context: Context, kind: AdaptedKind, id: string, demand: Demand): Demand => {
    const factor = adaptation.factorOf(kind, id)
    if (factor === 1) return demand
    const limit = Math.floor(demand.limit * factor)
    if (factor === 0) {
      const retryAfterMs = adaptation.expiresInMs(kind, id)
      conclude(context, { ...demand, limit }, { admitted: false, remaining: 0, retryAfterMs })
    }
    const least = Math.max(1, limit)
    return { ...demand, limit: least, cost: Math.min(demand.cost, least) }
  }

  /**
   * Devices that no account knows share one budget while an address is under suspicion: what one account has from there. So an
   * attacker behind the address of an office is slowed down, and people who have signed in from there before are not.
   */
  const demandOfUnknownDevices = (context: Context, address: string): Demand | undefined => {
    if (adaptation.factorOf('address', address) === 1) return undefined
    return adapted(context, 'address', address, openDemand('auth_account_and_address', `unknown devices@${address}`))
  }

  return { adapted, demandOfUnknownDevices }
}

/**
 * The limits of requests, by budget. Throws `limit.exceeded`, which names the budget.
 *
 * A request counts on one budget: a person's own, which is `api` unless the route has another one; that of the service key,
 * where it has a limit; or, without a credential, that of the address. The answer says so in its RateLimit fields.
 *
 * `monitor` counts and logs what would be refused, and refuses nothing. `off` counts nothing.
 */
export const createLimits = ({
  budgets,
  policy,
  mode,
  clock,
  log,
  adaptation = noAdaptation,
}: {
  budgets: Budgets
  policy: Policy
  mode: LimitMode
  clock: Clock
  log: Log
  adaptation?: Adaptation | undefined
}) => {
  const isOff = mode === 'off'
  const { counts, conclude } = createConclusions({ mode, clock, log })

  const concludeLater = async (context: Context, demand: Demand): Promise<void> =>
    conclude(context, demand, await budgets.take([demand]))

  /** By memory where it can be, else by the exchange. */
  const take = (context: Context, demand: Demand): MaybePromise<void> => {
    const outcome = budgets.takeLocally(demand)
    if (outcome !== undefined) return conclude(context, demand, outcome)
    return concludeLater(context, demand)
  }

  const openDemand = (budget: OpenBudget, id: string, cost = 1): Demand => ({
    budget,
    id,
    limit: policy.budgets[budget],
    windowMs,
    cost: Math.min(cost, policy.budgets[budget]),
  })

  const { adapted, demandOfUnknownDevices } = createAdapting(adaptation, conclude, openDemand)

  return {
    mode,

    /** Counts a request of a person. `api` is counted in memory and reported in the background; others are exact. */
    person: (context: Context, who: Person, budget: PlanBudget, cost: number): MaybePromise<void> => {
      if (isOff) return undefined
      const limit = budgetOf(policy, budget, who.plan, who.limits)
      const usual = { budget, id: who.userId, limit, windowMs, cost: Math.min(cost, limit) }
      const demand = adapted(context, 'user', who.userId, usual)
      return budget === 'api' ? take(context, demand) : concludeLater(context, demand)
    },

    /** Counts a request of a service. A key without a limit costs nothing. */
    service: (context: Context, who: Service, cost: number): MaybePromise<void> => {
      const limit = who.limitPerSecond
      if (isOff || limit === null) return undefined
      const id = who.keyId
      const usual = { budget: 'service_key', id, limit, windowMs: keyWindowMs, cost: Math.min(cost, limit) }
      return take(context, adapted(context, 'key', id, usual))
    },

    /** Counts a request to an open route, by person or address. One of neither is not limited. */
    anonymous: (context: Context, id: string | undefined): MaybePromise<void> => {
      if (isOff || id === undefined) return undefined
      return concludeLater(context, adapted(context, 'address', id, openDemand('anonymous', id)))
    },

    /** Counts a token, key or link that was not valid as an attempt to authenticate from its address. */
    invalidCredential: (address: string | undefined): void => {
      if (!isOff && address !== undefined) budgets.charge(openDemand('auth_address', address))
    },

    /** Refuses a credential that has to be verified, where attempts to authenticate from its address have used up their budget. */
    unknownCredential: (context: Context, address: string | undefined): void => {
      if (isOff || address === undefined) return
      const demand = openDemand('auth_address', address)
      const retryAfterMs = budgets.limitedForMs(demand)
      if (retryAfterMs > 0) conclude(context, demand, { admitted: false, remaining: 0, retryAfterMs })
    },

    /** Counts an attempt to authenticate from an address. */
    authenticationFrom: async (context: Context, address: string | undefined): Promise<void> => {
      if (!isOff && address !== undefined) await concludeLater(context, openDemand('auth_address', address))
    },

    /**
     * Counts an attempt to authenticate to an account from an address, on both budgets of the account at once, or on none where
     * one is used up. `account` is a hash of the name that was given. `failed` counts it once more, for the address too.
     * `isKnown`: from a device or a network that the account knows.
     */
    authenticationTo: async (
      context: Context,
      { account, address, isKnown = true }: { account: string; address: string | undefined; isKnown?: boolean },
    ): Promise<Attempt> => {
      if (isOff) return noAttempt
      const ofUnknown = isKnown || address === undefined ? undefined : demandOfUnknownDevices(context, address)
      const ofAccount = openDemand('auth_account', account)
      const ofBoth = address === undefined ? [] : [openDemand('auth_account_and_address', `${account}@${address}`)]
      const demands = [...(ofUnknown === undefined ? [] : [ofUnknown]), ...ofBoth, ofAccount]
      const decided: Decided = await budgets.take(demands)
      conclude(context, decided.demand, decided)
      const all = address === undefined ? demands : [...demands, openDemand('auth_address', address)]
      return {
        failed: () => {
          for (const demand of all) budgets.charge(demand)
        },
      }
    },

    /**
     * Counts an invitation as an attempt on two accounts at once, or on none where one is used up: the inviting person, and the
     * invited address, of which `invited` is a hash. Only a refusal sets the RateLimit fields: the request also counts on a
     * budget of the person.
     */
    invitation: async (context: Context, { inviter, invited }: { inviter: string; invited: string }): Promise<void> => {
      if (isOff) return
      const demands = [
        openDemand('auth_account', `inviter ${inviter}`),
        openDemand('auth_account', `invited ${invited}`),
      ]
      const decided: Decided = await budgets.take(demands)
      conclude(decided.admitted ? undefined : context, decided.demand, decided)
    },

    counts,
    decisions: budgets.counts,
    keysInMemory: (): number => budgets.size,
    list: (limit: number) => budgets.list(limit),
    /** Resets the count of a key, here and in Redis; false where Redis could not be reached. */
    lift: (budget: string, id: string) => budgets.lift(budget, id),
    forget: budgets.forget,
  }
}

export type Limits = ReturnType<typeof createLimits>
