"""Train SD-HuBERT on a cluster: `sdhubert train`, as an entry point for `ray job submit`.

From the root of the repository; a job finds its cluster by itself:

export RAY_AUTH_MODE=token
ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/train.py --output s3://BUCKET/runs/base \
    data.root_dir=s3://BUCKET/LibriSpeech scaling.num_workers=8
"""

import sys

from sdhubert_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
