"""How well `refine --geometry` repairs the shape of toys whose true surface is known; see --help."""

import sys

from dreamfusion_ngp.experiments.reshape import main

if __name__ == "__main__":
    sys.exit(main())
