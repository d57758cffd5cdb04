/** RFC 5321 §4.5.3.1. */
export const maxEmailLength = 254

/**
 * The canonical form under which an email address is stored and looked up: lower case and NFC. Normalized twice, because
 * lower-casing can denormalize. Addresses that differ only in case or normalization are the same account. Undefined when
 * the canonical form, which can be longer than the input, exceeds `maxEmailLength`.
 */
export const canonicalEmail = (email: string): string | undefined => {
  const canonical = email.normalize('NFC').toLowerCase().normalize('NFC')
  return canonical.length <= maxEmailLength ? canonical : undefined
}
