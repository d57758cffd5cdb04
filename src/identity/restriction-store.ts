import type { Mode } from '../access/policy/modes.ts'
import { Fault } from '../fault.ts'
import type { TransactionSql } from '../platform/postgres.ts'

/** What the mode of the service does not permit, checked inside the transaction that would do it. */
export const restrictionStore = {
  /**
   * Throws the fault of a mode in which no account is registered. The mode does not change until the transaction ends. Operators
   * make accounts in other ways.
   */
  requireRegistrations: async (tx: TransactionSql): Promise<void> => {
    const [row] = await tx<{ mode: Mode | null }[]>`select mode_for_registration() as mode`
    const mode = row?.mode ?? 'lockdown'
    if (mode === 'no-register') throw new Fault('mode.no_register')
    if (mode === 'read-only') throw new Fault('mode.read_only')
    if (mode === 'lockdown') throw new Fault('mode.lockdown')
  },

  /** Throws `mode.lockdown` in a lockdown, in which only operators open or renew sessions. */
  requireSessions: async (tx: TransactionSql, role: 'user' | 'admin'): Promise<void> => {
    if (role === 'admin') return
    const { count } = await tx`select from restrictions where mode <> 'lockdown'`
    if (count === 0) throw new Fault('mode.lockdown')
  },
}
