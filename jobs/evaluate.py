"""Evaluate segments, units or embeddings: `sdhubert evaluate`, as an entry point for `ray job submit`.

From the root of the repository; a job finds its cluster by itself:

export RAY_AUTH_MODE=token
ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/evaluate.py boundary SEGMENTS REFERENCES
ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/evaluate.py purity SEGMENTS REFERENCES
ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/evaluate.py ssabx AUDIO_ROOT TRIPLETS
"""

import sys

from sdhubert_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
