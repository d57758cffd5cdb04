const pattern =
  /^(\d{4})-(\d\d)-(\d\d)T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/

const isLeapYear = (year: number) => year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0)

/** 0 for a month that does not exist. */
const daysIn = (year: number, month: number): number =>
  month === 2 && isLeapYear(year) ? 29 : ([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1] ?? 0)

/**
 * Whether a text is a date and time with a zone (RFC 3339) that exists: no 30 February and no leap second, which neither `Date`
 * nor Postgres has. The instant lies in the years 1 to 9999 of UTC, which every reader of the format can write again.
 */
export const isDateTime = (text: string): boolean => {
  const parts = pattern.exec(text)
  if (parts === null) return false
  const [year, month, day] = parts.slice(1, 4).map(Number) as [number, number, number]
  if (day < 1 || day > daysIn(year, month)) return false
  // Only next to the ends of the range can the zone make a difference.
  if (year > 1 && year < 9_999) return true
  const utcYear = new Date(text).getUTCFullYear()
  return utcYear >= 1 && utcYear <= 9_999
}

/** A time for people, in UTC and to the minute: `2026-01-31 14:05 UTC`. */
export const timeText = (ms: number): string => `${new Date(ms).toISOString().slice(0, 16).replace('T', ' ')} UTC`
