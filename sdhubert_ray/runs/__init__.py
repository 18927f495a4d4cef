"""One segmentation job, from its options to the last commit.

Rooms: `config` (options of a job), `planning` (an input less what an output has), `stages` (read, decode, encode,
cut, write: tables in, tables out), `session` (a run's hold on an output), `execute` (check and plan a job, do it here
or on Ray); `connect` (join a cluster, or start one), `placement` (what fits on its nodes), `pipeline` (the Ray Data
chain), `watch` (counters, lost nodes), `interrupts` (our own, no Ctrl-C), `profile` (where the time goes); `devices`,
`precision`, `engines` and `probing` (what is left to the machine or cluster: what encodes, how finely, where, who
reads headers); `resegment` (jobs from saved frame features), `estimate` (what a job would take). They are imported
one by one, as half of them need a second for torch or Ray.
"""
