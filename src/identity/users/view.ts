import type { User } from '../model.ts'
import type { UserRow } from '../store.ts'

/** An account as its owner sees it. */
export const toUser = (row: UserRow): User => ({
  id: row.id,
  email: row.email ?? '',
  display_name: row.display_name,
  role: row.role,
  plan: row.plan,
  status: row.status,
  created_at: row.created_at.toISOString(),
  email_verified: row.email_verified_at !== null,
  second_factor: row.second_factor,
  updated_at: row.updated_at.toISOString(),
})
