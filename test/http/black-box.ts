import { afterAll, beforeAll, describe } from 'bun:test'
import { accounts } from './black-box/accounts.ts'
import { auditing } from './black-box/auditing.ts'
import { authorization } from './black-box/authorization.ts'
import { authzen } from './black-box/authzen.ts'
import { badInput } from './black-box/bad-input.ts'
import { cookies } from './black-box/cookies.ts'
import { credits } from './black-box/credits.ts'
import { documentation } from './black-box/documentation.ts'
import { createWorld, type Group, type Subject, type World } from './black-box/driver.ts'
import { generations } from './black-box/generations.ts'
import { grants } from './black-box/grants.ts'
import { headers } from './black-box/headers.ts'
import { hiding } from './black-box/hiding.ts'
import { identityProviders } from './black-box/identity-providers.ts'
import { invitedPeople } from './black-box/invited-people.ts'
import { limits } from './black-box/limits.ts'
import { lineage } from './black-box/lineage.ts'
import { links } from './black-box/links.ts'
import { listing } from './black-box/listing.ts'
import { mails } from './black-box/mails.ts'
import { media } from './black-box/media.ts'
import { models } from './black-box/models.ts'
import { operating } from './black-box/operating.ts'
import { plain } from './black-box/plain.ts'
import { projects } from './black-box/projects.ts'
import { protocol } from './black-box/protocol.ts'
import { quotas } from './black-box/quotas.ts'
import { restricting } from './black-box/restricting.ts'
import { secondFactors } from './black-box/second-factors.ts'
import { serviceKeys } from './black-box/service-keys.ts'
import { sessions } from './black-box/sessions.ts'
import { stream } from './black-box/stream.ts'
import { teams } from './black-box/teams.ts'
import { tokens } from './black-box/tokens.ts'
import { uploads } from './black-box/uploads.ts'
import { users } from './black-box/users.ts'
import { webhooks } from './black-box/webhooks.ts'

// `documentation` is last: it compares the responses that the others received with the OpenAPI document. `auditing` compares their
// changes with the audit log.
const groups: readonly Group[] = [
  plain,
  headers,
  accounts,
  sessions,
  cookies,
  mails,
  tokens,
  identityProviders,
  secondFactors,
  projects,
  generations,
  media,
  links,
  uploads,
  stream,
  authorization,
  teams,
  grants,
  lineage,
  listing,
  serviceKeys,
  limits,
  quotas,
  users,
  invitedPeople,
  operating,
  restricting,
  models,
  credits,
  authzen,
  webhooks,
  hiding,
  protocol,
  badInput,
  auditing,
  documentation,
]

/**
 * The guarantees for clients, tested over HTTP alone: the same for every runtime and for a remote server. `start` is called
 * once, before the first test.
 */
export const blackBox = (name: string, start: () => Promise<Subject & { stop?: () => Promise<unknown> }>): void => {
  describe(name, () => {
    let stop: (() => Promise<unknown>) | undefined
    let world: World | undefined
    beforeAll(async () => {
      const subject = await start()
      stop = subject.stop
      world = await createWorld(subject)
    }, 60_000)
    afterAll(async () => {
      await stop?.()
    })
    const get = (): World => {
      if (world === undefined) throw new Error('The server did not start')
      return world
    }
    for (const group of groups) group(get)
  })
}
