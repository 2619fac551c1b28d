"""`python -m nonlocalnet` is the command `nonlocalnet`."""

import sys

from nonlocalnet.cli import main

sys.exit(main())
