export type SentEvent = {
  event: string
  id: string
  // biome-ignore lint/suspicious/noExplicitAny: tests look into events of every shape
  data: any
}

const parse = (text: string): SentEvent[] =>
  text.split('\n\n').flatMap((block) => {
    const fields = Object.fromEntries(block.split('\n').map((line) => line.split(/:\s?(.*)/s) as [string, string]))
    const { event, id = '', data } = fields
    return event === undefined || data === undefined ? [] : [{ event, id, data: JSON.parse(data) }]
  })

export type EventClient = {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  readonly events: SentEvent[]
  readonly ended: boolean
  /** Goes away. */
  close(): void
}

/** Opens a stream of server-sent events and reads it as it comes. */
export const openEvents = async (
  url: string,
  { token, lastEventId, headers }: { token?: string; lastEventId?: string; headers?: Record<string, string> } = {},
): Promise<EventClient> => {
  const abort = new AbortController()
  const response = await fetch(url, {
    signal: abort.signal,
    headers: {
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
      ...(lastEventId !== undefined && { 'last-event-id': lastEventId }),
      ...headers,
    },
  })
  let text = ''
  let ended = false
  const read = async () => {
    const decoder = new TextDecoder()
    for await (const chunk of response.body ?? []) text += decoder.decode(chunk, { stream: true })
  }
  read()
    .catch(() => {})
    .finally(() => {
      ended = true
    })
  return {
    status: response.status,
    headers: response.headers,
    get text() {
      return text
    },
    get events() {
      return parse(text)
    },
    get ended() {
      return ended
    },
    close: () => abort.abort(),
  }
}
