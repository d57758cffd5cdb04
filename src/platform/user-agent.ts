import Bowser from 'bowser'

/** The program and the operating system that a User-Agent header names; null where it names none. */
export type UserAgentNames = { readonly browser: string | null; readonly platform: string | null }

/** Names are longer only in headers made to be. */
const maxNameLength = 64

const nameOf = (name: string | undefined): string | null => name?.trim().slice(0, maxNameLength) || null

/**
 * Versions and models are left out: browsers freeze them (Windows 11 says 10, every Android device says K). The names are claims
 * of the client, for people to recognize their devices by.
 */
export const namesOfUserAgent = (userAgent: string): UserAgentNames => {
  if (userAgent.trim() === '') return { browser: null, platform: null }
  const parser = Bowser.getParser(userAgent)
  return { browser: nameOf(parser.getBrowserName()), platform: nameOf(parser.getOSName()) }
}
