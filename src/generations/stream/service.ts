import type { StreamPermission } from '../../access/permission-recheck.ts'
import type { Caller } from '../../access/principal.ts'
import type { RequestContext } from '../../http/request-context.ts'
import type { Generation } from '../model.ts'
import { doneText } from './delivery.ts'
import type { Hub } from './hub.ts'
import { isFinal, parseEventId } from './state.ts'

type Dependencies = {
  readonly hub: Pick<Hub, 'open'>
  readonly get: (context: RequestContext, caller: Caller, id: string) => Promise<Generation>
}

/**
 * The event stream of one generation. It synchronizes state and is not a log: intermediate states may be skipped, and a client
 * that reconnects gets the difference to the state encoded in `lastEventId`.
 */
export const createGenerationStream =
  ({ hub, get }: Dependencies) =>
  /** Text: the generation has ended, and this is its last event. Undefined: the client has received that event already. */
  async (
    context: RequestContext,
    caller: Caller,
    permission: StreamPermission,
    { address, lastEventId }: { address: string | undefined; lastEventId: string | null },
  ): Promise<ReadableStream<Uint8Array> | string | undefined> => {
    const { id } = permission.ref
    const generation = await get(context, caller, id)
    const sent = parseEventId(lastEventId)
    if (!isFinal(generation.status)) return hub.open(id, { permission, address }, sent)
    return sent?.status === generation.status ? undefined : doneText(generation)
  }

export type GenerationStream = ReturnType<typeof createGenerationStream>
