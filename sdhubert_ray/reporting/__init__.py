"""Reports: what an output, a training run or an evaluation holds, as one page that opens anywhere.

`gather` looks at what is named and makes the `content` of a page of it; `page` puts that into one self-contained file.
"""

from sdhubert_ray.reporting.gather import ReportOptions, gather
from sdhubert_ray.reporting.page import to_html

__all__ = ["ReportOptions", "gather", "to_html"]
