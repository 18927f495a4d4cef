"""Training by sentence-level self-distillation.

Rooms: `options` (the configuration); `recordings`, `checkpoints`, `metrics`, `runs` (what is in the folder of a run),
`standing` (how far it is), `export`; `data` (crops in their order), `perturbations` (how they are seen), `fetching`
(once a machine), `start` (the first weights), `watching` (collapse and score), `module` (Lightning), `logs`,
`callbacks`, `fitting` (a worker's training, without Ray); `loop` (Ray Train).
"""
