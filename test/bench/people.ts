export const checkPath = '/api/v1/authorization/check'
export const batchPath = '/api/v1/authorization/check/batch'
export const explainPath = '/api/v1/authorization/explain'
export const loginPath = '/api/v1/auth/login'
export const mePath = '/api/v1/auth/me'

/** Someone who is signed up and owns a project. */
export type Person = {
  readonly credentials: { readonly email: string; readonly password: string }
  readonly headers: { readonly authorization: string }
  readonly projectId: string
}

const post = async (url: string, body: unknown, headers: Record<string, string> = {}): Promise<unknown> => {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  })
  if (!response.ok) throw new Error(`${url} said ${response.status}: ${await response.text()}`)
  return response.json()
}

export const signUp = async (url: string): Promise<Person> => {
  const credentials = { email: 'ada@example.com', password: 'correct horse battery' }
  const { access_token } = (await post(`${url}/api/v1/auth/register`, credentials)) as { access_token: string }
  const headers = { authorization: `Bearer ${access_token}` }
  const { id } = (await post(`${url}/api/v1/projects`, { name: 'Bench' }, headers)) as { id: string }
  return { credentials, headers, projectId: id }
}

const batch = 200

/**
 * Asks about resources that do not exist, each cached as a fact, until the memory holds that many: no live server has an empty
 * cache.
 */
export const fillMemory = async (url: string, { headers }: Person, facts: number): Promise<void> => {
  for (let asked = 0; asked < facts; asked += batch) {
    const checks = Array.from({ length: batch }, () => ({
      action: 'read',
      resource: { type: 'project', id: crypto.randomUUID() },
    }))
    await post(`${url}${batchPath}`, { checks }, headers)
  }
}

/** The most common request: may the caller write to a project it owns? */
export const ownCheck = ({ headers, projectId }: Person) =>
  ({ method: 'POST', headers, body: { action: 'write', resource: { type: 'project', id: projectId } } }) as const
