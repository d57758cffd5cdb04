import { follow, get, Problem, put, reauthenticate, signIn, signOut } from './api.js'
import { chooseWindow, showAudit, showBlocks, showHealth, showIncidents, showMetrics, showReport } from './figures.js'

const at = (id) => document.getElementById(id)
const listsEveryMs = 10_000
/** Between attempts to follow the stream again. */
const retryMs = 1_500
/** A stream that is silent for so long is lost. */
const silentMs = 6_000

let following
let lists

const show = (isSignedIn) => {
  at('sign-in').hidden = isSignedIn
  at('dashboard').hidden = !isSignedIn
}

const tell = (state, text) => {
  const place = at('connection')
  place.className = `connection ${state}`
  if (place.textContent !== text) place.textContent = text
}

const stop = () => {
  following?.abort()
  following = undefined
  clearInterval(lists)
}

const leave = (reason = '') => {
  stop()
  show(false)
  at('sign-in-problem').textContent = reason
  at('sign-in-form').elements.email.focus()
}

const isOver = (error) => error instanceof Problem && (error.status === 401 || error.status === 403)

const showLists = async () => {
  try {
    const [incidents, audit, blocks, metrics] = await Promise.all([
      get('/security/incidents?status=open&limit=8'),
      get('/security/audit?limit=60'),
      get('/security/blocks?limit=100'),
      get('/performance/metrics'),
    ])
    showIncidents(incidents)
    showAudit(audit)
    showBlocks(blocks)
    showMetrics(metrics)
  } catch (error) {
    if (error instanceof Problem && error.status === 403) leave('This account is no operator.')
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
      if (error instanceof Problem && error.status === 403) return leave('This account is no operator.')
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

let useCode
at('sign-in-form').addEventListener('submit', async (event) => {
  event.preventDefault()
  const form = event.target
  const { email, password, code } = form.elements
  at('sign-in-problem').textContent = ''
  form.querySelector('button').disabled = true
  try {
    if (useCode === undefined) useCode = await signIn(email.value, password.value)
    else {
      await useCode(code.value)
      useCode = undefined
    }
    if (useCode === undefined) {
      form.reset()
      at('code-field').hidden = true
      enter()
    } else {
      at('code-field').hidden = false
      code.focus()
    }
  } catch (error) {
    if (error.code === 'identity.sign_in_expired') useCode = undefined
    at('sign-in-problem').textContent = error instanceof Problem ? error.message : 'The service cannot be reached.'
  } finally {
    form.querySelector('button').disabled = false
  }
})

at('sign-out').addEventListener('click', async () => {
  await signOut()
  leave()
})
document.addEventListener('signed-out', () => leave('The session has ended. Sign in again.'))
at('windows').addEventListener('change', ({ target }) => chooseWindow(target.value))

const dialog = at('mode-dialog')
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
    } else if (isOver(error)) leave('The session has ended. Sign in again.')
    else at('mode-problem').textContent = error instanceof Problem ? error.message : 'The service cannot be reached.'
  } finally {
    at('mode-confirm').disabled = false
  }
})

show(false)
at('sign-in-form').elements.email.focus()
