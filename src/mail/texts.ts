/** One mail, as text. `{name}` stands for a parameter; the paragraph `{link}` is the link alone, which HTML shows as `button`. */
export type MailText = {
  readonly subject: string
  readonly paragraphs: readonly string[]
  readonly button?: string | undefined
}

/** The parameters of each template. `product` is the name in MAIL_FROM, which every template has. */
export const mailParameters = {
  verify_email: ['link', 'hours'],
  registration_repeated: [],
  password_reset: ['link', 'minutes'],
  password_changed: ['time'],
  email_change: ['link', 'hours'],
  email_taken: [],
  email_changed: ['time'],
  email_change_undo: ['link', 'hours', 'time'],
  email_restored: ['time'],
  account_invitation: ['link', 'days'],
  invitation: ['link', 'days', 'inviter', 'team', 'role'],
  new_device: ['time', 'address', 'device'],
  sign_in_failures: ['time', 'address', 'failures'],
  factor_changed: ['time', 'change'],
  former_address_notice: ['time', 'change'],
} as const satisfies Record<string, readonly string[]>

export type MailTemplate = keyof typeof mailParameters
export const mailTemplates = Object.keys(mailParameters) as MailTemplate[]
export type MailParameters<T extends MailTemplate> = Readonly<
  Record<(typeof mailParameters)[T][number], string | number>
>
export type MailTexts = Readonly<Record<MailTemplate, MailText>>

const notYou = 'If this was not you, reset your password at once: another person may know it.'
const ignore = 'If you did not ask for this, ignore this mail: nothing changes.'

export const defaultTexts: MailTexts = {
  verify_email: {
    subject: 'Verify your e-mail address',
    paragraphs: [
      'An account at {product} was registered with this e-mail address. Open this link within {hours} hours to show that the address is yours:',
      '{link}',
      'If you did not register, do not open it. To end the use of your address by another person, ask for a new password and choose one.',
    ],
    button: 'Verify the address',
  },
  registration_repeated: {
    subject: 'You already have an account',
    paragraphs: [
      'An account at {product} was to be registered with this e-mail address, which has one already.',
      'If it was you, sign in, or ask for a new password if you have forgotten yours. If it was not, ignore this mail: nothing changes.',
    ],
  },
  password_reset: {
    subject: 'Choose a new password',
    paragraphs: [
      'A new password was asked for the account at {product} with this e-mail address. Open this link within {minutes} minutes to choose one:',
      '{link}',
      ignore,
    ],
    button: 'Choose a new password',
  },
  password_changed: {
    subject: 'Your password was changed',
    paragraphs: ['The password of your account at {product} was changed on {time}.', notYou],
  },
  email_change: {
    subject: 'Confirm your new e-mail address',
    paragraphs: [
      'This address is to become the e-mail address of an account at {product}. Open this link within {hours} hours to confirm it:',
      '{link}',
      ignore,
    ],
    button: 'Confirm the address',
  },
  email_taken: {
    subject: 'Your e-mail address is already in use',
    paragraphs: [
      'This e-mail address was to become that of another account at {product}. It belongs to your account, so nothing was changed.',
      'If it was you, close one of the accounts or choose another address.',
    ],
  },
  email_changed: {
    subject: 'This is your e-mail address now',
    paragraphs: ['Since {time} this is the e-mail address of your account at {product}.'],
  },
  email_change_undo: {
    subject: 'The e-mail address of your account was changed',
    paragraphs: [
      'On {time} the e-mail address of your account at {product} was changed from this one to another.',
      'If this was not you, open this link within {hours} hours. It makes this address that of the account again and ends all its sessions:',
      '{link}',
      'If it was you, ignore this mail.',
    ],
    button: 'Undo the change',
  },
  email_restored: {
    subject: 'The change of your e-mail address was undone',
    paragraphs: [
      'Since {time} this is the e-mail address of your account at {product} again, and all its sessions have ended.',
      'Another person may have had access to your account: ask for a new password before you sign in.',
    ],
  },
  invitation: {
    subject: 'You are invited to a team',
    paragraphs: [
      '{inviter} invites you to {team} at {product}, as {role}. Open this link within {days} days to accept or decline:',
      '{link}',
      'If you do not know who invites you, ignore this mail.',
    ],
    button: 'See the invitation',
  },
  account_invitation: {
    subject: 'Your new account',
    paragraphs: [
      'An account at {product} was made for this e-mail address. Open this link within {days} days to choose its password:',
      '{link}',
      'If you do not want an account, ignore this mail: without a password it cannot be used.',
    ],
    button: 'Choose a password',
  },
  new_device: {
    subject: 'New sign-in to your account',
    paragraphs: [
      'Your account at {product} was used on {time} from a device that it has not been used from before: {device}, at the network address {address}.',
      notYou,
    ],
  },
  sign_in_failures: {
    subject: 'Failed sign-ins to your account',
    paragraphs: [
      '{failures} attempts to sign in to your account at {product} have failed, the last one on {time} from the network address {address}. Further attempts from there have to wait.',
      'None of them got in. Devices on which you have signed in before are not affected.',
    ],
  },
  factor_changed: {
    subject: 'The ways to sign in to your account were changed',
    paragraphs: [
      'On {time} the ways to sign in to your account at {product} were changed: {change}.',
      'If this was not you, reset your password at once: another person may know it. Then sign in and remove each way to sign in that you did not add: a new password leaves it in place.',
    ],
  },
  former_address_notice: {
    subject: 'A change of your former account',
    paragraphs: [
      'This was lately the e-mail address of an account at {product}. On {time} something else of that account changed: {change}.',
      'If this was not you, open the link in the mail about the change of the address. It makes this address that of the account again and ends all its sessions.',
      'If it was you, ignore this mail.',
    ],
  },
}

const placeholder = /\{([a-z_]+)\}/g
const placeholdersIn = (text: string): string[] => [...text.matchAll(placeholder)].map(([, name = '']) => name)

/** The text with its parameters. A name without a value stays as it is. */
export const fillIn = (text: string, values: Readonly<Record<string, string | number>>): string =>
  text.replace(placeholder, (all, name: string) => (Object.hasOwn(values, name) ? String(values[name]) : all))

const isText = (value: unknown): value is string =>
  typeof value === 'string' && value.trim() !== '' && value.length <= 2_000

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const readText = (name: MailTemplate, given: unknown, problems: string[]): MailText => {
  const usual = defaultTexts[name]
  const at = `MAIL_TEXTS.${name}`
  if (!isRecord(given)) {
    problems.push(`${at} must be an object with subject, paragraphs and button`)
    return usual
  }
  const { subject = usual.subject, paragraphs = usual.paragraphs, button = usual.button, ...unknown } = given
  if (Object.keys(unknown).length > 0) problems.push(`${at} must have no members except subject, paragraphs and button`)
  if (!isText(subject) || /[\r\n]/.test(subject)) problems.push(`${at}.subject must be one line of text`)
  if (!Array.isArray(paragraphs) || paragraphs.length === 0 || !paragraphs.every(isText))
    problems.push(`${at}.paragraphs must be a list of texts of at most 2,000 characters`)
  if (button !== undefined && !isText(button)) problems.push(`${at}.button must be text`)
  const own: MailText = {
    subject: String(subject),
    paragraphs: Array.isArray(paragraphs) ? paragraphs.map(String) : [],
    button: button === undefined ? undefined : String(button),
  }
  const known: readonly string[] = ['product', ...mailParameters[name]]
  const used = [own.subject, ...own.paragraphs, own.button ?? ''].flatMap(placeholdersIn)
  const wrong = used.find((each) => !known.includes(each))
  if (wrong !== undefined) problems.push(`${at} must use no parameter except ${known.join(', ')}, not {${wrong}}`)
  if (known.includes('link') && !own.paragraphs.includes('{link}'))
    problems.push(`${at}.paragraphs must have the paragraph {link}`)
  return own
}

/** The texts of a JSON file, each in place of the usual one. Adds each mistake to `problems`. */
export const readTexts = (json: string, problems: string[]): MailTexts => {
  let given: unknown
  try {
    given = JSON.parse(json)
  } catch {
    problems.push('MAIL_TEXTS must name a file of JSON')
    return defaultTexts
  }
  if (!isRecord(given)) {
    problems.push('MAIL_TEXTS must name a file that holds an object of templates')
    return defaultTexts
  }
  const unknown = Object.keys(given).filter((name) => !Object.hasOwn(defaultTexts, name))
  if (unknown.length > 0)
    problems.push(`MAIL_TEXTS must have no templates except ${mailTemplates.join(', ')}, not ${unknown.join(', ')}`)
  const { ...texts } = defaultTexts
  const own = mailTemplates.flatMap((name) =>
    Object.hasOwn(given, name) ? [[name, readText(name, given[name], problems)] as const] : [],
  )
  return { ...texts, ...Object.fromEntries(own) }
}
