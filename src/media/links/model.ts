import { closed, oneOf, type Static, t, timestamp } from '../../http/schema-types.ts'
import { variants } from '../model.ts'

/** What a link may be used for; one for GET is also good for HEAD. */
export const linkMethods = ['GET', 'HEAD'] as const
export type LinkMethod = (typeof linkMethods)[number]

const minLifeS = 60
export const maxLifeS = 86_400
export const usualLifeS = 3_600

export const newLink = closed({
  variant: t.Optional(oneOf(variants)),
  method: t.Optional(oneOf(linkMethods)),
  expires_in: t.Optional(
    t.Integer({ minimum: minLifeS, maximum: maxLifeS, description: 'Seconds; 3600 unless given' }),
  ),
})
export type NewLink = Static<typeof newLink>

export const link = closed({
  url: t.String({ description: 'Opens without a token; whoever has it may fetch the bytes' }),
  expires_at: timestamp(),
  variant: oneOf(variants),
  method: oneOf(linkMethods),
})
export type Link = Static<typeof link>
