import type { Access } from '../../access/access.ts'
import type { Caller } from '../../access/principal.ts'
import { Fault, invalidInput } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Clock } from '../../kit/clock.ts'
import type { ContentAccess } from '../model.ts'
import { type MediaService, noVariants } from '../service.ts'
import { type LinkMethod, type NewLink, usualLifeS } from './model.ts'
import type { LinkClaims, LinkTokens } from './token.ts'

/** What a request has of a link. */
export type PresentedLink = {
  readonly mediaId: string
  readonly signature: string
  readonly method: string
  /** The whole of it as it was sent. */
  readonly url: string
}

/** Path and query of a link: the one spelling in which it opens. */
export const linkTarget = (mediaId: string, token: string): string =>
  `/api/v1/media/${mediaId}/content?signature=${token}`

const serves = (allowed: LinkMethod, method: string): boolean => method === allowed || method === 'HEAD'

/**
 * Links that open the bytes of one thing to whoever has them, for a day at most.
 *
 * Promise: a link is good for what its maker may download, while the session it was made in lives, and not a moment
 * longer: both are asked each time, as for the maker itself. Nothing of it is stored, and what is not a link in its one
 * spelling is refused before anything is asked. All refusals are the same.
 */
export const createLinks = ({
  tokens,
  media,
  access,
  clock,
}: {
  tokens: LinkTokens
  media: Pick<MediaService, 'offers'>
  access: Pick<Access, 'enter'>
  clock: Clock
}) => {
  const enter = async ({ deadline }: RequestContext, claims: LinkClaims, mediaId: string): Promise<Caller> => {
    try {
      return await access.enter(claims, deadline, [{ type: 'media', id: mediaId }])
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'identity.not_signed_in') throw error
      throw new Fault('media.link_refused', { cause: error })
    }
  }

  return {
    create: async (
      context: RequestContext,
      caller: Caller,
      mediaId: string,
      { variant = 'original', method = 'GET', expires_in = usualLifeS }: NewLink,
    ) => {
      const { userId, sessionId } = caller
      const visit = { userId, action: 'download', variant, refusal: 'media.not_found' } as const
      if (!(await media.offers(context, mediaId, visit))) throw invalidInput('body', '/variant', noVariants)
      const expiresAtS = Math.floor(clock.now() / 1_000) + expires_in
      const token = tokens.sign(mediaId, { variant, method, expiresAtS, userId, sessionId })
      const expires_at = new Date(expiresAtS * 1_000).toISOString()
      return { target: linkTarget(mediaId, token), expires_at, variant, method }
    },

    open: async (
      context: RequestContext,
      { mediaId, signature, method, url }: PresentedLink,
    ): Promise<ContentAccess> => {
      const claims = url.endsWith(linkTarget(mediaId, signature)) ? tokens.read(mediaId, signature) : undefined
      if (claims === undefined || !serves(claims.method, method)) throw new Fault('media.link_refused')
      const { userId, stale } = await enter(context, claims, mediaId)
      if (stale) throw new Fault('database.unavailable')
      return { userId, action: 'download', variant: claims.variant, refusal: 'media.link_refused' }
    },
  }
}

export type Links = ReturnType<typeof createLinks>
