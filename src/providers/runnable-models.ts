import type { Model, ProviderName } from '../models/registry.ts'
import type { Provider } from './provider.ts'

export type RunnableModel = {
  readonly model: Pick<Model, 'id' | 'provider_model' | 'kind'>
  readonly provider: Provider
}

/** The models this deployment can run, each with its provider. A model whose provider has no key here is absent. */
export type RunnableModels = {
  find(modelId: string): RunnableModel | undefined
  list(): readonly RunnableModel[]
}

export const createRunnableModels = (
  models: readonly Model[],
  providers: ReadonlyMap<ProviderName, Provider>,
): RunnableModels => {
  const byId = new Map(
    models.flatMap((model) => {
      const provider = providers.get(model.provider)
      return provider === undefined ? [] : [[model.id, { model, provider }] as const]
    }),
  )
  return { find: (modelId) => byId.get(modelId), list: () => [...byId.values()] }
}
