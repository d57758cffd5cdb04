import { type Plan, plans } from './plans.ts'

/*
 * The policy table: every limit of the service, with its default. The README documents it, and test/limits/policy.test.ts
 * compares the two. Everything here is a constant or a pure function; budgets and quotas are enforced elsewhere.
 */

export type PerPlan = Readonly<Record<Plan, number>>

/** A budget is consumed by requests and refills steadily: this many units in each window. */
export const windowSeconds = 60

/** Budgets of a person, in units per minute by plan. */
const planBudgets = {
  /** Requests of signed-in people to every route without another budget. */
  api: { free: 120, pro: 600, enterprise: 6_000 },
  /** Orders of generations. */
  generation: { free: 5, pro: 25, enterprise: 100 },
  /** Uploads and downloads of media. Bytes by signed link or share link count for the person who made the link. */
  media: { free: 60, pro: 300, enterprise: 1_000 },
} as const satisfies Record<string, PerPlan>

/** Budgets of clients that have not signed in, in units per minute. An IPv6 address counts as its /64 network. */
const openBudgets = {
  /** Attempts to authenticate to one account from one address. A failed attempt counts twice. */
  auth_account_and_address: 10,
  /** Attempts to authenticate to one account, from any address. Invitations by one person, and to one address. */
  auth_account: 30,
  /** Attempts to authenticate from one address, to any account. */
  auth_address: 300,
  /** Other requests without a credential, by address. */
  anonymous: 60,
} as const satisfies Record<string, number>

/** How much one person may hold at once, by plan. */
const planQuotas = {
  stored_bytes: { free: 5_000_000_000, pro: 100_000_000_000, enterprise: 1_000_000_000_000 },
  /** Projects that the person owns. */
  projects: { free: 100, pro: 1_000, enterprise: 10_000 },
  /** Teams that the person owns. */
  teams: { free: 10, pro: 100, enterprise: 1_000 },
  /** Members of each team that the person owns. */
  team_members: { free: 50, pro: 500, enterprise: 5_000 },
  sessions: { free: 20, pro: 50, enterprise: 100 },
  /** Generations that are queued or processing. */
  jobs_under_way: { free: 10, pro: 50, enterprise: 200 },
} as const satisfies Record<string, PerPlan>

/** How many event streams may be open at once on one instance. Few are left: a person and an address may have fewer. */
const streamCaps = {
  session: 16,
  person: 64,
  /** An IPv6 address counts as its /64 network. */
  address: 256,
} as const satisfies Record<string, number>

export type StreamCaps = Readonly<Record<keyof typeof streamCaps, number>>
export type PlanBudget = keyof typeof planBudgets
export type OpenBudget = keyof typeof openBudgets
/** The budget of a service key is its `limit_per_second`. */
export type Budget = PlanBudget | OpenBudget | 'service_key'
export type Quota = keyof typeof planQuotas

const namesOf = <K extends string>(table: Readonly<Record<K, unknown>>) => Object.keys(table) as K[]
export const planBudgetNames = namesOf(planBudgets)
export const openBudgetNames = namesOf(openBudgets)
export const quotaNames = namesOf(planQuotas)
export const streamCapNames = namesOf(streamCaps).map((name) => `streams_${name}`)

export type Policy = {
  readonly budgets: Readonly<Record<PlanBudget, PerPlan> & Record<OpenBudget, number>>
  readonly quotas: Readonly<Record<Quota, PerPlan>>
  readonly streams: StreamCaps
}

export const defaultPolicy: Policy = {
  budgets: { ...planBudgets, ...openBudgets },
  quotas: planQuotas,
  streams: streamCaps,
}

/** Figures that an operator set for one account. Each replaces that of the plan. */
export type AccountLimits = Readonly<Partial<Record<PlanBudget | Quota, number>>>

/** Units per minute of a budget, for a person of this plan. */
export const budgetOf = (
  { budgets }: Policy,
  budget: PlanBudget,
  plan: Plan,
  own: AccountLimits | null | undefined,
): number => own?.[budget] ?? budgets[budget][plan]

/** The quota of a person of this plan. */
export const quotaOf = ({ quotas }: Policy, quota: Quota, plan: Plan, own: AccountLimits | null | undefined): number =>
  own?.[quota] ?? quotas[quota][plan]

/** The largest figure of a budget, in units per minute, and of a quota. */
export const maxBudget = 1_000_000
export const maxQuota = 1_000_000_000_000_000

/** Reads one environment variable: a whole number from 1 to `max`, else `fallback`. */
type ReadFigure = (variable: string, fallback: number, max: number) => number

/** The environment variable of a figure: `LIMIT_API_FREE`, `LIMIT_ANONYMOUS`, `LIMIT_STREAMS_PERSON`, `QUOTA_PROJECTS_PRO`. */
export const variableOf = (kind: 'LIMIT' | 'QUOTA', name: string, plan?: Plan): string =>
  [kind, name, ...(plan === undefined ? [] : [plan])].join('_').toUpperCase()

const readPerPlan = (read: ReadFigure, kind: 'LIMIT' | 'QUOTA', name: string, figures: PerPlan, max: number): PerPlan =>
  Object.fromEntries(plans.map((plan) => [plan, read(variableOf(kind, name, plan), figures[plan], max)])) as Record<
    Plan,
    number
  >

const mapTable = <K extends string, V, R>(table: Readonly<Record<K, V>>, change: (name: K, value: V) => R) =>
  Object.fromEntries(namesOf(table).map((name) => [name, change(name, table[name])])) as Record<K, R>

/** The table with the figures that the environment sets. */
export const readPolicy = (read: ReadFigure): Policy => ({
  budgets: {
    ...mapTable<PlanBudget, PerPlan, PerPlan>(planBudgets, (name, figures) =>
      readPerPlan(read, 'LIMIT', name, figures, maxBudget),
    ),
    ...mapTable<OpenBudget, number, number>(openBudgets, (name, figure) =>
      read(variableOf('LIMIT', name), figure, maxBudget),
    ),
  },
  quotas: mapTable<Quota, PerPlan, PerPlan>(planQuotas, (name, figures) =>
    readPerPlan(read, 'QUOTA', name, figures, maxQuota),
  ),
  streams: mapTable<keyof StreamCaps, number, number>(streamCaps, (name, figure) =>
    read(variableOf('LIMIT', `streams_${name}`), figure, maxBudget),
  ),
})
