"""`python -m mocapfree_nb.cli`, which is how torchrun and `accelerate launch` start the command line."""

from mocapfree_nb.cli import main

main()
