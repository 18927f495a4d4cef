"""Segment a corpus into syllables: `sdhubert segment`, as an entry point for `ray job submit`.

python jobs/segment.py INPUT OUTPUT --checkpoint CHECKPOINT.pt
ray job submit --address http://HEAD:8265 --working-dir jobs -- \
        python segment.py INPUT OUTPUT --checkpoint CHECKPOINT.pt --address auto
"""

import sys

from sdhubert_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "segment")
    main()
