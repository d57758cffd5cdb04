import type { Page } from 'playwright-core'

/** An answer as the script of a page sees it. */
export type PageAnswer = {
  readonly status: number
  // biome-ignore lint/suspicious/noExplicitAny: tests read responses of every shape
  readonly body: any
}

/** A page of another origin, in which nothing but the scripts of a test runs. */
export const emptyPage = '<!doctype html><html lang="en"><title>A page of another origin</title><body></body></html>'

/** Sends a request from the page, with the cookies of its browser. */
export const callFrom =
  (page: Page, base: string) =>
  (method: string, path: string, body?: unknown): Promise<PageAnswer> =>
    page.evaluate(
      async ([url, sentMethod, json]) => {
        const response = await fetch(url, {
          method: sentMethod,
          credentials: 'include',
          ...(json !== null && { headers: { 'content-type': 'application/json' }, body: json }),
        })
        const text = await response.text()
        return { status: response.status, body: text === '' ? undefined : JSON.parse(text) }
      },
      [base + path, method, body === undefined ? null : JSON.stringify(body)] as const,
    )

/** Follows a stream to its end with EventSource, by the cookies of the browser. Resolves to the states in their order. */
export const followStream = (page: Page, url: string): Promise<string[]> =>
  page.evaluate(
    (from) =>
      new Promise<string[]>((resolve, reject) => {
        const states: string[] = []
        const source = new EventSource(from, { withCredentials: true })
        source.addEventListener('status', ({ data }) => states.push(JSON.parse(data).status))
        source.addEventListener('done', ({ data }) => {
          source.close()
          resolve([...states, JSON.parse(data).status])
        })
        source.onerror = () => {
          if (source.readyState === EventSource.CLOSED) reject(new Error(`The stream ended after ${states.join(', ')}`))
        }
      }),
    url,
  )

/** The width of a picture, as an image of the page shows it. 0: it is not shown. */
export const showPicture = (page: Page, url: string): Promise<number> =>
  page.evaluate(
    (from) =>
      new Promise<number>((resolve) => {
        const image = document.createElement('img')
        image.onload = () => resolve(image.naturalWidth)
        image.onerror = () => resolve(0)
        image.src = from
        document.body.append(image)
      }),
    url,
  )

/** Creates a passkey with the options of the service, as a script of a page does. */
export const createPasskey = (page: Page, options: unknown): Promise<unknown> =>
  page.evaluate(async (json) => {
    const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(json as PublicKeyCredentialCreationOptionsJSON)
    const credential = await navigator.credentials.create({ publicKey })
    return (credential as PublicKeyCredential).toJSON()
  }, options)

/** Signs a challenge of the service with a passkey. */
export const usePasskey = (page: Page, options: unknown): Promise<unknown> =>
  page.evaluate(async (json) => {
    const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(json as PublicKeyCredentialRequestOptionsJSON)
    const credential = await navigator.credentials.get({ publicKey })
    return (credential as PublicKeyCredential).toJSON()
  }, options)

/** All that scripts of a page can read of what its browser keeps. */
export const readStorage = (page: Page): Promise<unknown> =>
  page.evaluate(async () => ({
    cookies: document.cookie,
    local: Object.entries(localStorage),
    session: Object.entries(sessionStorage),
    databases: await indexedDB.databases(),
    caches: await caches.keys(),
  }))

/** Submits a form to the service, as a page of any site can: the browser opens the answer in place of the page. */
export const submitForm = async (
  page: Page,
  action: string,
  { method, enctype, fields }: { method: string; enctype: string; fields: Readonly<Record<string, string>> },
): Promise<void> => {
  const answered = page.waitForNavigation({ waitUntil: 'commit' }).catch(() => undefined)
  await page.evaluate(
    ([to, how, type, values]) => {
      const form = document.createElement('form')
      Object.assign(form, { action: to, method: how, enctype: type })
      for (const [name, value] of Object.entries(values)) {
        const input = document.createElement('input')
        Object.assign(input, { type: 'hidden', name, value })
        form.append(input)
      }
      document.body.append(form)
      form.submit()
    },
    [action, method, enctype, fields] as const,
  )
  await answered
}

/** Sends to each address what a form of each type would send, with the cookies of the browser. The browser keeps the answer from the page. */
export const sendBlindly = (page: Page, urls: readonly string[], types: readonly string[]): Promise<void> =>
  page.evaluate(
    async ([to, contentTypes]) => {
      for (const url of to) {
        for (const type of contentTypes) {
          const body = new Blob(['{"cookies":true}'], { type })
          await fetch(url, { method: 'POST', mode: 'no-cors', credentials: 'include', body }).catch(() => {})
        }
      }
    },
    [urls, types] as const,
  )
