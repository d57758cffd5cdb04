import { type Clock, systemClock } from '../../kit/clock.ts'
import { measureEventLoop } from '../../monitoring/event-loop.ts'
import { createRecorder } from '../../monitoring/recorder.ts'
import { createRequestRecorder } from '../../monitoring/request-recorder.ts'

/** Made before all else, so that everything can be timed. */
export const composeMeasurement = (clock: Clock, stack: AsyncDisposableStack) => {
  const recorder = createRecorder({ clock })
  stack.defer(measureEventLoop(systemClock, (ms) => recorder.record('event_loop', ms, false)))
  return { recorder, requestRecorder: createRequestRecorder(recorder, clock) }
}
