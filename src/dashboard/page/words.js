/** Makes an element. A string among the children is text, never markup. */
export const h = (name, properties = {}, ...children) => {
  const element = document.createElement(name)
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === false) continue
    if (key === 'width') element.style.width = value
    else if (key.startsWith('on')) element.addEventListener(key.slice(2), value)
    else element.setAttribute(key, value === true ? '' : value)
  }
  element.append(...children.filter((child) => child !== null && child !== undefined))
  return element
}

const none = '–'

export const ms = (value) => {
  if (value === null || value === undefined) return none
  if (value === 0) return '0 ms'
  if (value < 0.1) return `${Math.max(1, Math.round(value * 1_000))} µs`
  if (value < 10) return `${value.toFixed(2)} ms`
  return value < 1_000 ? `${value.toFixed(value < 100 ? 1 : 0)} ms` : `${(value / 1_000).toFixed(1)} s`
}

export const percent = (share, digits = 1) =>
  share === null || share === undefined ? none : `${(share * 100).toFixed(digits)} %`

export const count = (value) => (value === null || value === undefined ? none : value.toLocaleString('en'))
export const rate = (value) => (value >= 100 ? count(Math.round(value)) : value.toFixed(1))

export const ago = (time) => {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time)) / 1_000))
  if (seconds < 60) return `${seconds} s`
  if (seconds < 3_600) return `${Math.round(seconds / 60)} min`
  return seconds < 172_800 ? `${Math.round(seconds / 3_600)} h` : `${Math.round(seconds / 86_400)} d`
}

export const names = {
  authentication: 'Sign-in and refresh',
  registration: 'Registration',
  authorization: 'Authorization',
  l1: 'Facts from memory (L1)',
  l2: 'Facts from Redis (L2)',
  l3: 'Facts from Postgres (L3)',
  database: 'Statements',
  api: 'All requests',
  hit_rate: 'Decisions without Postgres',
  error_rate: 'Requests that failed',
}
