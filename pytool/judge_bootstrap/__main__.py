"""`python -m judge_bootstrap` is `judge-bootstrap`."""

from judge_bootstrap.cli.main import main

main()
