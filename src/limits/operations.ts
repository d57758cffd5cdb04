import { audit } from '../audit/audit.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { RecordSecurityEvent } from '../http/security-events.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { Limits } from './limits.ts'
import type { LimitedKeys } from './model.ts'
import type { Budget } from './policy.ts'

const maxListed = 200

/** Limits as operators use them: listing the limited keys, and lifting one. */
export const createLimitOperations = ({
  limits,
  announceLifted,
  record,
}: {
  limits: Pick<Limits, 'list' | 'lift'>
  /** Makes the other instances reset the count of a key. */
  announceLifted: (
    deadline: Deadline,
    lifted: { budget: string; key: string },
    recordIn: (tx: TransactionSql) => void,
  ) => Promise<void>
  record: RecordSecurityEvent
}) => ({
  list: async (): Promise<LimitedKeys> => {
    const found = await limits.list(maxListed)
    return {
      items: found.map(({ budget, id, limit, used, refused, untilMs }) => ({
        budget: budget as Budget,
        key: id,
        limit,
        used,
        refused,
        retry_after_seconds: Math.ceil(untilMs / 1_000),
      })),
    }
  },

  /** Throws `limit.unavailable` where the counts in Redis remain. */
  lift: async (
    context: RequestContext,
    caller: { readonly userId: string },
    { budget, key }: { budget: string; key: string },
    address: string,
  ): Promise<void> => {
    if (!(await limits.lift(budget, key))) throw new Fault('limit.unavailable')
    await announceLifted(context.deadline, { budget, key }, (tx) =>
      audit.record(tx, {
        action: 'limit.lifted',
        actor: caller,
        target: { type: 'limit', id: budget },
        // It may be an address.
        names: { key },
        context,
      }),
    )
    record(context, 'limit.lifted', { address, by: caller.userId, budget, key })
  },
})

export type LimitOperations = ReturnType<typeof createLimitOperations>
