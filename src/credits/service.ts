import type { Changes } from '../access/invalidation/committed-change.ts'
import type { Caller } from '../access/principal.ts'
import { audit } from '../audit/audit.ts'
import { Fault } from '../fault.ts'
import type { RequestContext } from '../http/request-context.ts'
import type { Idempotency, Replayable } from '../idempotency/idempotency.ts'
import type { Operators } from '../identity/users/operators.ts'
import { allInOrder } from '../kit/async.ts'
import { toPage } from '../kit/cursor.ts'
import { newId } from '../kit/id.ts'
import type { TransactionSql } from '../platform/postgres.ts'
import type { Balance, Entry, Grant, NewGrant } from './model.ts'
import type { CreditStore, EntryRow } from './store.ts'

const toEntry = (row: EntryRow): Entry => ({
  id: row.id,
  kind: row.kind,
  amount: row.amount,
  balance_after: row.balance_after,
  generation_id: row.generation_id,
  note: row.note,
  created_at: row.created_at.toISOString(),
})

type Dependencies = {
  store: CreditStore
  operators: Pick<Operators, 'requireForShare'>
  changes: Changes
  idempotency: Pick<Idempotency, 'once'>
}

/**
 * Credit balances and the ledger of their changes.
 *
 * Guarantees: a balance is always the sum of the entries of its account, and never negative, even under concurrent
 * spending. A reservation for a generation is either settled or refunded, exactly once. The entries of an account are
 * ordered by id, whichever instances wrote them.
 *
 * Methods with a transaction lock the balance until it ends, so call them late in the transaction.
 */
export const createCredits = ({ store, operators, changes, idempotency }: Dependencies) => ({
  /** Gives an account its first credits. */
  welcome: async (tx: TransactionSql, userId: string, amount: number): Promise<void> => {
    await store.insert(tx, { id: newId(), user_id: userId, kind: 'welcome', amount })
  },

  /** Subtracts the price of a generation. Throws `credits.insufficient` with the missing amount. */
  reserve: async (tx: TransactionSql, userId: string, generationId: string, amount: number): Promise<void> => {
    const requireBalance = async () => {
      const balance = await store.lockBalanceForUpdate(tx, userId)
      if (balance >= amount) return
      throw new Fault('credits.insufficient', { extensions: { missing: amount - balance, balance, price: amount } })
    }
    // Avoids -0.
    const entry = { user_id: userId, kind: 'reserve', amount: 0 - amount, generation_id: generationId } as const
    await allInOrder([requireBalance, () => store.insert(tx, { id: newId(), ...entry })])
  },

  /** Makes a reservation final. False without one, or if it was settled or refunded already. */
  settle: (tx: TransactionSql, generationId: string): Promise<boolean> =>
    store.close(tx, newId(), generationId, 'settle'),

  /** Returns a reservation to the balance. False without one, or if it was settled or refunded already. */
  refund: (tx: TransactionSql, generationId: string): Promise<boolean> =>
    store.close(tx, newId(), generationId, 'refund'),

  getBalance: async (context: RequestContext, caller: Caller): Promise<Balance> => ({
    balance: await store.findBalance(context.deadline, caller.userId),
  }),

  listLedger: async (context: RequestContext, caller: Caller, place: { after: string | null; limit: number }) => {
    const { items, next_cursor } = toPage(await store.list(context.deadline, caller.userId, place), place.limit)
    return { items: items.map(toEntry), next_cursor }
  },

  /**
   * Grants credits. The guard has let in operators only; the role is checked again in the transaction, so a caller who was
   * demoted meanwhile is refused, a replay included. The same idempotency key with the same body grants once.
   */
  grant: (context: RequestContext, caller: Caller, input: NewGrant, key?: string): Promise<Replayable<Grant>> =>
    changes.commitAndInvalidate(context.deadline, async (tx) => {
      const user = await operators.requireForShare(tx, caller, input.user_id)
      const request = { userId: caller.userId, route: 'POST /api/v1/credits/grants', key, body: input }
      return idempotency.once(tx, request, async () => {
        if (user === undefined || user.status === 'deleted') throw new Fault('user.not_found')
        const owned = { ...input, created_by: caller.userId }
        const id = newId()
        audit.record(tx, {
          action: 'credits.granted',
          actor: caller,
          target: { type: 'credits', id },
          userId: input.user_id,
          after: { amount: input.amount },
          context,
        })
        const row = await store.insert(tx, { id, kind: 'grant', ...owned })
        return { status: 201, body: { ...toEntry(row), user_id: input.user_id, created_by: caller.userId } }
      })
    }),
})

export type Credits = ReturnType<typeof createCredits>
