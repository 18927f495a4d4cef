"""Training by sentence-level self-distillation.

Rooms: `options` (the configuration), `data` (crops of recordings), `module` (Lightning, without Ray), `loop` (Ray
Train).
"""
