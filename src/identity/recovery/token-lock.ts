import { Fault } from '../../fault.ts'
import type { TransactionSql } from '../../platform/postgres.ts'
import type { OneTimeTokens, TokenSubject } from '../one-time-tokens.ts'
import type { UserRow } from '../store.ts'
import type { TokenPurpose } from './purposes.ts'
import type { RecoveryStore } from './store.ts'

export type Locked = { readonly user: UserRow; readonly email: string; readonly subject: TokenSubject }

/** The token was sent to the address that the account has now. */
export const requireSameAddress = ({ email, subject }: Locked): void => {
  if (subject.data['email'] !== email) throw new Fault('one_time_token.gone')
}

/** Uses a token, and locks its account for no key update before. Throws where the account is not active. */
export const createTokenLock =
  ({ store, tokens }: { store: Pick<RecoveryStore, 'lockAccount'>; tokens: Pick<OneTimeTokens, 'find' | 'use'> }) =>
  async (tx: TransactionSql, purpose: TokenPurpose, token: string): Promise<Locked> => {
    const { userId } = await tokens.find(tx, purpose, token)
    const user = userId === null ? undefined : await store.lockAccount(tx, userId)
    if (user?.status === 'suspended') throw new Fault('identity.account_suspended')
    if (user?.status !== 'active' || user.email === null) throw new Fault('one_time_token.gone')
    const subject = await tokens.use(tx, purpose, token)
    return { user, email: user.email, subject }
  }
