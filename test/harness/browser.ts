type Cookie = { readonly name: string; readonly value: string; readonly path: string }

const parseCookie = (line: string): Cookie & { readonly gone: boolean } => {
  const [pair = '', ...attributes] = line.split(';').map((part) => part.trim())
  const at = pair.indexOf('=')
  const find = (name: string) =>
    attributes.find((each) => each.toLowerCase().startsWith(`${name}=`))?.slice(name.length + 1)
  const expires = find('expires')
  const gone = find('max-age') === '0' || (expires !== undefined && Date.parse(expires) <= Date.now())
  return { name: pair.slice(0, at), value: pair.slice(at + 1), path: find('path') ?? '/', gone }
}

const coversPath = (path: string, pathname: string): boolean =>
  path === '/' || pathname === path || pathname.startsWith(path.endsWith('/') ? path : `${path}/`)

export type Browser = {
  /** Follows redirects from `url`, and returns the first address that begins with `until`, or the response of the last page. */
  visit(url: string, until: string): Promise<{ readonly url: string; readonly response: Response | undefined }>
  /** The cookies for an origin, as `Cookie` has them. */
  cookiesOf(origin: string): string
}

/**
 * As much of a browser as redirects need: cookies by host and path. `hosts` says where an origin is really served, such as the
 * public one of an app.
 */
export const createBrowser = (hosts: Readonly<Record<string, string>> = {}): Browser => {
  const jar = new Map<string, Cookie[]>()
  const cookiesFor = ({ origin, pathname }: URL) =>
    (jar.get(origin) ?? [])
      .filter(({ path }) => coversPath(path, pathname))
      .map(({ name, value }) => `${name}=${value}`)
      .join('; ')

  const keep = ({ origin }: URL, response: Response): void => {
    for (const line of response.headers.getSetCookie()) {
      const { gone, ...cookie } = parseCookie(line)
      const others = (jar.get(origin) ?? []).filter(({ name, path }) => name !== cookie.name || path !== cookie.path)
      jar.set(origin, gone ? others : [...others, cookie])
    }
  }

  const fetchOnce = async (url: URL): Promise<Response> => {
    const cookie = cookiesFor(url)
    const served = (hosts[url.origin] ?? url.origin) + url.pathname + url.search
    const response = await fetch(served, { redirect: 'manual', headers: cookie === '' ? {} : { cookie } })
    keep(url, response)
    return response
  }

  return {
    visit: async (start, until) => {
      let url = new URL(start)
      for (let pages = 0; pages < 20; pages += 1) {
        if (url.href.startsWith(until)) return { url: url.href, response: undefined }
        const response = await fetchOnce(url)
        const location = response.headers.get('location')
        if (response.status < 300 || response.status >= 400 || location === null) return { url: url.href, response }
        await response.body?.cancel()
        url = new URL(location, url)
      }
      throw new Error(`More than 20 redirects from ${start}`)
    },
    cookiesOf: (origin) => cookiesFor(new URL(origin)),
  }
}
