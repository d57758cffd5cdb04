import process from 'node:process'
import { seedPassword as password } from './large-world.ts'

const base = process.env['VELRO_URL'] ?? 'http://localhost:3000'

type Json = { readonly [name: string]: unknown }
type Person = { readonly email: string; readonly name: string; readonly token: string }
type Page = { readonly items: readonly Json[] }

export class SeedFailed extends Error {
  override readonly name = 'SeedFailed'
}

const send = async (method: string, route: string, token?: string, body?: Json): Promise<Response> => {
  const headers = {
    ...(token !== undefined && { authorization: `Bearer ${token}` }),
    ...(body !== undefined && { 'content-type': 'application/json' }),
  }
  return fetch(`${base}/api/v1${route}`, {
    method,
    headers,
    ...(body !== undefined && { body: JSON.stringify(body) }),
  }).catch((cause: unknown) => {
    throw new SeedFailed(`${base} cannot be reached. Start the service first, or set VELRO_URL.`, { cause })
  })
}

/** The JSON of a successful response; anything else ends the script with the problem's code. */
const call = async (method: string, route: string, token?: string, body?: Json): Promise<Json> => {
  const response = await send(method, route, token, body)
  const answer = response.status === 204 ? {} : ((await response.json()) as Json)
  if (!response.ok) throw new SeedFailed(`${method} ${route} answered ${response.status} ${answer['code']}`)
  return answer
}

const idOf = (resource: Json): string => String(resource['id'])

/** The caller's own resource with that name, created if it does not exist. */
const ensure = async (route: string, person: Person, key: string, fields: Json): Promise<string> => {
  const { items } = (await call('GET', `${route}?limit=100`, person.token)) as Page
  const existing = items.find((item) => item[key] === fields[key])
  return idOf(existing ?? (await call('POST', route, person.token, fields)))
}

const signIn = async (name: string): Promise<Person> => {
  const email = `${name.toLowerCase()}@example.com`
  const registered = await send('POST', '/auth/register', undefined, { email, password, display_name: name })
  const { access_token } = registered.ok
    ? ((await registered.json()) as Json)
    : await call('POST', '/auth/login', undefined, { email, password })
  return { email, name, token: String(access_token) }
}

/** Invites and accepts; a person who is a member already keeps the role. */
const join = async (team: string, inviter: Person, person: Person, role: string): Promise<void> => {
  const { items } = (await call('GET', `/teams/${team}/members?limit=100`, inviter.token)) as Page
  if (items.some((member) => member['display_name'] === person.name)) return
  const invitation = await call('POST', `/teams/${team}/invitations`, inviter.token, { email: person.email, role })
  await call('POST', '/teams/invitations/accept', person.token, { secret: invitation['secret'] })
}

const seed = async () => {
  const [ada, bob, cyd, dee, eve] = (await Promise.all(['Ada', 'Bob', 'Cyd', 'Dee', 'Eve'].map(signIn))) as [
    Person,
    Person,
    Person,
    Person,
    Person,
  ]
  const team = await ensure('/teams', ada, 'name', { name: 'Lighthouse Studio' })
  for (const [person, role] of [
    [bob, 'admin'],
    [cyd, 'editor'],
    [dee, 'viewer'],
  ] as const) {
    await join(team, ada, person, role)
  }

  const shared = await ensure('/projects', ada, 'name', { name: 'Lighthouses', visibility: 'team-only' })
  const open = await ensure('/projects', bob, 'name', { name: 'Postcards', visibility: 'public' })
  const closed = await ensure('/projects', eve, 'name', { name: 'Sketchbook', visibility: 'private' })
  const granted = await send('POST', `/projects/${shared}/teams`, ada.token, { team_id: team, access_level: 'write' })
  if (!granted.ok && granted.status !== 409) throw new SeedFailed(`the grant answered ${granted.status}`)

  const generate = (person: Person, project_id: string, title: string, rest: Json = {}) =>
    ensure('/generations', person, 'title', {
      project_id,
      title,
      model: 'local/procedural',
      prompt: title.toLowerCase(),
      ...rest,
    })
  const dusk = await generate(ada, shared, 'A lighthouse at dusk')
  const storm = await generate(cyd, shared, 'The same lighthouse in a storm', { parent_id: dusk, intent: 'iterate' })
  await generate(bob, open, 'Greetings from the coast', { parent_id: storm, intent: 'fork' })
  await generate(eve, closed, 'A study of waves')

  return { people: [ada, bob, cyd, dee, eve], projects: { shared, open, closed } }
}

/**
 * Fills a running service with a small world through its public API: people, a team, projects in all three visibilities,
 * and generations with a lineage. Names and structure are the same every time; ids are not.
 *
 * Idempotent: what exists already is left as it is, so a second run changes nothing. Costs a few seconds, most of it
 * password hashing and rendering. `VELRO_URL` names the service (default http://localhost:3000).
 * Returns how to sign in.
 */
export const seedSmallWorld = async (): Promise<string> => {
  const { people, projects } = await seed()
  return `The small world is at ${base}. Everybody's password is "${password}".

  ${people[0]?.email}  owner of the team Lighthouse Studio and of the project Lighthouses
  ${people[1]?.email}  admin of the team, owner of the public project Postcards
  ${people[2]?.email}  editor of the team
  ${people[3]?.email}  viewer of the team
  ${people[4]?.email}  no team, owner of the private project Sketchbook

  Lighthouses (team-only)  ${projects.shared}
  Postcards (public)       ${projects.open}
  Sketchbook (private)     ${projects.closed}

Sign in:
  curl -s ${base}/api/v1/auth/login -H 'content-type: application/json' \\
    -d '{"email":"${people[0]?.email}","password":"${password}"}'`
}
