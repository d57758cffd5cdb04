/** The small pages that links in mails lead to where no APP_URL names another one. They work without an application. */

type Page = {
  readonly title: string
  readonly intro: string
  readonly button: string
  readonly done: string
  /** Where the token is sent, below /api/v1. */
  readonly route: string
  readonly field?: 'new_password'
}

export const recoveryPages = {
  'verify-email': {
    title: 'Verify your e-mail address',
    intro: 'Press the button to show that this e-mail address is yours.',
    button: 'Verify the address',
    done: 'The address is verified. You can close this page and sign in.',
    route: '/auth/verify-email/confirm',
  },
  'reset-password': {
    title: 'Choose a new password',
    intro: 'Choose a new password for your account. All its sessions will end.',
    button: 'Set the password',
    done: 'The password is set. You can close this page and sign in.',
    route: '/auth/password-reset/confirm',
    field: 'new_password',
  },
  'choose-password': {
    title: 'Choose your password',
    intro: 'Choose a password for your new account.',
    button: 'Set the password',
    done: 'The password is set. You can close this page and sign in.',
    route: '/auth/account-invitation/confirm',
    field: 'new_password',
  },
  'confirm-email': {
    title: 'Confirm your new e-mail address',
    intro: 'Press the button to make this e-mail address that of your account.',
    button: 'Confirm the address',
    done: 'This is the e-mail address of your account now. You can close this page.',
    route: '/auth/email/confirm',
  },
  'restore-email': {
    title: 'Undo the change of your e-mail address',
    intro: 'Press the button to make this e-mail address that of your account again. All its sessions will end.',
    button: 'Undo the change',
    done: 'This is the e-mail address of your account again. Ask for a new password before you sign in.',
    route: '/auth/email/undo',
  },
} as const satisfies Record<string, Page>

export type PageName = keyof typeof recoveryPages
export const pageNames = Object.keys(recoveryPages) as PageName[]

const style = `body { font: 16px/1.5 system-ui, sans-serif; max-width: 30em; margin: 3em auto; padding: 0 1em; color-scheme: light dark }
label, input, button { display: block; font: inherit; margin-top: 0.75em; box-sizing: border-box; width: 100%; padding: 0.5em }
label { padding: 0 }
[hidden] { display: none }`

const wrap = (title: string, body: string): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>${title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/account/page.css">
<script src="/account/page.js" defer></script>
</head>
<body>
<main>
<h1>${title}</h1>
${body}
</main>
</body>
</html>
`

const passwordField = `<input type="hidden" name="username" autocomplete="username">
<label>New password <input name="new_password" type="password" autocomplete="new-password" minlength="8" maxlength="1024" required></label>`

export const renderPage = (name: PageName): string => {
  const page: Page = recoveryPages[name]
  return wrap(
    page.title,
    `<p>${page.intro}</p>
<form data-route="/api/v1${page.route}" data-done="${page.done}">
${page.field === undefined ? '' : passwordField}
<button>${page.button}</button>
</form>
<p role="status"></p>
<noscript><p>This page needs JavaScript.</p></noscript>`,
  )
}

export const invitationPage = wrap(
  'Invitation to a team',
  `<p>Sign in with the account that has the invited e-mail address, to accept or decline the invitation.</p>
<form data-invitation>
<label>E-mail address <input name="email" type="email" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<label hidden>Code of your authenticator app, or a recovery code <input name="code" autocomplete="one-time-code"></label>
<button value="accept">Accept</button>
<button value="decline">Decline</button>
</form>
<p role="status"></p>
<noscript><p>This page needs JavaScript.</p></noscript>`,
)

export const pageStyle = style

/** The token is behind `#`, which the browser sends nowhere; only the button sends it. */
export const pageScript = `'use strict'
const token = location.hash.slice(1)
history.replaceState(null, '', location.pathname)
const form = document.querySelector('form')
const status = document.querySelector('[role=status]')
const show = (text) => { status.textContent = text }
const post = async (route, body, accessToken) => {
  const response = await fetch(route, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(accessToken && { authorization: 'Bearer ' + accessToken }) },
    ...(body && { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  const answer = text === '' ? {} : JSON.parse(text)
  if (!response.ok) throw new Error(answer.errors?.[0]?.detail ?? answer.detail ?? 'This did not work; try again.')
  return answer
}
const confirm = async () => {
  const fields = form.new_password ? { new_password: form.new_password.value } : {}
  await post(form.dataset.route, { token, ...fields })
  return form.dataset.done
}
const signIn = async () => {
  const first = await post('/api/v1/auth/login', { email: form.email.value, password: form.password.value })
  if (first.access_token) return first.access_token
  const code = form.code.value.trim()
  form.code.parentElement.hidden = false
  form.code.required = true
  if (code === '') throw new Error('This account has a second factor. Type a code of your app, or a recovery code.')
  const factor = /^[0-9]{6}$/.test(code) ? { code } : { recovery_code: code }
  const second = await post('/api/v1/auth/login/second-factor', { sign_in_token: first.sign_in_token, ...factor })
  return second.access_token
}
const answerInvitation = async (choice) => {
  const access_token = await signIn()
  try {
    await post('/api/v1/teams/invitations/' + choice, { secret: token }, access_token)
  } finally {
    await post('/api/v1/auth/logout', undefined, access_token)
  }
  return choice === 'accept' ? 'You are a member of the team now.' : 'You have declined the invitation.'
}
form.addEventListener('submit', async (event) => {
  event.preventDefault()
  const buttons = [...form.querySelectorAll('button')]
  for (const button of buttons) button.disabled = true
  show('')
  try {
    show('invitation' in form.dataset ? await answerInvitation(event.submitter.value) : await confirm())
    form.hidden = true
  } catch (error) {
    show(error.message)
    for (const button of buttons) button.disabled = false
  }
})
if (token === '') {
  form.hidden = true
  show('Open this page by the link in the mail.')
}
`
