import type { Requirement, Shape } from './ledger.ts'

/** OWASP ASVS 5.0.0, chapter V6: authentication. */
export const shape: Shape = {
  '6.1': '122',
  '6.2': '111111112222',
  '6.3': '11223333',
  '6.4': '112233',
  '6.5': '22222333',
  '6.6': '2223',
  '6.7': '33',
  '6.8': '2222',
}

export const idOf = (section: string, number: number): string => `${section}.${number}`

export const requirements: readonly Requirement[] = [
  {
    id: '6.1.1',
    level: 1,
    asks: 'The documentation says how guessed passwords are limited, how that is configured, and how nobody is locked out by it',
    tests: [
      'requirements/documentation.test.ts: how guessed passwords are limited, what configures it, and how the owner is not locked out',
    ],
  },
  {
    id: '6.1.2',
    level: 2,
    asks: 'The documentation lists the words of the context that a password may not consist of',
    tests: ['requirements/documentation.test.ts: which words a password may not be made of, and what configures more'],
  },
  {
    id: '6.1.3',
    level: 2,
    asks: 'The documentation lists every way to authenticate, with its controls and its strength',
    tests: ['requirements/surface.test.ts: names every route that answers with tokens, and no other'],
  },
  {
    id: '6.2.1',
    level: 1,
    asks: 'A chosen password has at least 8 characters',
    tests: [
      'http/black-box/accounts.ts: passwords have 8 to 1,024 characters',
      'http/black-box/accounts.ts: a password has 8 characters, however many units each of them has',
    ],
  },
  {
    id: '6.2.2',
    level: 1,
    asks: 'People can change their password',
    tests: [
      'http/black-box/accounts.ts: ends every session at once, this one too, and answers with the tokens of a new one',
    ],
  },
  {
    id: '6.2.3',
    level: 1,
    asks: 'A change of the password needs the current one',
    tests: ['http/black-box/accounts.ts: needs the current password, and a new one that is not common'],
  },
  {
    id: '6.2.4',
    level: 1,
    asks: 'A new password is compared with at least the 3,000 most common ones',
    tests: [
      'http/black-box/accounts.ts: common passwords are refused, without regard to case',
      'http/black-box/accounts.ts: needs the current password, and a new one that is not common',
    ],
  },
  {
    id: '6.2.5',
    level: 1,
    asks: 'A password may be composed of any characters',
    tests: [
      'requirements/passwords.test.ts: a password may be of letters, digits, blanks or signs alone, and of every printable ASCII character',
    ],
  },
  {
    id: '6.2.6',
    level: 1,
    asks: 'Fields for a password mask it',
    tests: ['requirements/pages.test.ts: masks its input'],
  },
  {
    id: '6.2.7',
    level: 1,
    asks: 'Fields for a password allow pasting and password managers',
    tests: ['requirements/pages.test.ts: works with password managers and with pasted text'],
  },
  {
    id: '6.2.8',
    level: 1,
    asks: 'A password is verified as it was received, without cutting it or changing its case',
    tests: ['http/black-box/accounts.ts: a password is compared in NFC, and otherwise byte for byte'],
  },
  {
    id: '6.2.9',
    level: 2,
    asks: 'A password of 64 characters is allowed',
    tests: ['http/black-box/accounts.ts: passwords have 8 to 1,024 characters'],
  },
  {
    id: '6.2.10',
    level: 2,
    asks: 'A password stays valid until it is compromised or changed by its owner',
    tests: ['requirements/passwords.test.ts: a password is still valid after five years'],
  },
  {
    id: '6.2.11',
    level: 2,
    asks: 'The documented words of the context are refused as passwords',
    tests: [
      'http/black-box/accounts.ts: and registering refuse a password made of the address or the name of the service',
      'identity/password-words.test.ts: the words of an address are its local part, the parts of that, and the labels of the domain but the last',
    ],
  },
  {
    id: '6.2.12',
    level: 2,
    asks: 'A new password is compared with breached ones',
    tests: [
      'identity/password-rules.test.ts: a breached password is refused, one of a service that does not answer is accepted',
      'http/black-box/accounts.ts: common passwords are refused, without regard to case',
      'platform/breached-passwords.test.ts: the service gets five characters of the hash and is asked for padding',
    ],
  },
  {
    id: '6.3.1',
    level: 1,
    asks: 'Guessing and credential stuffing are limited as the documentation says',
    tests: [
      'http/sign-in-protection.test.ts: an unknown device is refused on every instance, with the right password as with a wrong one',
      'http/sign-in-protection.test.ts: one attempt is verified after the pause, over all instances, and a failure doubles the pause',
      'http/sign-in-protection.test.ts: of 60 wrong passwords at once few more than ten are verified',
      'http/sign-in-protection.test.ts: the owner gets in by the device token, and by the network of a live session, and others stay refused',
      'http/sign-in-protection.test.ts: wrong current passwords pause the change of the password for their session alone',
    ],
  },
  {
    id: '6.3.2',
    level: 1,
    asks: 'There are no default accounts',
    tests: ['requirements/passwords.test.ts: a database that was just migrated has no account'],
  },
  {
    id: '6.3.3',
    level: 2,
    asks: 'Access needs more than one factor; where it does not, the documentation gives the reasons and what stands in for it',
    tests: [
      'http/second-factor.test.ts: once confirmed, lets a sign-in with the password open no session before a code of it',
      'requirements/documentation.test.ts: why a second factor is not required of everybody, and what stands in for it',
      'requirements/second-factor.test.ts: a team may require a second factor: who has none has no access through it, at once, until one is set up',
    ],
  },
  {
    id: '6.3.4',
    level: 2,
    asks: 'There is no undocumented way to authenticate, and all ways are held to the same controls',
    tests: [
      'requirements/surface.test.ts: names every route that answers with tokens, and no other',
      'requirements/second-factor.test.ts: a new password from a mail does not skip the second factor',
      'requirements/second-factor.test.ts: a sign-in with a provider does not skip the second factor',
    ],
  },
  {
    id: '6.3.5',
    level: 3,
    asks: 'People have notice of suspicious attempts to authenticate',
    tests: [
      'http/sign-in-protection.test.ts: the owner has notice of it, once a day, without a secret',
      'http/sign-in-protection.test.ts: that is new gets the owner notice; a known one does not',
    ],
  },
  {
    id: '6.3.6',
    level: 3,
    asks: 'E-mail is not a factor',
    tests: [
      'http/account-mails.test.ts: sets the password, ends every session, opens none, ends pauses, verifies the address, and the owner gets a mail',
      'requirements/surface.test.ts: names every route that answers with tokens, and no other',
    ],
  },
  {
    id: '6.3.7',
    level: 3,
    asks: 'People have notice of changes of their credentials and of their address',
    tests: [
      'http/account-mails.test.ts: sets the password, ends every session, opens none, ends pauses, verifies the address, and the owner gets a mail',
      'http/account-mails.test.ts: takes effect when the new address confirms it, and both addresses get a mail',
      'http/second-factor.test.ts: stands in for a code once, in any case, with or without hyphens, and the owner gets notice',
      'http/second-factor.test.ts: that is removed is not asked for any more, and its recovery codes end',
      'requirements/second-factor.test.ts: the owner gets a mail of an identity that was linked, and of one that was unlinked',
    ],
  },
  {
    id: '6.3.8',
    level: 3,
    asks: 'Failed sign-ins, registrations and resets do not tell which addresses have an account, by answer or by time',
    tests: [
      'http/black-box/accounts.ts: an unknown address is answered with the bytes and headers of a wrong password',
      'http/sign-in-protection.test.ts: an unknown address pauses as an existing one does, with the same bytes',
    ],
  },
  {
    id: '6.4.1',
    level: 1,
    asks: 'Initial secrets that the service makes are random, short-lived or used once, and never become the password',
    tests: [
      'identity/one-time-tokens.test.ts: of 100 uses at once one succeeds, and the others find the token gone',
      'identity/one-time-tokens.test.ts: once it has expired, at the millisecond',
      'http/account-mails.test.ts: works until the end of its life, and is gone from then on',
      'http/operator-invitations.test.ts: gets another mail, by which the link of the first one is gone',
    ],
  },
  {
    id: '6.4.2',
    level: 1,
    asks: 'There are no password hints and no secret questions',
    tests: ['requirements/surface.test.ts: a hint for a password, or a secret question'],
  },
  {
    id: '6.4.3',
    level: 2,
    asks: 'A forgotten password can be reset safely, and a reset does not skip the second factor',
    tests: [
      'http/account-mails.test.ts: works once, and is gone after that',
      'requirements/second-factor.test.ts: a new password from a mail does not skip the second factor',
    ],
  },
  {
    id: '6.4.4',
    level: 2,
    asks: 'Who loses a second factor is identified as strictly as when it was enrolled',
    tests: [
      'http/second-factor.test.ts: whose owner has lost it gets rid of it by an operator, which ends its sessions and gives notice',
      'http/second-factor.test.ts: stands in for a code once, in any case, with or without hyphens, and the owner gets notice',
    ],
  },
  {
    id: '6.4.5',
    level: 3,
    asks: 'Reminders to renew are sent before a means of authentication expires',
    reason:
      'No means of authentication here expires: passwords, secrets of TOTP, recovery codes and passkeys are valid until they are changed or removed.',
  },
  {
    id: '6.4.6',
    level: 3,
    asks: 'Operators can start a reset of the password, but cannot choose it or learn it',
    tests: [
      'http/operator-invitations.test.ts: is worth nothing, every session ends, and the owner chooses a new one by the mail',
    ],
  },
  {
    id: '6.5.1',
    level: 2,
    asks: 'Recovery codes and codes of TOTP are accepted once',
    tests: [
      'http/second-factor.test.ts: has each code accepted once, and none of a step before it',
      'http/second-factor.test.ts: used by 100 sign-ins at once opens one session',
    ],
  },
  {
    id: '6.5.2',
    level: 2,
    asks: 'Recovery codes of fewer than 112 bits are stored as salted hashes of a password hash function',
    tests: ['requirements/second-factor.test.ts: recovery codes have 120 random bits, and are stored as hashes'],
  },
  {
    id: '6.5.3',
    level: 2,
    asks: 'Recovery codes and secrets of TOTP come from a cryptographic random generator',
    tests: [
      'requirements/second-factor.test.ts: recovery codes have 120 random bits, and are stored as hashes',
      'requirements/second-factor.test.ts: secrets of authenticator apps have 160 random bits',
    ],
  },
  {
    id: '6.5.4',
    level: 2,
    asks: 'Recovery codes have at least 20 bits of entropy',
    tests: ['requirements/second-factor.test.ts: recovery codes have 120 random bits, and are stored as hashes'],
  },
  {
    id: '6.5.5',
    level: 2,
    asks: 'A code of TOTP is valid for its step of 30 seconds, requests by another channel for at most 10 minutes',
    tests: [
      'http/second-factor.test.ts: has codes accepted a step early or late, and no further',
      'http/second-factor.test.ts: ends after five minutes, with a change of the password, and where any bit is changed',
    ],
  },
  {
    id: '6.5.6',
    level: 3,
    asks: 'Any factor can be revoked when it is lost',
    tests: [
      'http/second-factor.test.ts: that is removed is not asked for any more, and its recovery codes end',
      'http/passkeys.test.ts: is renamed and removed by its owner alone',
    ],
  },
  {
    id: '6.5.7',
    level: 3,
    asks: 'A biometric is only used together with something the person has or knows',
    tests: [
      'requirements/surface.test.ts: a measurement of a body: a biometric stays in the authenticator',
      'http/passkeys.test.ts: is refused where anything of it is wrong, with one answer',
    ],
  },
  {
    id: '6.5.8',
    level: 3,
    asks: 'Codes of TOTP are checked against the clock of the service',
    tests: ['http/second-factor.test.ts: has codes accepted a step early or late, and no further'],
  },
  {
    id: '6.6.1',
    level: 2,
    asks: 'Codes by telephone are offered beside stronger ways only, with a warning; at level 3 not at all',
    tests: ['requirements/surface.test.ts: a telephone number, so no code is sent by SMS or voice'],
  },
  {
    id: '6.6.2',
    level: 2,
    asks: 'A code sent by another channel is valid only for the request it was made for',
    tests: [
      'identity/one-time-tokens.test.ts: for another purpose',
      'http/account-mails.test.ts: means nothing with one bit changed, or to the routes of other flows',
    ],
  },
  {
    id: '6.6.3',
    level: 2,
    asks: 'Guesses of a code sent by another channel are limited',
    tests: [
      'http/account-mails.test.ts: gets at most 5 mails of a kind in an hour',
      'identity/one-time-tokens.test.ts: with any one bit changed, and in another spelling of its base64url',
    ],
  },
  {
    id: '6.6.4',
    level: 3,
    asks: 'Push notifications as a factor are limited, so that nobody is worn down by them',
    reason: 'Push notifications are not a factor here: the service sends none, and no route takes the answer to one.',
  },
  {
    id: '6.7.1',
    level: 3,
    asks: 'The certificates that verify assertions of authenticators are protected from changes',
    reason:
      'No certificates are used: attestation of passkeys is not asked for, and the public key of a passkey is a row that only its owner adds, after authenticating again.',
  },
  {
    id: '6.7.2',
    level: 3,
    asks: 'The challenge for an authenticator has at least 64 random bits',
    tests: ['requirements/second-factor.test.ts: challenges for passkeys are random, and no two are the same'],
  },
  {
    id: '6.8.1',
    level: 2,
    asks: 'One identity provider cannot pass for another: an identity is the provider together with its subject',
    tests: [
      'http/identity-provider-refusals.test.ts: not at the callback of another provider, even one of the same issuer',
      'http/identity-providers.test.ts: who changed the address at the provider, even to one of another account, keeps the account',
    ],
  },
  {
    id: '6.8.2',
    level: 2,
    asks: 'Assertions without a valid signature are refused',
    tests: [
      'http/identity-provider-refusals.test.ts: with the algorithm none, with and without a signature',
      'http/identity-provider-refusals.test.ts: signed with HS256, by the client secret or the published key',
      'http/identity-provider-refusals.test.ts: signed with a key that the provider does not publish, under the id of one that it does or under another',
      'http/identity-provider-refusals.test.ts: with one bit of its signature changed, without a signature, without a token',
    ],
  },
  {
    id: '6.8.3',
    level: 2,
    asks: 'SAML assertions are accepted once',
    tests: ['requirements/surface.test.ts: an assertion of SAML'],
  },
  {
    id: '6.8.4',
    level: 2,
    asks: 'What a sign-in at a provider is worth is taken from its token or, where it does not say, as a single factor',
    tests: [
      'requirements/documentation.test.ts: the chapter on identity providers says how strong a sign-in counts where the provider does not say',
      'http/identity-providers.test.ts: which says that this was too long ago: refused',
      'requirements/second-factor.test.ts: a sign-in with a provider does not skip the second factor',
    ],
  },
]
