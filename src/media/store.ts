import { highestId, lowestId } from '../kit/cursor.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { Sql, TransactionSql } from '../platform/postgres.ts'

export type MediaRow = {
  id: string
  /** Null for an upload, as is `position`. */
  generation_id: string | null
  owner_id: string
  position: number | null
  sha256: string
  content_type: string
  bytes: number
  width: number
  height: number
  /** Null for an image. */
  duration_ms: number | null
  created_at: Date
}

export type ObjectRow = Pick<MediaRow, 'sha256' | 'content_type' | 'bytes' | 'width' | 'height' | 'duration_ms'>
/** An object about to be put, and the id of the claim that protects it from the sweep until it is confirmed. */
export type ClaimedObject = ObjectRow & { claimId: string }
export type NewMedia = Pick<MediaRow, 'id' | 'generation_id' | 'owner_id' | 'position' | 'sha256'>

type PageRequest = { readonly after: string | null; readonly limit: number }

/**
 * Idle limit of the transaction that deletes the bytes of one object: four times the timeout of an S3 request (15 s); the
 * requests for its variants run in parallel. Were the session to end earlier, its row lock would be released while deletes
 * are in flight, and they could remove bytes that another writer has just put.
 */
const maxDeleteMs = 60_000

export const createMediaStore = (sql: Sql, batch: Sql) => {
  /** Uploads, and the outputs of completed generations. Outputs of a generation that is not completed are not visible. */
  const rows = sql`
    (select m.id, m.generation_id, m.owner_id, m.position, m.sha256, o.content_type, o.bytes, o.width, o.height,
            o.duration_ms, m.created_at
       from media m join media_objects o on o.sha256 = m.sha256
       left join generations g on g.id = m.generation_id
      where m.generation_id is null or g.status = 'completed') media`

  return {
    find: async (deadline: Deadline, id: string): Promise<MediaRow | undefined> => {
      const [row] = await deadline.run(sql<MediaRow[]>`select * from ${rows} where id = ${id}`)
      return row
    },

    /** The outputs of a generation in order of creation, which is the order of their ids. Returns up to `limit` + 1 rows. */
    list: (deadline: Deadline, generationId: string, { after, limit }: PageRequest): Promise<MediaRow[]> =>
      deadline.run(sql<MediaRow[]>`
        select * from ${rows}
         where generation_id = ${generationId} and id > ${after ?? lowestId}
         order by id limit ${limit + 1}`),

    /** The outputs of these generations, those of each in order of creation. */
    listEach: (deadline: Deadline, generationIds: readonly string[]): Promise<MediaRow[]> =>
      deadline.run(sql<MediaRow[]>`
        select * from ${rows} where generation_id = any (${generationIds as string[]}::uuid[]) order by id`),

    /** The uploads of a user, newest first. Returns up to `limit` + 1 rows. */
    listUploads: (deadline: Deadline, ownerId: string, { after, limit }: PageRequest): Promise<MediaRow[]> =>
      deadline.run(sql<MediaRow[]>`
        select * from ${rows}
         where generation_id is null and owner_id = ${ownerId} and id < ${after ?? highestId}
         order by id desc limit ${limit + 1}`),

    /** Claims objects, whether new or already stored: the sweep deletes none of them for as long as its claim lives. */
    claim: async (objects: readonly ClaimedObject[]): Promise<void> => {
      // Each object once, in one order: concurrent claims of the same objects wait for each other and cannot deadlock.
      const distinct = [...new Map(objects.map(({ claimId: _, ...object }) => [object.sha256, object])).values()]
      const sorted = distinct.toSorted((a, b) => (a.sha256 < b.sha256 ? -1 : 1))
      // An existing row is updated to its own value, which locks it until the claims are committed.
      await batch`
        with claimed as (
          insert into media_objects ${batch(sorted, 'sha256', 'content_type', 'bytes', 'width', 'height', 'duration_ms')}
          on conflict (sha256) do update set bytes = excluded.bytes
          returning sha256
        )
        insert into media_claims (id, sha256)
        select claims.id, sha256
          from unnest(${objects.map(({ claimId }) => claimId)}::uuid[], ${objects.map(({ sha256 }) => sha256)}::text[])
            as claims (id, sha256) join claimed using (sha256)`
    },

    /**
     * Releases claims in the transaction that inserts the media rows which refer to the objects from now on. False when one
     * of the claims no longer exists: it expired, and its object may be gone.
     */
    confirm: async (tx: TransactionSql, claims: readonly string[]): Promise<boolean> => {
      const { count } = await tx`delete from media_claims where id = any (${claims}::uuid[])`
      return count === claims.length
    },

    /** Releases claims without a media row. Objects that nothing refers to become orphans. */
    discard: async (claims: readonly string[]): Promise<void> => {
      await batch`
        with dropped as (delete from media_claims where id = any (${claims}::uuid[]) returning sha256)
        select note_media_orphans((select array_agg(sha256) from dropped))`
    },

    /** Discards the claims older than this, left by processes that were killed. */
    discardExpired: async (olderThanMs: number): Promise<void> => {
      await batch`
        with dropped as (
          delete from media_claims
           where claimed_at < clock_timestamp() - ${olderThanMs}::float8 * interval '1 millisecond' returning sha256
        )
        select note_media_orphans((select array_agg(sha256) from dropped))`
    },

    insert: async (tx: TransactionSql, media: readonly NewMedia[]): Promise<void> => {
      await tx`insert into media ${tx(media, 'id', 'generation_id', 'owner_id', 'position', 'sha256')}`
    },

    /** Reads a row inserted earlier in the same transaction. */
    findInserted: async (tx: TransactionSql, id: string): Promise<MediaRow> => {
      const [row] = await tx<MediaRow[]>`select * from ${rows} where id = ${id}`
      return row as MediaRow
    },

    /** Returns whether the row existed. Lock its generation for no key update first, to keep the lock order. */
    remove: async (tx: TransactionSql, id: string): Promise<boolean> => {
      const { count } = await tx`delete from media where id = ${id}`
      return count === 1
    },

    /** Candidates for deletion, oldest first; `deleteOrphan` checks whether anything still refers to them. */
    listOrphans: async (limit: number): Promise<string[]> => {
      const found = await batch<{ sha256: string }[]>`
        select sha256 from media_orphans order by since limit ${limit}`
      return found.map(({ sha256 }) => sha256)
    },

    /**
     * Deletes an object unless a media row, a claim or a job refers to it. The check runs under the row's lock, which every
     * new claim and reference waits for. `deleteBytes` must settle within `maxDeleteMs`, and only when no delete is in flight;
     * if it rejects, the transaction rolls back and the object stays an orphan. Skips an orphan that is locked by another
     * sweep or by a transaction that is releasing it; the lock's holder deals with it. Returns whether it was deleted.
     */
    deleteOrphan: (sha256: string, deleteBytes: () => Promise<void>): Promise<boolean> =>
      batch.begin(async (tx) => {
        const { count: locked } = await tx`
          select from media_orphans join media_objects using (sha256) where sha256 = ${sha256} for update skip locked`
        if (locked === 0) return false
        // A separate statement takes a new snapshot, which includes every reference committed before the locks were granted.
        await tx`delete from media_orphans where sha256 = ${sha256}`
        const { count } = await tx`
          delete from media_objects o
           where o.sha256 = ${sha256}
             and not exists (select from media m where m.sha256 = o.sha256)
             and not exists (select from media_claims c where c.sha256 = o.sha256)
             and not exists (select from generation_jobs j where j.reference_sha256 = o.sha256)`
        if (count === 0) return false
        await tx`select set_config('idle_in_transaction_session_timeout', ${String(maxDeleteMs)}, true)`
        await deleteBytes()
        return true
      }) as Promise<boolean>,

    /** Moves an orphan to the end of the queue, so that one that cannot be deleted does not block the others. */
    postponeSweep: async (sha256: string): Promise<void> => {
      await batch`update media_orphans set since = clock_timestamp() where sha256 = ${sha256}`
    },
  }
}

export type MediaStore = ReturnType<typeof createMediaStore>
