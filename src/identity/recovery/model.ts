import { closed, email, type Static, secretPattern, t } from '../../http/schema-types.ts'
import { password } from '../model.ts'

const token = t.String({
  minLength: 43,
  maxLength: 43,
  pattern: secretPattern,
  description: 'From the link in the mail',
})

export const addressed = closed({ email })
export const confirmation = closed({ token })
export const newPassword = closed({ token, new_password: password })

export const accepted = closed({
  status: t.Literal('accepted', {
    description: 'The same whether or not an account has the address. What follows arrives by mail',
  }),
})
export type Accepted = Static<typeof accepted>
