"""Systems compared on the same recordings: each segments, is clustered and scored as by the commands for one alone.

OUTPUT/systems/TITLE/segments/     an output like that of `sdhubert segment`
OUTPUT/systems/TITLE/train/        the same of the recordings that units are made of, where these are others
OUTPUT/systems/TITLE/units-.../    a quantizer like that of `sdhubert cluster`
OUTPUT/systems/TITLE/measured.json what segmenting has cost
OUTPUT/systems/TITLE/ssabx.json    spoken-sentence ABX
OUTPUT/comparison.json             all figures
OUTPUT/index.html                  the page
"""
