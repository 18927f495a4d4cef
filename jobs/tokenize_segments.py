"""Give syllables their units: `sdhubert tokenize`, as an entry point for `ray job submit`.

From the root of the repository; a job finds its cluster by itself:

export RAY_AUTH_MODE=token
ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/tokenize_segments.py SEGMENTS --quantizer Q

Its name is not tokenize.py: that would stand in the way of Python's own module for every job in this folder.
"""

import sys

from sdhubert_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "tokenize")
    main()
