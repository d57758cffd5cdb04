/** The plans of accounts. Budgets and quotas differ by plan, and the facts of an account name its plan. */
export const plans = ['free', 'pro', 'enterprise'] as const
export type Plan = (typeof plans)[number]
