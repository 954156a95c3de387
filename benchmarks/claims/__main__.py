"""The command line of the claims study."""

import click

from benchmarks.claims.study import ClaimsConfig, study
from steer.cli import main
from steer.options import options


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@options(ClaimsConfig)
def claims(config: ClaimsConfig) -> None:
    """Train what each claim of the field compares, and judge all claims by a held-out scorer."""
    click.echo(study(config))


if __name__ == "__main__":  # the processes that do the runs import this file too
    main(claims)
