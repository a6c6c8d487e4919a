"""python -m inventory_enqueue."""

from inventory_enqueue.cli.main import main

main()
