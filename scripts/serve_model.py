"""Serves a trained run: python scripts/serve_model.py --run results/train_model/stdlib, or make serve RUN=stdlib.

OpenAI's completions API at /v1, a page to try the model at /, how it is at /health and /metrics (docs/serving.md).
Writes nothing. Ends with 0 at Ctrl-C or SIGTERM, with 2 where it cannot begin.
"""

import sys

from makelm import serving

if __name__ == "__main__":
    sys.exit(serving.main(sys.argv[1:]))
