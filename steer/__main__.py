"""`python -m steer`, and `torchrun -m steer` for several processes."""

from steer.cli import main

main()
