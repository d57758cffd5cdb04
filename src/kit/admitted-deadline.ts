import { type Admission, isRefusable, type Priority } from './admission.ts'
import type { Clock } from './clock.ts'
import { ClockDeadline, type Deadline, type Resource, Waits } from './deadline.ts'

export type Admissions = Readonly<Record<Resource, Admission>>

/** A statement of postgres.js that is not sent yet. Its template is the same object each time, and so names the kind of work. */
type Statement = { readonly strings?: unknown; readonly active?: boolean; cancel?: () => unknown }

/** What the deadlines of all requests share. */
type Scope<R> = {
  readonly clock: Clock
  readonly waits: Waits
  readonly admissions: Admissions
  readonly priorityOf: (request: R) => Priority
  readonly kindOf: (request: R) => string
  /** Throws where no work may be sent now, as while Postgres does not answer. Default: never. */
  readonly requireAvailable?: (() => void) | undefined
}

/**
 * The deadline of a request, whose statements are sent once they are admitted. A class for speed, as `ClockDeadline`: the
 * priority is found only when a statement is about to be sent, so a decision from memory does not pay for it.
 */
class AdmittedDeadline<R> extends ClockDeadline implements Deadline {
  readonly #scope: Scope<R>
  readonly #request: R
  #wasAdmitted = false
  /** Admitted work that further statements are a part of. */
  #open = 0

  constructor(scope: Scope<R>, budgetMs: number, request: R) {
    super(scope.clock, scope.waits, budgetMs)
    this.#scope = scope
    this.#request = request
  }

  override run<T>(work: PromiseLike<T> & Statement): Promise<T> {
    if (work.strings === undefined || this.#open > 0) return super.run(work)
    let sent = false
    // Settles with the statement, which may outlast the deadline: until then it is under way.
    const admitted = this.#scope.admissions.statements.run(
      this.#priority(),
      work.strings,
      this.#leavingTimeMs(),
      async () => {
        this.check()
        this.#scope.requireAvailable?.()
        this.#wasAdmitted = true
        sent = true
        return await work
      },
    )
    const cancel = () => {
      if (sent && work.active !== false) work.cancel?.()
    }
    return super.run(Object.assign(admitted, { cancel }))
  }

  async admit<T>(resource: Resource, kind: string | undefined, work: () => Promise<T>): Promise<T> {
    if (this.#open > 0) return work()
    return this.#scope.admissions[resource].run(
      this.#priority(),
      kind ?? this.#scope.kindOf(this.#request),
      this.#leavingTimeMs(),
      async () => {
        this.check()
        this.#scope.requireAvailable?.()
        this.#wasAdmitted = true
        this.#open += 1
        try {
          return await work()
        } finally {
          this.#open -= 1
        }
      },
    )
  }

  maxWaitMs(): number {
    return isRefusable(this.#priority()) ? this.#leavingTimeMs() : this.remainingMs()
  }

  /** Leaves as much time for the work as for its wait. */
  #leavingTimeMs(): number {
    return this.remainingMs() / 2
  }

  #priority(): Priority {
    const priority = this.#scope.priorityOf(this.#request)
    return this.#wasAdmitted && priority !== 'revocation' ? 'continuation' : priority
  }
}

/** Starts deadlines of requests, whose work is admitted with the priority of the request. */
export const createAdmittedDeadlines = <R>(
  scope: Omit<Scope<R>, 'waits'>,
): ((budgetMs: number, request: R) => Deadline) => {
  const shared = { ...scope, waits: new Waits() }
  return (budgetMs, request) => new AdmittedDeadline(shared, budgetMs, request)
}
