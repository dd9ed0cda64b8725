"""How true the colours of the texture stage are, on toys whose colours are known; see --help."""

import sys

from dreamfusion_ngp.experiments.texture import main

if __name__ == "__main__":
    sys.exit(main())
