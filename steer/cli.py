"""The command line. Each command imports its doorway when it runs, so that --help is quick."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from steer import __version__
from steer.config.annotation import AnnotateConfig
from steer.config.comparison import CompareConfig
from steer.config.conditioning import TargetsConfig
from steer.config.demo import DemoConfig, WorldConfig
from steer.config.evaluation import EvaluateConfig
from steer.config.export import ExportConfig, SoupConfig
from steer.config.generation import GenerateConfig
from steer.config.iteration import IterateConfig
from steer.config.labelling import FitConfig, LabelConfig
from steer.config.rows import DataConfig
from steer.config.serve import ServeConfig
from steer.config.training import TrainConfig
from steer.errors import SteerError
from steer.options import PanelGroup, options


@click.group(cls=PanelGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Make a language model steerable from logged data, and compare that with the alternatives."""


@cli.command()
@options(DataConfig)
def data(config: DataConfig) -> None:
    """Write rows: the embedded world, or a file in any known layout."""
    from steer.rows.command import data_command

    click.echo(data_command(config))


@cli.command()
@options(FitConfig)
def fit(config: FitConfig) -> None:
    """Fit a scorer (an attribute model) on human scores."""
    from steer.labelling.command import fit_command

    click.echo(fit_command(config))


@cli.command()
@options(LabelConfig)
def label(config: LabelConfig) -> None:
    """Score rows and give them levels."""
    from steer.labelling.command import label_command

    click.echo(label_command(config))


@cli.command()
@options(AnnotateConfig)
def annotate(config: AnnotateConfig) -> None:
    """Have pairs of responses compared by annotators, to train on."""
    from steer.annotation.command import annotate_command

    click.echo(annotate_command(config))


@cli.command()
@options(TrainConfig)
def train(config: TrainConfig) -> None:
    """Fine-tune a policy on labelled rows."""
    from steer.training.reasons import explained

    with explained(config.output):
        from steer.training.command import train_command

        click.echo(train_command(config))


@cli.command()
@options(GenerateConfig)
def generate(config: GenerateConfig) -> None:
    """Answer prompts at target levels."""
    from steer.generation.command import generate_command

    click.echo(generate_command(config))


@cli.command()
@options(ExportConfig)
def export(config: ExportConfig) -> None:
    """Write a policy that any server steers, or rows for trl."""
    from steer.export.command import export_command

    click.echo(export_command(config))


@cli.command()
@options(TargetsConfig)
def targets(config: TargetsConfig) -> None:
    """Show which targets the data supports, and the best of them."""
    from steer.conditioning.command import targets_command

    click.echo(targets_command(config))


@cli.command()
@options(ServeConfig)
def serve(config: ServeConfig) -> None:
    """Serve a policy: OpenAI's API with targets, and a page with sliders."""
    from steer.serve.command import serve_command

    click.echo(serve_command(config))


@cli.command()
@options(IterateConfig)
def iterate(config: IterateConfig) -> None:
    """Generate, rescore, relabel with what was obtained, retrain; round by round."""
    from steer.iteration.command import iterate_command

    click.echo(iterate_command(config))


@cli.command()
@options(EvaluateConfig)
def evaluate(config: EvaluateConfig) -> None:
    """Judge policies or responses: dials, rewards, win-rates, diversity; writes a report."""
    from steer.evaluation.command import evaluate_command

    click.echo(evaluate_command(config))


@cli.command()
@options(CompareConfig)
def compare(config: CompareConfig) -> None:
    """Train methods on one split and budget and compare them; writes a report."""
    from steer.comparison.command import compare_command
    from steer.run_folder import read_done

    click.echo(compare_command(config))
    if not config.dry_run and not read_done(Path(config.output)):  # runs failed: what follows in a script needs them
        sys.exit(1)


@cli.command()
@options(DemoConfig)
def demo(config: DemoConfig) -> None:
    """Make a real chat model steerable: log its answers, label, train, and measure what asking obtains."""
    from steer.demo import demo as run

    click.echo(run(config))


@cli.command()
@options(WorldConfig)
def world(config: WorldConfig) -> None:
    """Run the whole pipeline on the embedded world, where ground truth is known."""
    from steer.world import world as run

    click.echo(run(config))


@cli.command()
@options(SoupConfig)
def soup(config: SoupConfig) -> None:
    """Average the adapters of policies that were trained for different rewards, by a preference over these."""
    from steer.export.command import soup_command

    click.echo(soup_command(config))


@cli.command()
@click.argument("name", metavar="NAME", nargs=-1)
@click.option("--for", metavar="ROWS", help="Say of each method whether it can train on these rows, or why not.")
def methods(name: tuple[str, ...], **asked: str | None) -> None:
    """Print the table of methods, or what the settings of some mean.

    NAME: Methods to explain, or with --for to try; default: the table of all.
    """
    from steer.methods import description, table

    rows = asked["for"]
    if rows is None:
        click.echo("\n\n\n".join(map(description, name)) or table())
        return
    from steer.training.suited import suited_table

    click.echo(suited_table(rows, name))


def _fail(message: str, code: int = 1) -> None:
    from steer.progress import PREFIX  # loads more than help needs

    click.echo(PREFIX + " ".join(message.splitlines()), err=True)
    sys.exit(code)


def main(command: click.Command = cli) -> None:
    """Run the command line: an error that a user can fix becomes one line on standard error and exit code 1."""
    try:
        command(prog_name="steer" if command is cli else None, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(1)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "steer"
        turns = isinstance(error, click.NoSuchOption) and error.option_name == "--turns"
        chosen = ' Turns are chosen where rows are made: "steer data" and "steer label" take --turns.' if turns else ""
        _fail(f'{error.format_message()}{chosen} See "{path} --help".')
    except (SteerError, click.ClickException) as error:
        _fail(error.format_message() if isinstance(error, click.ClickException) else str(error))
    except BrokenPipeError:  # the reader of the output has gone
        sys.stdout = None  # else Python complains when it flushes on exit
        sys.exit(1)
    except OSError as error:
        if error.strerror is None:  # not from the file system
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror}. Check the path, its permissions and the room on the disk.")
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; run the same command again to resume.", 130)
