"""The command line of user studies: `mocapfree study make` and `mocapfree study analyse`."""

from pathlib import Path
from typing import Annotated

import typer

from mocapfree_nb.cli.common import Seed, say

app = typer.Typer(no_args_is_help=True, help="Ask people: a page of motions side by side, and what their answers say.")


@app.command()
def make(
    runs: Annotated[list[str], typer.Argument(help="Folders of finished runs, as FOLDER or NAME=FOLDER.")],
    pairs: Annotated[int, typer.Option(help="How many pairs to compare; 6 controls come on top.", min=2)] = 24,
    out: Annotated[Path, typer.Option(help="Page to write (.html); the key goes beside it.")] = Path("study.html"),
    contact: Annotated[str | None, typer.Option(help="Whom raters may ask; shown with the consent.")] = None,
    seed: Seed = 0,
) -> None:
    """Write a page that asks people which of two motions is better. It needs no network and names no system.

    One run:      mocapfree study make runs/demo              before, after, and the model that saw the action
    Several:      mocapfree study make mdm=runs/demo latent=runs/demo-latent
    Over seeds:   mocapfree study make ours=runs/demo ours=runs/demo-seed1
    """
    from mocapfree_nb.study import raters_needed
    from mocapfree_nb.study_page import make_study, save_study

    page, key = make_study(runs, pairs, seed)
    kept = save_study(page, key, out, contact)
    compared = sum(row["kind"] == "compare" for row in key["pairs"])
    say(f"{compared} pairs of {', '.join(key['systems'])}, and {len(page['pairs']) - compared} controls")
    if compared < pairs:
        say(f"there are no more than {compared} pairs of one sentence in these runs; give more runs for more")
    meetings = len(key["systems"]) * (len(key["systems"]) - 1) / 2
    needed = {share: raters_needed(share, 0.75 * compared / meetings, 1.5) for share in (0.6, 0.7)}
    guess = "with a quarter of ties and a design effect of 1.5"
    say(f"to find a preference of 60% takes about {needed[0.6]} raters, of 70% {needed[0.7]}, {guess}")
    say(f"send {out} ({out.stat().st_size / 1000:.0f} kB) to raters; keep {kept} at home, it says which motion is whose")


@app.command()
def analyse(
    answers: Annotated[list[Path], typer.Argument(help="The files that raters saved.")],
    key: Annotated[Path, typer.Option(help="The key that was written beside the page.")] = Path("study-key.json"),
    out: Annotated[Path, typer.Option(help="Folder for text, table, figure and numbers.")] = Path("study-results"),
    seed: Seed = 0,
) -> None:
    """Say what raters preferred: who counts, sign tests, strengths, agreement, sides, how many raters it takes.

    mocapfree study analyse answers/*.json --key study-key.json
    """
    from mocapfree_nb.reading import read_json
    from mocapfree_nb.study import analyse as analyse_answers
    from mocapfree_nb.study_paper import save_results, study_table, study_text

    results = analyse_answers(answers, read_json(key), seed=seed)
    path = save_results(results, out)
    say(f"{study_text(results)}\n\n{study_table(results)}\n\nsaved {path}, and figure.pdf, figure.png, results.json beside it")
