import {
  closed,
  email,
  id,
  oneOf,
  pageOf,
  pageQuery,
  type Static,
  secretPattern,
  t,
  timestamp,
} from '../../http/schema-types.ts'
import { assignableRole } from '../model.ts'

const statuses = ['pending', 'accepted', 'declined', 'cancelled', 'expired'] as const

export const invitationParams = closed({ team_id: id('Team'), invitation_id: id('Invitation') })

export const newInvitation = closed({ email, role: assignableRole })
export type NewInvitation = Static<typeof newInvitation>

export const invitationQuery = closed({ ...pageQuery, status: t.Optional(oneOf(statuses)) })

/** 32 bytes in base64url. */
const secret = { minLength: 43, maxLength: 43, pattern: secretPattern }

export const invitationSecret = closed({ secret: t.String(secret) })

const fields = {
  id: id('Invitation'),
  team_id: id('Team'),
  email: t.String(),
  role: assignableRole,
  status: oneOf(statuses),
  invited_by: id('User'),
  created_at: timestamp(),
  expires_at: timestamp(),
}

export const invitation = closed(fields)
export type Invitation = Static<typeof invitation>
export const invitationPage = pageOf(invitation)

export const issuedInvitation = closed({
  ...fields,
  secret: t.String({
    ...secret,
    description: 'Secret with which the invited user accepts or declines; returned only here',
  }),
})
export type IssuedInvitation = Static<typeof issuedInvitation>
