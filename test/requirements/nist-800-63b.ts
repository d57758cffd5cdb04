import type { Requirement, Shape } from './ledger.ts'

/**
 * NIST SP 800-63B-4 of August 2025: what its normative sections demand ("SHALL") of a service with passwords, one-time passwords,
 * recovery codes, passkeys and sessions. Levels are assurance levels (AAL). An id is a section with a number; in 3.1.1.2 the first
 * nine numbers are those of the standard.
 *
 * Left out is what binds others: organizations (2.4: records, privacy and FIPS validation), makers of authenticators (3.1.*.1,
 * 3.2.10, 3.2.11, 3.2.13), and services with what does not exist here: telephone and push (3.1.3), multi-factor OTP devices
 * (3.1.5), identity proofing, and with it a second address of an account for notices (4.2.2.3, 4.6).
 */
export const shape: Shape = {
  '2.1.3': '1',
  '2.2.1': '2',
  '2.2.2': '22',
  '2.2.3': '2',
  '3.1.1.1': '1',
  '3.1.1.2': '11111111111111111',
  '3.1.2.1': '11',
  '3.1.2.2': '111',
  '3.1.3.1': '1',
  '3.1.4.2': '1111',
  '3.1.6.2': '111',
  '3.2.1': '1',
  '3.2.2': '111',
  '3.2.3': '2',
  '3.2.5': '2',
  '3.2.7': '2',
  '3.2.12': '1',
  '4.1': '11',
  '4.1.2.1': '11',
  '4.2.1': '1111',
  '4.2.2': '12',
  '4.2.3': '1',
  '4.3': '1',
  '4.5': '1',
  '4.6': '11',
  '5.1': '1111111111',
  '5.1.1': '1111',
  '5.2': '11111',
}

export const idOf = (section: string, number: number): string => `${section} (${number})`

export const requirements: readonly Requirement[] = [
  {
    id: '2.1.3 (1)',
    level: 1,
    asks: 'A session has a definite overall life, of 30 days at most',
    tests: [
      'http/refresh.test.ts: ends its session after thirty days of any use, together with the access tokens of its last minutes',
    ],
  },
  {
    id: '2.2.1 (1)',
    level: 2,
    asks: 'A person can authenticate with two factors: a password and something they have, or a passkey that verifies them',
    tests: [
      'http/second-factor.test.ts: once confirmed, lets a sign-in with the password open no session before a code of it',
      'http/passkeys.test.ts: signs its owner in without a password, and its use is recorded',
    ],
  },
  {
    id: '2.2.2 (1)',
    level: 2,
    asks: 'One of the two factors cannot be replayed',
    tests: ['http/second-factor.test.ts: has each code accepted once, and none of a step before it'],
  },
  {
    id: '2.2.2 (2)',
    level: 2,
    asks: 'A factor that resists phishing is offered',
    tests: ['http/passkeys.test.ts: signs its owner in without a password, and its use is recorded'],
  },
  {
    id: '2.2.3 (1)',
    level: 2,
    asks: 'A session has a definite overall life; that it is longer than recommended is explained',
    tests: [
      'http/refresh.test.ts: ends its session after thirty days of any use, together with the access tokens of its last minutes',
    ],
  },
  {
    id: '3.1.1.1 (1)',
    level: 1,
    asks: 'Who chooses a password that is refused must choose another one',
    tests: ['http/black-box/accounts.ts: common passwords are refused, without regard to case'],
  },
  {
    id: '3.1.1.2 (1)',
    level: 1,
    asks: 'A password that authenticates alone has at least 15 characters, one beside a second factor at least 8',
    tests: [
      'identity/password-rules.test.ts: has the least length of the configuration, in code points',
      'requirements/documentation.test.ts: which words a password may not be made of, and what configures more',
    ],
  },
  {
    id: '3.1.1.2 (2)',
    level: 1,
    asks: 'A password may have at least 64 characters',
    tests: ['http/black-box/accounts.ts: passwords have 8 to 1,024 characters'],
  },
  {
    id: '3.1.1.2 (3)',
    level: 1,
    asks: 'All printable ASCII characters and the space are accepted',
    tests: [
      'requirements/passwords.test.ts: a password may be of letters, digits, blanks or signs alone, and of every printable ASCII character',
    ],
  },
  {
    id: '3.1.1.2 (4)',
    level: 1,
    asks: 'Unicode is accepted, and each code point counts as one character',
    tests: ['http/black-box/accounts.ts: a password has 8 characters, however many units each of them has'],
  },
  {
    id: '3.1.1.2 (5)',
    level: 1,
    asks: 'There are no other rules of composition',
    tests: [
      'requirements/passwords.test.ts: a password may be of letters, digits, blanks or signs alone, and of every printable ASCII character',
    ],
  },
  {
    id: '3.1.1.2 (6)',
    level: 1,
    asks: 'Nobody must change a password periodically, but whoever has a compromised one must',
    tests: [
      'requirements/passwords.test.ts: a password is still valid after five years',
      'http/operator-invitations.test.ts: is worth nothing, every session ends, and the owner chooses a new one by the mail',
    ],
  },
  {
    id: '3.1.1.2 (7)',
    level: 1,
    asks: 'There are no hints',
    tests: ['requirements/surface.test.ts: a hint for a password, or a secret question'],
  },
  {
    id: '3.1.1.2 (8)',
    level: 1,
    asks: 'There are no secret questions',
    tests: ['requirements/surface.test.ts: a hint for a password, or a secret question'],
  },
  {
    id: '3.1.1.2 (9)',
    level: 1,
    asks: 'The whole password is asked for and verified',
    tests: ['http/black-box/accounts.ts: a password is compared in NFC, and otherwise byte for byte'],
  },
  {
    id: '3.1.1.2 (10)',
    level: 1,
    asks: 'Passwords are normalized to NFC before they are hashed',
    tests: ['http/black-box/accounts.ts: a password is compared in NFC, and otherwise byte for byte'],
  },
  {
    id: '3.1.1.2 (11)',
    level: 1,
    asks: 'A new password is compared, as a whole, with common, expected and compromised ones',
    tests: [
      'http/black-box/accounts.ts: common passwords are refused, without regard to case',
      'identity/password-rules.test.ts: a breached password is refused, one of a service that does not answer is accepted',
    ],
  },
  {
    id: '3.1.1.2 (12)',
    level: 1,
    asks: 'A refusal gives its reason',
    tests: [
      'requirements/passwords.test.ts: a refused password is answered with the reason and with what to choose instead',
    ],
  },
  {
    id: '3.1.1.2 (13)',
    level: 1,
    asks: 'A refusal helps to choose a strong password',
    tests: [
      'requirements/passwords.test.ts: a refused password is answered with the reason and with what to choose instead',
    ],
  },
  {
    id: '3.1.1.2 (14)',
    level: 1,
    asks: 'Failed attempts on an account are limited',
    tests: ['http/sign-in-protection.test.ts: of 60 wrong passwords at once few more than ten are verified'],
  },
  {
    id: '3.1.1.2 (15)',
    level: 1,
    asks: 'Password managers and autofill work',
    tests: ['requirements/pages.test.ts: works with password managers and with pasted text'],
  },
  {
    id: '3.1.1.2 (16)',
    level: 1,
    asks: 'Passwords are stored salted and hashed by a password hash function, with its parameters',
    tests: [
      'requirements/passwords.test.ts: a password is stored as a salted argon2id hash with its parameters, the same password differently each time',
    ],
  },
  {
    id: '3.1.1.2 (17)',
    level: 1,
    asks: 'Passwords are taken over a protected channel',
    tests: ['http/black-box/headers.ts: at least twelve security headers are on every response'],
  },
  {
    id: '3.1.2.1 (1)',
    level: 1,
    asks: 'Recovery codes are random, and have at least six digits or as much',
    tests: ['requirements/second-factor.test.ts: recovery codes have 120 random bits, and are stored as hashes'],
  },
  {
    id: '3.1.2.1 (2)',
    level: 1,
    asks: 'Recovery codes are handed out in a session that authenticated recently',
    tests: ['http/reauthentication.test.ts: is required of every sensitive change, by people and by operators'],
  },
  {
    id: '3.1.2.2 (1)',
    level: 1,
    asks: 'A recovery code is accepted once',
    tests: [
      'http/second-factor.test.ts: stands in for a code once, in any case, with or without hyphens, and the owner gets notice',
    ],
  },
  {
    id: '3.1.2.2 (2)',
    level: 1,
    asks: 'Recovery codes are stored as hashes, as salted ones below 112 bits',
    tests: ['requirements/second-factor.test.ts: recovery codes have 120 random bits, and are stored as hashes'],
  },
  {
    id: '3.1.2.2 (3)',
    level: 1,
    asks: 'Guesses of recovery codes are limited',
    tests: [
      'http/second-factor.test.ts: are counted before they are verified: of a hundred at once ten are, and then the source pauses',
    ],
  },
  {
    id: '3.1.3.1 (1)',
    level: 1,
    asks: 'E-mail is not a factor',
    tests: [
      'requirements/surface.test.ts: names every route that answers with tokens, and no other',
      'http/account-mails.test.ts: sets the password, ends every session, opens none, ends pauses, verifies the address, and the owner gets a mail',
    ],
  },
  {
    id: '3.1.4.2 (1)',
    level: 1,
    asks: 'Secrets of TOTP are protected where they are stored',
    tests: ['http/second-factor.test.ts: is set up once at a time, and its secret is shown once and stored encrypted'],
  },
  {
    id: '3.1.4.2 (2)',
    level: 1,
    asks: 'Secrets of TOTP have at least 112 random bits',
    tests: ['requirements/second-factor.test.ts: secrets of authenticator apps have 160 random bits'],
  },
  {
    id: '3.1.4.2 (3)',
    level: 1,
    asks: 'A code of TOTP is accepted once',
    tests: ['http/second-factor.test.ts: has each code accepted once, and none of a step before it'],
  },
  {
    id: '3.1.4.2 (4)',
    level: 1,
    asks: 'Guesses of codes of TOTP are limited',
    tests: [
      'http/second-factor.test.ts: are counted before they are verified: of a hundred at once ten are, and then the source pauses',
    ],
  },
  {
    id: '3.1.6.2 (1)',
    level: 1,
    asks: 'Public keys of passkeys are protected from changes',
    tests: [
      'http/passkeys.test.ts: is refused where anything of its creation is wrong',
      'http/passkeys.test.ts: is renamed and removed by its owner alone',
    ],
  },
  {
    id: '3.1.6.2 (2)',
    level: 1,
    asks: 'A challenge has at least 64 random bits and is accepted once',
    tests: [
      'requirements/second-factor.test.ts: challenges for passkeys are random, and no two are the same',
      'http/passkeys.test.ts: opens one session of a challenge: used twice, by 100 requests at once, after five minutes',
    ],
  },
  {
    id: '3.1.6.2 (3)',
    level: 1,
    asks: 'Passkeys sign with approved algorithms',
    tests: [
      'http/passkeys.test.ts: is asked for with what the options say: user verification, a resident key, no known passkey',
      'http/passkeys.test.ts: is refused where anything of its creation is wrong',
    ],
  },
  {
    id: '3.2.1 (1)',
    level: 1,
    asks: 'A factor that was lost can be removed at once',
    tests: [
      'http/second-factor.test.ts: that is removed is not asked for any more, and its recovery codes end',
      'http/passkeys.test.ts: is renamed and removed by its owner alone',
    ],
  },
  {
    id: '3.2.2 (1)',
    level: 1,
    asks: 'Consecutive failures on one account are limited to 100',
    tests: [
      'identity/sign-in-rules.test.ts: nine failures cause no pause; then each doubles it, up to an hour, and the hundredth makes it a day',
      'identity/sign-in-rules.test.ts: a patient attacker makes at most 130 attempts on an account in a month',
    ],
  },
  {
    id: '3.2.2 (2)',
    level: 1,
    asks: 'A success resets the count of what it used',
    tests: ['http/sign-in-protection.test.ts: a success makes failures count anew, for its own source alone'],
  },
  {
    id: '3.2.2 (3)',
    level: 1,
    asks: 'Who has used up the attempts can recover the account',
    tests: [
      'http/account-mails.test.ts: sets the password, ends every session, opens none, ends pauses, verifies the address, and the owner gets a mail',
    ],
  },
  {
    id: '3.2.3 (1)',
    level: 2,
    asks: 'A biometric only unlocks a passkey, and is never the only choice',
    tests: [
      'requirements/surface.test.ts: a measurement of a body: a biometric stays in the authenticator',
      'http/passkeys.test.ts: is refused where anything of it is wrong, with one answer',
    ],
  },
  {
    id: '3.2.5 (1)',
    level: 2,
    asks: 'What a passkey signs is bound to the name of the service',
    tests: [
      'http/passkeys.test.ts: is refused where anything of it is wrong, with one answer',
      'http/passkeys.test.ts: is refused with a challenge for another purpose, or of another service',
    ],
  },
  {
    id: '3.2.7 (1)',
    level: 2,
    asks: 'Recorded messages do not authenticate again',
    tests: [
      'http/passkeys.test.ts: opens one session of a challenge: used twice, by 100 requests at once, after five minutes',
      'http/second-factor.test.ts: has each code accepted once, and none of a step before it',
    ],
  },
  {
    id: '3.2.12 (1)',
    level: 1,
    asks: 'Secrets come from a cryptographic random generator, with at least 112 bits',
    tests: [
      'requirements/second-factor.test.ts: recovery codes have 120 random bits, and are stored as hashes',
      'requirements/second-factor.test.ts: secrets of authenticator apps have 160 random bits',
      'requirements/second-factor.test.ts: challenges for passkeys are random, and no two are the same',
    ],
  },
  {
    id: '4.1 (1)',
    level: 1,
    asks: 'The means of authentication of an account are recorded, with the times at which they were added and used',
    tests: [
      'http/passkeys.test.ts: signs its owner in without a password, and its use is recorded',
      'http/black-box/sessions.ts: the list has the active sessions of the caller, newest first, and marks the current one',
    ],
  },
  {
    id: '4.1 (2)',
    level: 1,
    asks: 'Failures are recorded as the limits need it',
    tests: ['http/sign-in-protection.test.ts: an operator sees the pause and ends it, on every instance'],
  },
  {
    id: '4.1.2.1 (1)',
    level: 1,
    asks: 'A factor is added after authenticating with those that the account has',
    tests: [
      'http/reauthentication.test.ts: is required of every sensitive change, by people and by operators',
      'http/second-factor.test.ts: authenticates again with the password and a factor, and not with one of them alone',
    ],
  },
  {
    id: '4.1.2.1 (2)',
    level: 1,
    asks: 'The owner has notice of a new factor',
    tests: [
      'http/second-factor.test.ts: stands in for a code once, in any case, with or without hyphens, and the owner gets notice',
      'http/second-factor.test.ts: that is removed is not asked for any more, and its recovery codes end',
    ],
  },
  {
    id: '4.2.1 (1)',
    level: 1,
    asks: 'A saved recovery code has at least 64 random bits',
    tests: ['requirements/second-factor.test.ts: recovery codes have 120 random bits, and are stored as hashes'],
  },
  {
    id: '4.2.1 (2)',
    level: 1,
    asks: 'A used recovery code is invalid',
    tests: [
      'http/second-factor.test.ts: stands in for a code once, in any case, with or without hyphens, and the owner gets notice',
    ],
  },
  {
    id: '4.2.1 (3)',
    level: 1,
    asks: 'A recovery code that is sent to an address is valid for 24 hours at most',
    tests: ['http/account-mails.test.ts: works until the end of its life, and is gone from then on'],
  },
  {
    id: '4.2.1 (4)',
    level: 1,
    asks: 'An address is used for recovery once it was confirmed',
    tests: ['http/account-mails.test.ts: takes effect when the new address confirms it, and both addresses get a mail'],
  },
  {
    id: '4.2.2 (1)',
    level: 1,
    asks: 'An account is recovered by a code that its owner was sent',
    tests: [
      'http/account-mails.test.ts: sets the password, ends every session, opens none, ends pauses, verifies the address, and the owner gets a mail',
    ],
  },
  {
    id: '4.2.2 (2)',
    level: 2,
    asks: 'An account with a second factor is recovered by two independent proofs',
    tests: ['requirements/second-factor.test.ts: a new password from a mail does not skip the second factor'],
  },
  {
    id: '4.2.3 (1)',
    level: 1,
    asks: 'The owner has notice of a recovery',
    tests: [
      'http/account-mails.test.ts: sets the password, ends every session, opens none, ends pauses, verifies the address, and the owner gets a mail',
    ],
  },
  {
    id: '4.3 (1)',
    level: 1,
    asks: 'A means of authentication that is compromised is disabled at once',
    tests: [
      'http/second-factor.test.ts: that is removed is not asked for any more, and its recovery codes end',
      'http/operator-invitations.test.ts: is worth nothing, every session ends, and the owner chooses a new one by the mail',
    ],
  },
  {
    id: '4.5 (1)',
    level: 1,
    asks: 'Closing an account invalidates what it authenticated with',
    tests: [
      'http/black-box/accounts.ts: closing an account ends its tokens and password and frees its address at once',
      'http/second-factor.test.ts: that is suspended or closed completes no sign-in, and a closed one keeps no factor',
    ],
  },
  {
    id: '4.6 (1)',
    level: 1,
    asks: 'Notices go to the address of the account, and to a former one as long as it can undo the change',
    tests: [
      'http/account-mails.test.ts: has the former address learn of what else is changed, while it can undo the change',
      'http/second-factor.test.ts: stands in for a code once, in any case, with or without hyphens, and the owner gets notice',
      'http/second-factor.test.ts: that is removed is not asked for any more, and its recovery codes end',
    ],
  },
  {
    id: '4.6 (2)',
    level: 1,
    asks: 'A notice says what to do when it is a surprise',
    tests: [
      'requirements/notices.test.ts: a mail about a change of the account says what to do if it was not its owner',
    ],
  },
  {
    id: '5.1 (1)',
    level: 1,
    asks: 'A session is bound to a secret that the client presents',
    tests: [
      'http/black-box/tokens.ts: every route says whether it needs a token, and refuses without one, or with a spoilt one, if it does',
    ],
  },
  {
    id: '5.1 (2)',
    level: 1,
    asks: 'The secret of a session is made when the person authenticates, and renewed during the session',
    tests: [
      'http/black-box/accounts.ts: registering signs in: 201 with tokens of the documented shape, which must not be cached',
      'http/black-box/sessions.ts: returns a new pair for the same session, and the previous access token stays valid',
    ],
  },
  {
    id: '5.1 (3)',
    level: 1,
    asks: 'The secret of a session is random and has at least 64 bits',
    tests: ['http/black-box/accounts.ts: no two tokens are the same'],
  },
  {
    id: '5.1 (4)',
    level: 1,
    asks: 'Logging out invalidates the secret',
    tests: ['http/black-box/sessions.ts: logging out ends this session at once, and no other'],
  },
  {
    id: '5.1 (5)',
    level: 1,
    asks: 'The secret is refused after the life of its session',
    tests: [
      'http/refresh.test.ts: ends its session after seven days without use, and each use starts the seven days again',
    ],
  },
  {
    id: '5.1 (6)',
    level: 1,
    asks: 'The secret travels over a protected channel only',
    tests: ['http/black-box/headers.ts: at least twelve security headers are on every response'],
  },
  {
    id: '5.1 (7)',
    level: 1,
    asks: 'A session never falls back to an insecure transport',
    tests: [
      'http/black-box/headers.ts: at least twelve security headers are on every response',
      'http/black-box/cookies.ts: is opened by a sign-in that asks for it, whose answer has no token',
    ],
  },
  {
    id: '5.1 (8)',
    level: 1,
    asks: 'Another site cannot make changes in a session',
    tests: [
      'http/black-box/cookies.ts: of a page %s changes and reads as the origin rule says',
      'browser/journey.test.ts: cannot be made to change anything by a form of another site, nor by a sibling of the service',
    ],
  },
  {
    id: '5.1 (9)',
    level: 1,
    asks: 'What remembers a device does not authenticate',
    tests: ['http/sign-in-protection.test.ts: the owner gets in nowhere by the token of another account'],
  },
  {
    id: '5.1 (10)',
    level: 1,
    asks: 'A session is worth no more than the authentication that it began with',
    tests: [
      'http/reauthentication.test.ts: is there after a sign-in, ends after five minutes, and is not prolonged by a refresh',
    ],
  },
  {
    id: '5.1.1 (1)',
    level: 1,
    asks: 'Cookies of sessions are sent over HTTPS only',
    tests: ['http/black-box/cookies.ts: is opened by a sign-in that asks for it, whose answer has no token'],
  },
  {
    id: '5.1.1 (2)',
    level: 1,
    asks: 'Cookies of sessions are for one host',
    tests: ['http/black-box/cookies.ts: is opened by a sign-in that asks for it, whose answer has no token'],
  },
  {
    id: '5.1.1 (3)',
    level: 1,
    asks: 'Scripts cannot read cookies of sessions',
    tests: [
      'http/black-box/cookies.ts: is opened by a sign-in that asks for it, whose answer has no token',
      'browser/journey.test.ts: signs in with cookies that no script can read',
    ],
  },
  {
    id: '5.1.1 (4)',
    level: 1,
    asks: 'Cookies hold no personal data, and their expiry does not end a session in place of the service',
    tests: [
      'http/black-box/cookies.ts: is opened by a sign-in that asks for it, whose answer has no token',
      'http/refresh.test.ts: ends its session after seven days without use, and each use starts the seven days again',
    ],
  },
  {
    id: '5.2 (1)',
    level: 1,
    asks: 'The periods are documented',
    tests: [
      'requirements/documentation.test.ts: how long a session and its access tokens last, as the program has it, and why longer than NIST recommends',
    ],
  },
  {
    id: '5.2 (2)',
    level: 1,
    asks: 'A session ends when one of its periods is over',
    tests: [
      'http/refresh.test.ts: ends its session after seven days without use, and each use starts the seven days again',
      'http/refresh.test.ts: ends its session after thirty days of any use, together with the access tokens of its last minutes',
    ],
  },
  {
    id: '5.2 (3)',
    level: 1,
    asks: 'Activity starts the idle period anew',
    tests: [
      'http/refresh.test.ts: ends its session after seven days without use, and each use starts the seven days again',
    ],
  },
  {
    id: '5.2 (4)',
    level: 1,
    asks: 'Authenticating again starts both periods anew',
    tests: [
      'http/reauthentication.test.ts: is given again by the password, in a new session in place of the old one, whose tokens end',
    ],
  },
  {
    id: '5.2 (5)',
    level: 1,
    asks: 'The service decides whether an authentication at a provider is recent enough',
    tests: ['http/identity-providers.test.ts: which says that this was too long ago: refused'],
  },
]
