/** RFC 5321 §4.5.3.1. */
export const maxEmailLength = 254

/** RFC 1035 §2.3.4. */
const maxLabelLength = 63

/**
 * Characters without a visible shape: spaces, controls, characters that renderers ignore (soft hyphen, joiners, direction
 * marks, variation selectors, fillers), private use, and two blank symbols.
 */
const invisible = /[\p{Z}\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Default_Ignorable_Code_Point}\u2800\u{1d159}]/u

/** ASCII characters that are part of no domain. A URL parser would give some of them a meaning. */
const noDomainCharacter = /[\p{ASCII}--[a-z0-9.\-]]/v

/** Lower case and NFC. Normalized twice, because lower-casing can denormalize. */
const foldCase = (text: string): string => text.normalize('NFC').toLowerCase().normalize('NFC')

/**
 * The A-labels of an internationalized domain (UTS #46), so that its Unicode spelling and its punycode are one. Another
 * domain stays as it is. Undefined for a domain that cannot be converted.
 */
const toAsciiDomain = (domain: string): string | undefined => {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: matches any character outside of ASCII
  const isInternational = /[^\x00-\x7f]/.test(domain) || /(^|\.)xn--/.test(domain)
  if (!isInternational) return domain
  if (noDomainCharacter.test(domain)) return undefined
  try {
    const { hostname } = new URL(`http://${domain}`)
    // A host of digits alone would be read as an IPv4 address, and loses its spelling.
    const labels = hostname.split('.')
    const isDomain =
      labels.length > 1 &&
      labels.every(({ length }) => length > 0 && length <= maxLabelLength) &&
      !/^[0-9]+$/.test(labels.at(-1) ?? '')
    return isDomain ? hostname : undefined
  } catch {
    return undefined
  }
}

/**
 * The canonical form under which an email address is stored and looked up: lower case and NFC, the domain in A-labels.
 * Addresses that differ only in case, normalization or the spelling of an internationalized domain are the same account.
 * Undefined when the address has invisible characters, when its domain cannot be converted, or when the canonical form,
 * which can be longer than the input, exceeds `maxEmailLength`.
 */
export const canonicalEmail = (email: string): string | undefined => {
  const folded = foldCase(email)
  if (invisible.test(folded)) return undefined
  const at = folded.lastIndexOf('@')
  const domain = at < 0 ? folded : toAsciiDomain(folded.slice(at + 1))
  if (domain === undefined) return undefined
  const canonical = folded.slice(0, at + 1) + domain
  return canonical.length <= maxEmailLength ? canonical : undefined
}

/**
 * Under which spellings an account may be stored: the canonical one, and the one that versions before it stored, with the
 * domain as it was typed.
 */
export const storedSpellings = (email: string): string[] => {
  const folded = foldCase(email)
  const canonical = canonicalEmail(email)
  const spellings = folded.length <= maxEmailLength ? [folded] : []
  return canonical === undefined || canonical === folded ? spellings : [canonical, ...spellings]
}

/** What an address must be, for the detail of a refused one. */
export const emailRequirement = `must be an e-mail address of at most ${maxEmailLength} characters, without spaces or invisible characters`
