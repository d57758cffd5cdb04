import type { SeenPlace } from './delta.ts'
import type { PlaceHistory, PlaceScores } from './places.ts'

/** An access token lasts so long, and so does a stolen one. */
const tokenMs = 900_000
/** A place counts once in this time for the habits of a person. */
const learnEveryMs = 600_000
/** Within it, a session that is used in two countries in turn is used by two. */
const turnsMs = 120_000

type Session = {
  readonly principal: number
  /** The latest place in each country, by when it was last used. */
  places: SeenPlace[]
  learntAtMs: number
  /** When it was used in another country than just before. */
  switches: number[]
}

/** What a session shows when it is used in another country than within the last 15 minutes. */
export type Displaced = {
  readonly principal: number
  readonly isOtherDevice: boolean
  /** Changes of country within two minutes. */
  readonly switches: number
  /** By how much an attacker is likelier than the person, as logarithm. */
  readonly score: number
  readonly atMs: number
}

const maxPlaces = 4

/** Where sessions are used. The sessions used least recently are forgotten. */
export const createSessionPlaces = ({
  scores,
  areNear,
  maxSessions,
}: {
  scores: PlaceScores
  /** Whether people pass from one country to the other within minutes, or networks seem to. */
  areNear: (one: number, other: number) => boolean
  maxSessions: number
}) => {
  const sessions = new Map<number, Session>()

  const sessionOf = (principal: number, place: SeenPlace): Session => {
    const known = sessions.get(place.session)
    if (known !== undefined) {
      sessions.delete(place.session)
      sessions.set(place.session, known)
      return known
    }
    const made: Session = { principal, places: [], learntAtMs: Number.NEGATIVE_INFINITY, switches: [] }
    sessions.set(place.session, made)
    if (sessions.size > maxSessions) sessions.delete(sessions.keys().next().value ?? 0)
    return made
  }

  return {
    add: (principal: number, history: PlaceHistory, place: SeenPlace): Displaced | undefined => {
      const session = sessionOf(principal, place)
      const [last] = session.places
      const isElsewhere = last !== undefined && last.country !== place.country && !areNear(last.country, place.country)
      const isSoon = last !== undefined && place.firstMs - last.lastMs < tokenMs
      if (isElsewhere && isSoon) session.switches.push(place.lastMs)
      session.switches = session.switches.filter((atMs) => place.lastMs - atMs < turnsMs)
      const others = session.places.filter(
        ({ country, lastMs }) =>
          country !== place.country && !areNear(country, place.country) && place.firstMs - lastMs < tokenMs,
      )
      const isKnownPlace = session.places.some(
        ({ country, device }) => country === place.country && device === place.device,
      )
      session.places = [
        { ...place },
        ...session.places.filter(({ country, device }) => country !== place.country || device !== place.device),
      ].slice(0, maxPlaces)
      if (others.length === 0) {
        if (place.lastMs - session.learntAtMs >= learnEveryMs) {
          session.learntAtMs = place.lastMs
          scores.learn(history, place)
        }
        return undefined
      }
      // A place that was judged is judged again only by its turns.
      const score = isKnownPlace ? Number.NEGATIVE_INFINITY : scores.score(history, place)
      if (!isKnownPlace) scores.learn(history, place)
      return {
        principal,
        isOtherDevice: others.every(({ device }) => device !== place.device),
        switches: session.switches.length,
        score,
        atMs: place.lastMs,
      }
    },
    /** Whether the session was used in two countries within the last 15 minutes, so that instances must exchange every use. */
    isContested: (session: number): boolean => (sessions.get(session)?.places.length ?? 0) > 1,
    get size() {
      return sessions.size
    },
  }
}

export type SessionPlaces = ReturnType<typeof createSessionPlaces>
