import type { Sql } from '../platform/postgres.ts'

/** Figures that are older than this are removed. */
const keptS = 60

export type StoredFigures = { readonly instance: string; readonly content: string }

/** Figures of instances that have no Redis in common. */
export const createFiguresStore = (sql: Sql) => ({
  /** Replaces those of the instance, and removes those of instances that are gone. */
  write: (instance: string, content: string) => sql`
    with gone as (
      delete from instance_figures where taken_at < now() - make_interval(secs => ${keptS}) and instance <> ${instance}
    )
    insert into instance_figures (instance, taken_at, content) values (${instance}, now(), ${content})
        on conflict (instance) do update set taken_at = excluded.taken_at, content = excluded.content`,
  /** Those of the instances that have written some within the last 10 seconds. */
  read: (instances: readonly string[]) => sql<StoredFigures[]>`
    select instance, content from instance_figures
     where instance = any (${instances as string[]}) and taken_at > now() - interval '10 seconds'`,
})

export type FiguresStore = ReturnType<typeof createFiguresStore>
