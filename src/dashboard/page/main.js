import { follow, get, Problem, put, reauthenticate, signIn, signOut } from './api.js'
import {
  chooseWindow,
  clearFigures,
  showAlerts,
  showAudit,
  showBlocks,
  showHealth,
  showIncidents,
  showMetrics,
  showReport,
} from './figures.js'

const at = (id) => document.getElementById(id)
const listsEveryMs = 10_000
/** Between attempts to follow the stream again. */
const retryMs = 1_500
/** A stream that is silent for so long is lost. */
const silentMs = 6_000

const dialog = at('mode-dialog')
let following
let lists

const show = (isSignedIn) => {
  at('sign-in').hidden = isSignedIn
  at('dashboard').hidden = !isSignedIn
}

const tell = (state, text) => {
  const place = at('connection')
  place.className = `connection ${state}`
  at('figures').classList.toggle('lost', state === 'lost')
  if (place.textContent !== text) place.textContent = text
}

/** Ends the session, and leaves no figure for the next person at this screen. */
const leave = (reason = '') => {
  void signOut()
  following?.abort()
  following = undefined
  clearInterval(lists)
  dialog.close()
  clearFigures()
  show(false)
  askForCode(undefined)
  at('sign-in-problem').textContent = reason
  at('sign-in-form').elements.email.focus()
}

const noOperator = 'This account is no operator.'
const ended = 'The session has ended. Sign in again.'
const wordsOf = (error) => (error instanceof Problem ? error.message : 'The service cannot be reached.')

const showLists = async () => {
  const own = following
  try {
    const [incidents, alerts, audit, blocks, metrics] = await Promise.all([
      get('/security/incidents?status=open&limit=8'),
      get('/performance/alerts?status=open&limit=8'),
      get('/security/audit?limit=60'),
      get('/security/blocks?limit=100'),
      get('/performance/metrics'),
    ])
    // Who has left sees no more of it.
    if (own === undefined || own.signal.aborted) return
    showIncidents(incidents)
    showAlerts(alerts)
    showAudit(audit)
    showBlocks(blocks)
    showMetrics(metrics)
    at('lists-problem').hidden = true
  } catch (error) {
    if (own === undefined || own.signal.aborted) return
    if (error.code === 'access.admins_only') leave(noOperator)
    else at('lists-problem').hidden = false
  }
}

/** Follows the stream, and again when it ends, until `following` is aborted. */
const followFigures = async () => {
  const own = new AbortController()
  following = own
  while (!own.signal.aborted) {
    const attempt = new AbortController()
    own.signal.addEventListener('abort', () => attempt.abort(), { once: true })
    let silence = setTimeout(() => attempt.abort(), silentMs)
    try {
      await follow('/performance/stream', attempt.signal, (event, data) => {
        if (own.signal.aborted) return
        clearTimeout(silence)
        silence = setTimeout(() => attempt.abort(), silentMs)
        if (event === 'report') showReport(data)
        if (event === 'health') {
          showHealth(data)
          const { included } = data.instances
          tell('live', `Live, ${included.length} instance${included.length === 1 ? '' : 's'}`)
        }
      })
    } catch (error) {
      if (own.signal.aborted) return
      if (error.code === 'access.admins_only') return leave(noOperator)
    } finally {
      clearTimeout(silence)
    }
    if (own.signal.aborted) return
    tell('lost', 'Reconnecting…')
    await new Promise((resolve) => setTimeout(resolve, retryMs))
  }
}

const enter = () => {
  show(true)
  tell('', 'Connecting…')
  at('figures').focus()
  void followFigures()
  void showLists()
  lists = setInterval(showLists, listsEveryMs)
}

/** Takes the second factor of a sign-in that asks for one. */
let useCode
const askForCode = (use) => {
  useCode = use
  at('code-field').hidden = use === undefined
  at('sign-in-form').elements.code.value = ''
}

at('sign-in-form').addEventListener('input', ({ target }) => {
  // Another account: the code would be for the one before.
  if (target.name !== 'code') askForCode(undefined)
})
at('sign-in-form').addEventListener('submit', async (event) => {
  event.preventDefault()
  const form = event.target
  const { email, password, code } = form.elements
  at('sign-in-problem').textContent = ''
  form.querySelector('button').disabled = true
  try {
    const use = useCode === undefined ? await signIn(email.value, password.value) : await useCode(code.value)
    askForCode(use)
    if (use === undefined) {
      form.reset()
      enter()
    } else code.focus()
  } catch (error) {
    if (error.code === 'identity.sign_in_expired') askForCode(undefined)
    at('sign-in-problem').textContent = wordsOf(error)
  } finally {
    form.querySelector('button').disabled = false
  }
})

at('sign-out').addEventListener('click', () => leave())
document.addEventListener('signed-out', () => leave(ended))
at('windows').addEventListener('change', ({ target }) => chooseWindow(target.value))

at('mode-button').addEventListener('click', () => {
  const form = at('mode-form')
  form.reset()
  at('mode-problem').textContent = ''
  at('again-field').hidden = true
  at('again-code-field').hidden = true
  const now = at('mode').textContent
  for (const input of form.elements.mode) input.checked = input.value === now
  dialog.showModal()
})
at('mode-cancel').addEventListener('click', () => dialog.close())
at('mode-form').addEventListener('submit', async (event) => {
  event.preventDefault()
  const { mode, reason, expires_in, password, code } = event.target.elements
  at('mode-problem').textContent = ''
  at('mode-confirm').disabled = true
  try {
    if (!at('again-field').hidden) await reauthenticate(password.value, code.value)
    const set = await put('/security/mode', {
      mode: mode.value,
      reason: reason.value,
      expires_in: Number(expires_in.value),
    })
    at('mode').textContent = set.mode
    dialog.close()
    void showLists()
  } catch (error) {
    if (error.code === 'session.reauthentication_required') {
      at('again-field').hidden = false
      password.focus()
    } else if (error.code === 'identity.second_factor_missing') {
      at('again-code-field').hidden = false
      code.focus()
    } else if (error.code === 'access.admins_only') leave(noOperator)
    else if (error.status === 401) leave(ended)
    else at('mode-problem').textContent = wordsOf(error)
  } finally {
    at('mode-confirm').disabled = false
  }
})

show(false)
at('sign-in-form').elements.email.focus()
