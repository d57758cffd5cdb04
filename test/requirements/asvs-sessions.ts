import type { Requirement, Shape } from './ledger.ts'

/** OWASP ASVS 5.0.0, chapter V7: sessions. */
export const shape: Shape = { '7.1': '222', '7.2': '1111', '7.3': '22', '7.4': '11222', '7.5': '223', '7.6': '22' }

export const idOf = (section: string, number: number): string => `${section}.${number}`

export const requirements: readonly Requirement[] = [
  {
    id: '7.1.1',
    level: 2,
    asks: 'The documentation gives the idle and the absolute life of a session, and why they differ from NIST SP 800-63B',
    tests: [
      'requirements/documentation.test.ts: how long a session and its access tokens last, as the program has it, and why longer than NIST recommends',
    ],
  },
  {
    id: '7.1.2',
    level: 2,
    asks: 'The documentation says how many sessions an account may have and what happens beyond',
    tests: [
      'requirements/documentation.test.ts: how many sessions an account may have by its plan, and what happens beyond',
      'http/quotas.test.ts: of sessions ends the one that was seen least recently, at exactly as many as may live',
    ],
  },
  {
    id: '7.1.3',
    level: 2,
    asks: 'The documentation says how sessions here and at identity providers depend on each other',
    tests: ['requirements/documentation.test.ts: how sessions here and at identity providers depend on each other'],
  },
  {
    id: '7.2.1',
    level: 1,
    asks: 'Session tokens are verified by the service',
    tests: [
      'http/black-box/tokens.ts: every route says whether it needs a token, and refuses without one, or with a spoilt one, if it does',
    ],
  },
  {
    id: '7.2.2',
    level: 1,
    asks: 'Session tokens are made for each session, not static keys',
    tests: ['http/black-box/accounts.ts: no two tokens are the same'],
  },
  {
    id: '7.2.3',
    level: 1,
    asks: 'Reference tokens are unique, random and of at least 128 bits',
    tests: [
      'http/black-box/accounts.ts: registering signs in: 201 with tokens of the documented shape, which must not be cached',
      'http/black-box/accounts.ts: no two tokens are the same',
    ],
  },
  {
    id: '7.2.4',
    level: 1,
    asks: 'Authenticating, again too, makes a new token and ends the token before it',
    tests: [
      'http/black-box/accounts.ts: ends every session at once, this one too, and answers with the tokens of a new one',
      'http/reauthentication.test.ts: is given again by the password, in a new session in place of the old one, whose tokens end',

      'http/black-box/cookies.ts: ends when its browser signs in again',
    ],
  },
  {
    id: '7.3.1',
    level: 2,
    asks: 'A session that is not used ends',
    tests: [
      'http/refresh.test.ts: ends its session after seven days without use, and each use starts the seven days again',
    ],
  },
  {
    id: '7.3.2',
    level: 2,
    asks: 'A session ends after its absolute life',
    tests: [
      'http/refresh.test.ts: ends its session after thirty days of any use, together with the access tokens of its last minutes',
    ],
  },
  {
    id: '7.4.1',
    level: 1,
    asks: 'A session that was ended or has expired cannot be used',
    tests: [
      'http/black-box/sessions.ts: logging out ends this session at once, and no other',
      'http/black-box/tokens.ts: of a session that ended: while fifty requests use it, none that began after the answer gets through',
      'http/refresh.test.ts: of an ended session is refused and does not count as a reuse',
    ],
  },
  {
    id: '7.4.2',
    level: 1,
    asks: 'Disabling or deleting an account ends its sessions',
    tests: [
      'http/users.test.ts: has its live sessions ended with that reason; ended sessions and those of other users are unchanged',
      'http/users.test.ts: is refused at its next request, although its session was cached',
      'http/black-box/accounts.ts: closing an account ends its tokens and password and frees its address at once',
    ],
  },
  {
    id: '7.4.3',
    level: 2,
    asks: 'The other sessions can be ended with a change of the password or of a factor',
    tests: [
      'http/black-box/accounts.ts: ends every session at once, this one too, and answers with the tokens of a new one',
      'http/black-box/sessions.ts: logging out everywhere ends every session at once',
    ],
  },
  {
    id: '7.4.4',
    level: 2,
    asks: 'Every page that needs a session shows how to log out',
    tests: [
      'requirements/pages.test.ts: no page of the service keeps a session: the one that signs in logs out at once, also after a failure',
    ],
  },
  {
    id: '7.4.5',
    level: 2,
    asks: 'Operators can end the sessions of a person',
    tests: [
      'http/black-box/users.ts: are signed out everywhere at once when an operator ends their sessions, and can sign in again',
    ],
  },
  {
    id: '7.5.1',
    level: 2,
    asks: 'Address, password and factors can be changed only after authenticating again',
    tests: ['http/reauthentication.test.ts: is required of every sensitive change, by people and by operators'],
  },
  {
    id: '7.5.2',
    level: 2,
    asks: 'People see their sessions and can end each after authenticating again',
    tests: [
      'http/black-box/sessions.ts: the list has the active sessions of the caller, newest first, and marks the current one',
      'http/black-box/sessions.ts: a session ends at once, can be ended once, and by its owner only',
      'requirements/sessions.test.ts: a session is ended from another one only after a recent authentication',
    ],
  },
  {
    id: '7.5.3',
    level: 3,
    asks: 'Highly sensitive operations need a further authentication',
    tests: ['http/reauthentication.test.ts: is required of every sensitive change, by people and by operators'],
  },
  {
    id: '7.6.1',
    level: 2,
    asks: 'The life of sessions here and at providers is as documented, and people authenticate again where needed',
    tests: [
      'requirements/documentation.test.ts: how sessions here and at identity providers depend on each other',
      'http/identity-providers.test.ts: which says that this was too long ago: refused',
    ],
  },
  {
    id: '7.6.2',
    level: 2,
    asks: 'A session is created by an action of the person only',
    tests: [
      'requirements/surface.test.ts: has no route that a browser could open without an action of the person: none is a GET',
      'http/identity-provider-refusals.test.ts: not in another browser, and not in one without a cookie',
    ],
  },
]
