import { Elysia } from 'elysia'
import { contextSlot } from '../../http/elysia-adapter.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Responder } from '../../http/responder.ts'
import { invitationPage, pageNames, pageScript, pageStyle, renderPage } from './pages.ts'

/** Everything is served from here; the page sends the token to our own API alone, and no other page can frame it. */
const pagePolicy =
  "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
  "script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'"

/** The pages that links in mails lead to. A GET changes nothing: it gets the same page with any token or none. */
export const recoveryPageRoutes = (responder: Responder) => {
  const hide = { detail: { hide: true } }
  const routes = new Elysia().decorate(contextSlot)
  const serve = (path: string, body: string, type: string) => {
    routes.get(
      path,
      ({ request, context }: { request: Request; context: RequestContext }) =>
        responder.raw(body, {
          status: 200,
          requestId: context.requestId,
          origin: responder.originOf(request),
          headers: { 'content-type': `${type}; charset=utf-8`, 'content-security-policy': pagePolicy },
        }),
      hide,
    )
  }
  for (const name of pageNames) serve(`/account/${name}`, renderPage(name), 'text/html')
  serve('/account/invitation', invitationPage, 'text/html')
  serve('/account/page.js', pageScript, 'text/javascript')
  serve('/account/page.css', pageStyle, 'text/css')
  return routes
}
