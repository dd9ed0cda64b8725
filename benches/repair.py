"""How well `refine` repairs the back of toys whose true colours are known; see --help."""

import sys

from dreamfusion_ngp.experiments.repair import main

if __name__ == "__main__":
    sys.exit(main())
