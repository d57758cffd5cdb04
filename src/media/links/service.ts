import type { Access } from '../../access/access.ts'
import type { Caller } from '../../access/principal.ts'
import { Fault, invalidInput } from '../../fault.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Clock } from '../../kit/clock.ts'
import type { ContentAccess, LinkedMedia, Media, Variant } from '../model.ts'
import { type MediaService, noSuchVariant, variantsOf } from '../service.ts'
import { defaultTtlS, type LinkMethod, type NewLink, type NewLinks } from './model.ts'
import type { LinkClaims, LinkTokens } from './token.ts'

/** A link as a request presents it. */
export type PresentedLink = {
  readonly mediaId: string
  readonly signature: string
  readonly method: string
}

/** For how long the links that reads add stay the same; then the next ones take over, while these still work. */
const stableS = 300

/** The expiry of such a link. Sessions change their links at different moments. */
const stableExpiryS = (sessionId: string, nowMs: number): number => {
  const offsetS = Number.parseInt(sessionId.slice(-8), 16) % stableS
  const periodEndS = (Math.floor((nowMs / 1_000 - offsetS) / stableS) + 1) * stableS + offsetS
  return periodEndS + defaultTtlS
}

/** Path and query of a link. */
export const linkTarget = (mediaId: string, token: string): string =>
  `/api/v1/media/${mediaId}/content?signature=${token}`

/** The creator of the link could not sign in now. */
const endsLinks: ReadonlySet<string> = new Set(['identity.not_signed_in', 'access.blocked'])

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
  access: Pick<Access, 'authenticate' | 'findMedia'>
  clock: Clock
}) => {
  const enter = async ({ deadline }: RequestContext, claims: LinkClaims, mediaId: string): Promise<Caller> => {
    try {
      return await access.authenticate(claims, deadline, [{ type: 'media', id: mediaId }])
    } catch (error) {
      if (!(error instanceof Fault) || !endsLinks.has(error.code)) throw error
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

    /**
     * Adds links to the variants that each media has of those that are wanted. The URL of a variant is the same for a session for
     * five minutes. Decides nothing: a link is checked when it is used. Adds none where a service acts, which has no session.
     */
    addTo: (
      media: readonly Media[],
      { userId, sessionId, service }: Caller,
      { variants, base }: { variants: readonly Variant[]; base: string },
    ): LinkedMedia[] => {
      if (variants.length === 0 || service !== undefined) return [...media]
      const expiresAtS = stableExpiryS(sessionId, clock.now())
      const links_expire_at = new Date(expiresAtS * 1_000).toISOString()
      const urlOf = (id: string, variant: Variant) =>
        base + linkTarget(id, tokens.sign(id, { variant, method: 'GET', expiresAtS, userId, sessionId }))
      return media.map((item) => {
        const links: LinkedMedia['links'] = {}
        for (const variant of variants) if (item.variants.includes(variant)) links[variant] = urlOf(item.id, variant)
        return { ...item, links, links_expire_at }
      })
    },

    /**
     * A link for each item, in their order; a refusal where the caller may not download the media or it lacks the variant. One
     * statement at most for all of them.
     */
    createEach: async (
      { deadline }: RequestContext,
      { userId, sessionId }: Caller,
      { links, expires_in = defaultTtlS }: NewLinks,
    ) => {
      const ids = [...new Set(links.map(({ media_id }) => media_id))]
      const found = await access.findMedia(userId, 'download', ids, deadline)
      const factOf = new Map(ids.map((id, at) => [id, found[at]]))
      const expiresAtS = Math.floor(clock.now() / 1_000) + expires_in
      const expires_at = new Date(expiresAtS * 1_000).toISOString()
      return links.map(({ media_id, variant = 'original', method = 'GET' }) => {
        const fact = factOf.get(media_id)
        const refused = { media_id, variant, method, target: null, expires_at: null }
        if (fact === undefined) return { ...refused, refusal: 'media.not_found' as const }
        if (!variantsOf(fact.contentType).includes(variant))
          return { ...refused, refusal: 'variant.not_found' as const }
        const target = linkTarget(media_id, tokens.sign(media_id, { variant, method, expiresAtS, userId, sessionId }))
        return { media_id, variant, method, target, expires_at, refusal: null }
      })
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
