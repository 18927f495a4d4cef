"""k-means over a table that may be far larger than memory, and Ward's reduction: from segments to a quantizer.

SEGMENTS ─ source: count ─> sampling: the vectors of the smallest priorities ─> OUT/work/sample/, shards
         ─> fitting: k-means++, then step after step over the shards, each kept as OUT/work/state.safetensors
         ─> Ward ─> OUT/quantizer.safetensors, quantizer.json

The result depends on the rows, the options and the seed: not on files, workers or interruptions. Only where memory or
disk is short, which is told, are fewer vectors taken. Of devices see `kmeans.seeding`; all other steps are exact.

Rooms are imported one by one: many workers take the sample, and none of them needs torch.
"""
