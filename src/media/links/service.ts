import type { Access } from '../../access/access.ts'
import type { Caller } from '../../access/principal.ts'
import { Fault, invalidInput } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Clock } from '../../kit/clock.ts'
import type { ContentAccess } from '../model.ts'
import { type MediaService, noSuchVariant } from '../service.ts'
import { defaultTtlS, type LinkMethod, type NewLink } from './model.ts'
import type { LinkClaims, LinkTokens } from './token.ts'

/** A link as a request presents it. */
export type PresentedLink = {
  readonly mediaId: string
  readonly signature: string
  readonly method: string
}

/** Path and query of a link. */
export const linkTarget = (mediaId: string, token: string): string =>
  `/api/v1/media/${mediaId}/content?signature=${token}`

const permits = (allowed: LinkMethod, method: string): boolean => method === allowed || method === 'HEAD'

/**
 * Signed links: any holder can fetch the bytes of one media item, for a day at most.
 *
 * Promise: a link works only while its creator may download the media and the session that created it lives. Both are
 * checked at each use, as they are for the creator's own requests. Nothing is stored. A link with a wrong signature is
 * refused before any read. All refusals are identical. The signature has one spelling; percent-encodings in the URL are
 * decoded before, and parameters that others add are not part of the link.
 */
export const createLinks = ({
  tokens,
  media,
  access,
  clock,
}: {
  tokens: LinkTokens
  media: Pick<MediaService, 'hasVariant'>
  access: Pick<Access, 'authenticate'>
  clock: Clock
}) => {
  const enter = async ({ deadline }: RequestContext, claims: LinkClaims, mediaId: string): Promise<Caller> => {
    try {
      return await access.authenticate(claims, deadline, [{ type: 'media', id: mediaId }])
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
      { variant = 'original', method = 'GET', expires_in = defaultTtlS }: NewLink,
    ) => {
      const { userId, sessionId } = caller
      const access = { userId, action: 'download', variant, refusal: 'media.not_found' } as const
      if (!(await media.hasVariant(context, mediaId, access))) throw invalidInput('body', '/variant', noSuchVariant)
      const expiresAtS = Math.floor(clock.now() / 1_000) + expires_in
      const token = tokens.sign(mediaId, { variant, method, expiresAtS, userId, sessionId })
      const expires_at = new Date(expiresAtS * 1_000).toISOString()
      return { target: linkTarget(mediaId, token), expires_at, variant, method }
    },

    open: async (context: RequestContext, { mediaId, signature, method }: PresentedLink): Promise<ContentAccess> => {
      const claims = tokens.read(mediaId, signature)
      if (claims === undefined || !permits(claims.method, method)) throw new Fault('media.link_refused')
      const { userId, stale } = await enter(context, claims, mediaId)
      if (stale) throw new Fault('database.unavailable')
      return { userId, action: 'download', variant: claims.variant, refusal: 'media.link_refused' }
    },
  }
}

export type Links = ReturnType<typeof createLinks>
