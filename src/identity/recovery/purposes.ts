const minuteMs = 60_000
const hourMs = 60 * minuteMs

/** How long the token of each flow can be used. */
export const tokenLife = {
  verify_email: 24 * hourMs,
  password_reset: 15 * minuteMs,
  email_change: 24 * hourMs,
  email_undo: 72 * hourMs,
  account_invitation: 168 * hourMs,
} as const

export type TokenPurpose = keyof typeof tokenLife
